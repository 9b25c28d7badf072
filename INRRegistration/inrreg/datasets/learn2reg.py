"""Learn2Reg's folders: images by pairs in a JSON file, beside them masks, labels and landmarks of the same name.

Source: A. Hering et al., IEEE TMI 42(3), 2023, and the challenge's `*_dataset.json`. Landmarks are zero-based voxel
indices, a line each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from inrreg.geometry import Grid
from inrreg.images import read_header
from inrreg.landmarks import Points, write_points
from inrreg.protocol import UserError, read_json

BESIDE = {"mask": ("masks",), "labels": ("labels",), "landmarks": ("landmarks", "keypoints")}
"""Folders that may stand in place of `images` in an image's path, the better first: keypoints were found by machine."""


def cases(root: Path, folder: Path) -> dict[str, dict[str, str]]:
    """The files of each validation pair, as entries of `Job`; landmarks are written to `folder` in LPS mm.

    Raises `UserError` (code `dataset`) where `root` has no JSON file with pairs, or a file of a pair is missing.
    """
    root = Path(root)
    for path in sorted(root.glob("*.json")):
        content = read_json(path)
        pairs = content.get("registration_val") if isinstance(content, dict) else None
        if pairs and all(isinstance(pair, dict) and {"fixed", "moving"} <= set(pair) for pair in pairs):
            return {_name(pair): _entries(root, pair, Path(folder)) for pair in pairs}
    raise UserError(
        "dataset", f"{root} has no JSON file with pairs under 'registration_val'.", "Give the task's folder."
    )


def _name(pair: dict[str, Any]) -> str:
    return "-".join(Path(pair[side]).name.split(".")[0] for side in ("fixed", "moving"))


def _entries(root: Path, pair: dict[str, Any], folder: Path) -> dict[str, str]:
    entries: dict[str, str] = {}
    for side in ("fixed", "moving"):
        image = root / pair[side]
        if not image.is_file():
            raise UserError("dataset", f"The image {image} is missing.", "Is the task's folder complete?")
        entries[side] = str(image.resolve())
        for kind, names in BESIDE.items():
            for name in reversed(names):  # the better takes the other's place
                folder_of_kind = image.parent.with_name(image.parent.name.replace("images", name))
                stem = image.name.split(".")[0]
                other = folder_of_kind / (f"{stem}.csv" if kind == "landmarks" else image.name)
                if other != image and other.is_file():
                    path = _landmarks(other, image, folder) if kind == "landmarks" else str(other.resolve())
                    entries[f"{side}_{kind}"] = path
    for kind in ("labels", "landmarks"):  # of one image alone they say nothing
        if f"fixed_{kind}" not in entries or f"moving_{kind}" not in entries:
            entries.pop(f"fixed_{kind}", None)
            entries.pop(f"moving_{kind}", None)
    return entries


def _landmarks(path: Path, image: Path, folder: Path) -> str:
    try:
        indices = np.atleast_2d(np.loadtxt(path, delimiter=",", ndmin=2))
    except ValueError:
        raise UserError("dataset", f"{path} holds something other than voxel indices.") from None
    if indices.shape[1] != 3:
        raise UserError("dataset", f"{path} has {indices.shape[1]} columns, not three.")
    target = folder / f"{path.parent.name}-{path.name}"
    folder.mkdir(parents=True, exist_ok=True)
    write_points(target, Points(Grid.of(read_header(image, "image")).to_world(indices)))
    return str(target.resolve())
