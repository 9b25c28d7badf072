"""Bugs that are put in one at a time, to show that the fuzzing finds what it claims to find.

    python -m Testing.faults.seeded

Each is a patch of the program that a slip could have made, and the class of input that has to find it, within that
class's quota. Prints after how many inputs each was found; ends with 1 where one was not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import SimpleITK as sitk

from inrreg import abandoned, images, intensities, landmarks, protocol, transforms
from inrreg.geometry import Grid
from INRRegistrationLib import nrrd
from Testing.faults import families, panel_process
from Testing.faults.families import FAMILIES
from Testing.faults.fuzz import fuzz


@dataclass(frozen=True)
class Bug:
    """A slip, how it is put in, and the class that has to find it."""

    name: str
    put_in: Callable[[], AbstractContextManager]
    family: str


def _finite_unchecked(array: np.ndarray, name: str) -> None:
    if array.min() == array.max():
        raise protocol.UserError("image", f"The {name} image has the same value everywhere.", "Choose another volume.")


def _constant_unchecked(array: np.ndarray, name: str) -> None:
    if not np.isfinite(array).all():
        raise protocol.UserError("image", f"The {name} image has NaN or infinite values.")


def _blurred(labels: sitk.Image, reference: sitk.Image | None) -> sitk.Image:
    if reference is None or Grid.of(labels).equals(Grid.of(reference)):
        return labels
    return sitk.Resample(labels, reference, sitk.Transform(), sitk.sitkLinear, 0)


def _loaded_from_anywhere(folder: Path) -> protocol.Job:
    return protocol.Job.from_dict(protocol.read_json(Path(folder) / "job.json"))


def _position_unchecked(values: list, place: str) -> list[float]:
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError):
        raise landmarks._FormatError(f"has no number at {place}") from None


def _in_range(item, default, value):
    try:
        return type(default)(value)
    except (TypeError, ValueError, OverflowError):
        raise protocol.UserError("setting", f"Setting '{item.name}' needs another value.") from None


def _read_without_rest(self, process, buffers) -> None:
    for line in process.readAllStandardOutput().data().split(b"\n"):
        if line.strip():
            self._take_event(line.decode("utf-8", "replace").rstrip())


def _read_strictly(self, process, buffers) -> None:
    *lines, buffers["out"] = (buffers["out"] + process.readAllStandardOutput().data()).split(b"\n")
    for line in lines:
        if line.strip():
            self._take_event(line.decode("utf-8").rstrip())


def _stale_taken(self, line: str) -> None:
    try:
        self.event.emit(protocol.Message.decode(line, protocol.EVENTS))
    except ValueError:
        self._take_text(line)


def _decoded_loosely(line: str, kinds: dict) -> protocol.Message:
    data = protocol.json.loads(line)
    return protocol.Message(data.pop("kind"), data, data.pop("request", ""), data.pop("job", ""))


def _grid_unchecked(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with Path(path).open("rb") as file:
        fields = nrrd._header(file)
        sizes = [int(size) for size in fields["sizes"].split()]
        array = np.fromfile(file, np.float32, int(np.prod(sizes)))
    return array.reshape(sizes[::-1]), np.eye(4)


def _field_unchecked(path: Path) -> transforms.PointMap:
    if Path(path).suffix == ".tfm":
        return transforms.simplify(sitk.ReadTransform(str(path)))
    return transforms.DisplacementGrid.of(sitk.ReadImage(str(path)))


def _process(name: str, bug: Callable) -> Callable[[], AbstractContextManager]:
    return lambda: patch.object(panel_process.module().WorkerProcess, name, bug)


BUGS = (
    Bug("NaN in an image is overlooked", lambda: patch.object(images, "check", _finite_unchecked), "image with NaN"),
    Bug("a constant image is taken", lambda: patch.object(images, "check", _constant_unchecked), "image of one value"),
    Bug("images of one voxel are taken", lambda: patch.object(images, "_SMALLEST", 1), "image of few voxels"),
    Bug("a header's size is believed", lambda: patch.object(images, "_check_size", lambda *_: None),
        "image header that claims too much"),
    Bug("a grid's numbers are believed", lambda: patch.object(images, "_check_geometry", lambda *_: None),
        "image of odd origin"),
    Bug("an intensity beyond all squares is taken", lambda: patch.object(intensities, "_LARGEST", np.inf),
        "image of extreme values"),
    Bug("an empty mask is taken", lambda: patch.object(images, "read_mask", lambda path, name, reference=None:
        images.on_grid(sitk.Cast(images.read_scalar(path, name) != 0, sitk.sitkUInt8), reference)), "mask"),
    Bug("labels are interpolated", lambda: patch.object(images, "on_grid", _blurred), "label image"),
    Bug("a landmark may be NaN", lambda: patch.object(landmarks, "_position", _position_unchecked),
        "pair of landmark files"),
    Bug("RAS landmarks are taken for LPS", lambda: patch.object(landmarks, "_to_lps", lambda position, _: position),
        "well-formed landmark file"),
    Bug("a transform's NaN is believed", lambda: patch.object(families, "read_transform", _field_unchecked),
        "displacement field"),
    Bug("a job names files anywhere", lambda: patch.object(protocol.Job, "load", _loaded_from_anywhere), "job file"),
    Bug("a setting's range is forgotten", lambda: patch.object(protocol, "_checked_scalar", _in_range), "settings"),
    Bug("an error quotes what it is given as it is", lambda: patch.object(protocol, "_one_line", str), "settings"),
    Bug("the rest of a cut line is dropped", _process("_read", _read_without_rest), "event stream"),
    Bug("noise that is no text raises", _process("_read", _read_strictly), "event stream"),
    Bug("answers to an earlier request are taken", _process("_take_event", _stale_taken), "event stream"),
    Bug("a message is not checked", lambda: patch.object(protocol.Message, "decode", _decoded_loosely), "message line"),
    Bug("the panel believes a result's header", lambda: patch.object(nrrd, "read", _grid_unchecked),
        "result as the panel reads it"),
    Bug("a model's numbers are believed", lambda: patch("inrreg.deformation._array", lambda values, *_, **__:
        np.array(values, dtype=np.float64)), "model"),
    Bug("a failed registration leaves its folder", lambda: patch.object(abandoned, "remove", lambda *_: None),
        "registration"),
)  # fmt: skip


def found_after(bug: Bug, quota: int | None = None, number: int = 0) -> int:
    """The number of inputs of its class after which a bug is found; 0 where it is not."""
    family = FAMILIES[bug.family]
    with bug.put_in():
        row = fuzz(family, quota or family.quota, number)
    return row["drawn"] if row["finding"] else 0


def main() -> int:
    missed = 0
    for bug in BUGS:
        count = found_after(bug)
        missed += not count
        print(f"{bug.name:44} {bug.family:36} {f'found after {count}' if count else 'NOT FOUND'}", flush=True)
    print(f"{len(BUGS) - missed} of {len(BUGS)} seeded bugs found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
