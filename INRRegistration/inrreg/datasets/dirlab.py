"""DIR-Lab's 4DCT and COPDgene pairs: raw int16 images without a header, landmarks as one-based voxel indices.

Source: R. Castillo et al., Physics in Medicine and Biology 54(7), 2009, and 58(9), 2013. The inhaled image is the fixed
one, as in the papers whose figures stand beside ours. The files say nothing of orientation: the axes are taken as they
come, which leaves distances as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from inrreg.images import write_image
from inrreg.protocol import UserError

SLICE = 2.5
"""Spacing of slices, mm."""


@dataclass(frozen=True)
class Collection:
    """One of the two: in-plane `size` and `spacing` (mm) by case, the names of its files, and published errors.

    `image` and `points` are patterns with the groups `case` and `phase`; `phases` are those of the fixed and moving
    image. `published` has mean errors by method (mm, voxel-snapped), of each case in order.
    """

    title: str
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    image: str
    points: str
    phases: tuple[str, str]
    published: dict[str, tuple[float, ...]]


COLLECTIONS = {
    "4dct": Collection(
        "DIR-Lab 4DCT",
        (256,) * 5 + (512,) * 5,
        (0.97, 1.16, 1.15, 1.13, 1.10) + (0.97,) * 5,
        r"case(?P<case>\d+)_t(?P<phase>00|50)(_s|-ssm)?\.(img|raw)",
        r"case(?P<case>\d+)_(dirlab)?300_t(?P<phase>00|50)_xyz(_r\d)?\.txt",
        ("00", "50"),
        {
            "no registration": (4.01, 4.65, 6.73, 9.42, 7.10, 11.10, 11.59, 15.16, 7.82, 7.63),
            "isoPTV (2016)": (0.76, 0.77, 0.90, 1.24, 1.12, 0.85, 0.80, 1.34, 0.92, 0.82),
            "GraphRegNet (2021)": (0.86, 0.90, 1.06, 1.45, 1.60, 1.59, 1.74, 1.46, 1.58, 1.71),
            "VIRNet (2021)": (0.99, 0.98, 1.11, 1.37, 1.32, 1.15, 1.05, 1.22, 1.11, 1.05),
            "IDIR (2022)": (0.76, 0.76, 0.94, 1.32, 1.23, 1.09, 1.12, 1.21, 1.22, 1.01),
            "dual-branch INR (2026)": (0.76, 0.76, 0.88, 1.27, 1.16, 0.95, 0.93, 1.10, 1.00, 0.94),
        },
    ),
    "copd": Collection(
        "DIR-Lab COPDgene",
        (512,) * 10,
        (0.625, 0.645, 0.652, 0.590, 0.647, 0.633, 0.625, 0.586, 0.664, 0.742),
        r"copd(?P<case>\d+)_(?P<phase>[ie])bhct\.(img|raw)",
        r"copd(?P<case>\d+)_300_(?P<phase>[ie])bh_xyz(_r\d)?\.txt",
        ("i", "e"),
        {
            "no registration": (25.90, 21.77, 12.29, 30.90, 30.90, 28.32, 21.66, 25.57, 14.84, 22.48),
            "isoPTV (2016)": (0.77, 2.22, 0.82, 0.85, 0.77, 0.86, 0.74, 0.81, 0.83, 0.92),
            "GraphRegNet (2021)": (1.38, 2.09, 1.22, 1.58, 1.37, 1.10, 1.19, 1.19, 0.99, 1.38),
            "IDIR (2022)": (1.55, 2.66, 1.35, 1.46, 1.43, 66.46, 1.39, 1.72, 1.28, 1.62),
            "dual-branch INR (2026)": (1.11, 2.07, 1.11, 1.10, 1.09, 1.40, 1.04, 1.27, 0.95, 1.21),
        },
    ),
}
"""The published figures are those of Gebauer et al., MIDL 2026, table 1."""


def cases(root: Path, name: str, folder: Path) -> dict[int, dict[str, str]]:
    """The files of each complete case below `root`, as entries of `Job`, its images written to `folder` as NRRD.

    Raises `UserError` (code `dataset`) where there is no case, or an image has not the size that it must have.
    """
    collection, found = COLLECTIONS[name], {}
    for path in sorted(path for path in Path(root).rglob("*") if path.is_file()):
        for kind, pattern in (("", collection.image), ("_landmarks", collection.points)):
            if match := re.fullmatch(pattern, path.name, re.IGNORECASE):
                side = ("fixed", "moving")[collection.phases.index(match["phase"].lower())]
                found.setdefault(int(match["case"]), {})[side + kind] = path
    wanted = {"fixed", "moving", "fixed_landmarks", "moving_landmarks"}
    complete = {case: files for case, files in sorted(found.items()) if set(files) == wanted and 1 <= case <= 10}
    if not complete:
        hint = "Give the folder that the case folders lie in, as they were unpacked."
        raise UserError("dataset", f"No complete case of {collection.title} is in {root}.", hint)
    result = {}
    for case, files in complete.items():
        entries = {entry: str(path.resolve()) for entry, path in files.items()}
        for side in ("fixed", "moving"):
            path = Path(folder) / f"{name}-{case}-{side}.nrrd"
            source = files[side].stat()
            if not path.exists() or path.stat().st_mtime_ns < source.st_mtime_ns:
                write_image(read_image(files[side], collection, case), path)
            entries[side] = str(path.resolve())
        result[case] = entries
    return result


def read_image(path: Path, collection: Collection, case: int) -> sitk.Image:
    """A case's image in Hounsfield units; the number of slices is what the file's size says."""
    size, spacing = collection.size[case - 1], collection.spacing[case - 1]
    values = np.fromfile(path, "<i2")
    if not values.size or values.size % (size * size) or path.stat().st_size % 2:
        hint = "Is it unpacked completely, and of this case?"
        raise UserError("dataset", f"{path} does not hold slices of {size} x {size} voxels of two bytes.", hint)
    # Air is 0 in the files as they are distributed.
    values = np.maximum(values, -1024) if values.min() < 0 else values - np.int16(1024)
    image = sitk.GetImageFromArray(values.reshape(-1, size, size))
    image.SetSpacing((spacing, spacing, SLICE))
    return image
