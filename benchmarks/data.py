"""Where the evaluation images lie, and how they are read. Nothing of them belongs to this repository."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from inrreg.landmarks import read_points

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Pair:
    """Two images of one patient with corresponding landmarks.

    Landmarks are (N, 3) float64 in LPS mm, row i of the one corresponding to row i of the other; `region`
    is (N,) text, the part of the body that a landmark is reported under. `mask`, on the fixed grid, says where the
    deformation's regularity counts; no method is given it.
    """

    name: str
    fixed: sitk.Image
    moving: sitk.Image
    fixed_landmarks: np.ndarray
    moving_landmarks: np.ndarray
    region: np.ndarray
    mask: sitk.Image


def data_root() -> Path:
    """The evaluation data: the folder in INRREG_DATA, else `shared/data` beside the repository.

    Exits with a sentence that names both where there is none.
    """
    folder = Path(os.environ.get("INRREG_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        raise SystemExit(f"There is no evaluation data in {folder}. Set INRREG_DATA to the folder that holds liver/.")
    return folder


def liver_pairs(root: Path | None = None) -> Iterator[Pair]:
    """The liver MR pairs, '18a' and so on (subject and moving image), in the order of their names.

    Exits with a sentence where `root`, or else `data_root()`, holds none.
    """
    folder = (root or data_root()) / "liver"
    moving_paths = sorted(folder.glob("subject*/moving_?.nrrd"))
    if not moving_paths:
        raise SystemExit(f"There are no liver images in {folder}. Set INRREG_DATA to the folder that holds liver/.")
    for moving_path in moving_paths:
        subject = moving_path.parent
        fixed_points = read_points(subject / "fixed_landmarks.csv")
        moving_points = read_points(subject / f"{moving_path.stem}_landmarks.csv")
        if fixed_points.columns["region"] != moving_points.columns["region"]:
            raise SystemExit(f"The landmark files of {moving_path} and its fixed image do not correspond.")
        fixed = sitk.ReadImage(str(subject / "fixed.nrrd"), sitk.sitkFloat32)
        yield Pair(
            name=subject.name.removeprefix("subject") + moving_path.stem.removeprefix("moving_"),
            fixed=fixed,
            moving=sitk.ReadImage(str(moving_path), sitk.sitkFloat32),
            fixed_landmarks=fixed_points.positions,
            moving_landmarks=moving_points.positions,
            region=np.array(fixed_points.columns["region"]),
            mask=body(fixed),
        )


def body(image: sitk.Image) -> sitk.Image:
    """The body of an MR image by Otsu's threshold, closed and filled: 0 and 1."""
    mask = sitk.BinaryMorphologicalClosing(sitk.OtsuThreshold(image, 0, 1), (6, 6, 1))
    return sitk.BinaryFillhole(mask)
