"""Landmark files: CSV, Slicer markups (.mrk.json, .fcsv) and DIR-Lab text, all as LPS millimetres.

Tables in .csv are LPS; Slicer's files say which system they use; DIR-Lab's hold voxel indices.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inrreg.protocol import UserError

if TYPE_CHECKING:
    import SimpleITK as sitk

AXES = ("x", "y", "z")
SUFFIXES = (".csv", ".mrk.json", ".fcsv", ".txt")
MARKUPS_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
FCSV_COLUMNS = ["id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc", "associatedNodeID"]


@dataclass(frozen=True)
class Points:
    """Landmarks in world coordinates.

    `positions` is (N, 3) float64 in LPS mm. `columns` holds what else a table says, by header name, and
    `labels` the points' names; each has N entries, or `labels` is empty.
    """

    positions: np.ndarray
    columns: dict[str, list[str]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.positions)

    def moved(self, positions: np.ndarray) -> Points:
        """The same points elsewhere: `positions` is (N, 3) float64 in LPS mm."""
        return replace(self, positions=positions)


def read_points(path: str | Path, image: sitk.Image | None = None) -> Points:
    """The points of a landmark file, in the order of the file.

    `image` is the image whose voxels a DIR-Lab text counts (from one); other formats do not need it.
    Raises `UserError` (code `points`) when the file is missing, not readable in its format, or empty, or
    holds something other than finite numbers.
    """
    path = Path(path)
    kind = _kind(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError("points", f"The landmark file {path} does not exist.") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserError("points", f"The landmark file {path} cannot be read ({reason}).") from None
    try:
        if kind == ".csv":
            points = _parse_csv(text)
        elif kind == ".mrk.json":
            points = _parse_markups(text)
        elif kind == ".fcsv":
            points = _parse_fcsv(text)
        else:
            points = _parse_dirlab(text, image)
    except _FormatError as error:
        raise UserError("points", f"The landmark file {path} {error}.", error.hint) from None
    if not len(points):
        raise UserError("points", f"The landmark file {path} holds no points.")
    return points


@dataclass(frozen=True)
class Pairs:
    """Corresponding landmarks: `fixed` and `moving` (N, 3) LPS mm, with the pairs' N `names`.

    `matched_by` is "label" or "order"; `missing` names the landmarks that one file alone has, by file.
    """

    fixed: np.ndarray
    moving: np.ndarray
    names: tuple[str, ...]
    matched_by: str
    missing: dict[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.fixed)

    def only(self, chosen: np.ndarray) -> Pairs:
        """The pairs where `chosen` (N,) bool is set."""
        names = tuple(name for name, keep in zip(self.names, chosen, strict=True) if keep)
        return replace(self, fixed=self.fixed[chosen], moving=self.moving[chosen], names=names)


def pair(fixed: Points, moving: Points) -> Pairs:
    """Match two lists: by label where the labels of each are unique and some are common, else by order.

    Labels that are not common are named in `missing`. Raises `UserError` (code `points`) for lists of different
    lengths that have to be matched by order.
    """
    common = set(fixed.labels) & set(moving.labels)
    if common and all(_names_every_point(points) for points in (fixed, moving)):
        index = {label: number for number, label in enumerate(moving.labels)}
        rows = [number for number, label in enumerate(fixed.labels) if label in common]
        names = tuple(fixed.labels[number] for number in rows)
        missing = {
            name: tuple(label for label in points.labels if label not in common)
            for name, points in (("fixed", fixed), ("moving", moving))
        }
        others = [index[name] for name in names]
        return Pairs(fixed.positions[rows], moving.positions[others], names, "label", missing)
    if len(fixed) != len(moving):
        raise UserError(
            "points",
            f"{len(fixed)} fixed and {len(moving)} moving landmarks do not correspond.",
            "Give both lists the same order and length, or the same labels.",
        )
    names = fixed.labels or tuple(str(number) for number in range(1, len(fixed) + 1))
    return Pairs(fixed.positions, moving.positions, names, "order", {"fixed": (), "moving": ()})


def _names_every_point(points: Points) -> bool:
    return all(points.labels) and len(set(points.labels)) == len(points)


def write_points(path: str | Path, points: Points) -> None:
    """Write points as .csv, .mrk.json or .fcsv, in LPS mm; the file appears complete or not at all.

    The two Slicer formats hold positions and labels, and not the extra columns.
    Raises `UserError` (code `points`) for another format or where the file cannot be written.
    """
    path = Path(path)
    kind = _kind(path)
    if kind == ".csv":
        text = _format_csv(points)
    elif kind == ".mrk.json":
        text = _format_markups(points)
    elif kind == ".fcsv":
        text = _format_fcsv(points)
    else:
        raise UserError("points", f"Points cannot be written as {kind}.", "Use .csv, .mrk.json or .fcsv.")
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise UserError("points", f"The landmark file {path} cannot be written ({error.strerror}).") from None


class _FormatError(Exception):
    """What is wrong with a file's content; completes the sentence 'The landmark file F ...'."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def _kind(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise UserError(
        "points", f"{path.name} is not a landmark file of a known format.", f"Known are {', '.join(SUFFIXES)}."
    )


def _position(values: Sequence[Any], place: str) -> list[float]:
    """Three finite numbers, from text or from numbers."""
    if len(values) != 3:
        raise _FormatError(f"needs three coordinates at {place}")
    position = []
    for value in values:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise _FormatError(f"has {value!r} where {place} needs a number") from None
        if not math.isfinite(number):
            raise _FormatError(f"has a coordinate that is not finite at {place}")
        position.append(number)
    return position


def _array(positions: Iterable[Sequence[float]]) -> np.ndarray:
    return np.array(list(positions), dtype=np.float64).reshape(-1, 3)


def _to_lps(position: list[float], system: Any) -> list[float]:
    """A position in the named system as LPS. Slicer has written the systems as words and as numbers."""
    name = str(system).strip().upper()
    if name in ("LPS", "1"):
        return position
    if name in ("RAS", "0"):
        return [-position[0], -position[1], position[2]]
    raise _FormatError(f"is in the coordinate system {system!r}", "Save it in LPS or RAS coordinates.")


# --------------------------------------------------------------------------------------------- CSV


def _parse_csv(text: str) -> Points:
    rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
    if not rows:
        raise _FormatError("is empty")
    header = [cell.strip() for cell in rows[0]]
    lowered = [name.lower() for name in header]
    if not set(AXES) <= set(lowered):
        raise _FormatError("has no columns x, y and z", "Name them in its first line.")
    if len(set(lowered)) != len(lowered):
        raise _FormatError("names a column twice")
    body = rows[1:]
    for number, row in enumerate(body, start=1):
        if len(row) != len(header):
            raise _FormatError(f"has {len(row)} entries in point {number}, not {len(header)}")
    indices = [lowered.index(axis) for axis in AXES]
    positions = _array(_position([row[i] for i in indices], f"point {number}") for number, row in enumerate(body, 1))
    columns = {name: [row[i].strip() for row in body] for i, name in enumerate(header) if i not in indices}
    labels = next((tuple(values) for name, values in columns.items() if name.lower() == "label"), ())
    return Points(positions, columns, labels)


def _format_csv(points: Points) -> str:
    columns = dict(points.columns)
    if points.labels and "label" not in {name.lower() for name in columns}:
        columns["label"] = list(points.labels)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*columns, *AXES])
    # repr keeps every digit, so that reading back gives the same numbers.
    writer.writerows(
        [*(values[i] for values in columns.values()), *(repr(float(value)) for value in position)]
        for i, position in enumerate(points.positions)
    )
    return stream.getvalue()


# ------------------------------------------------------------------------------- Slicer's mrk.json


def _parse_markups(text: str) -> Points:
    try:
        data = json.loads(text)
        control_points = []
        for markup in data["markups"]:
            system = markup.get("coordinateSystem", "LPS")
            for point in markup["controlPoints"]:
                # A point without a position is a place holder that the user has not put down yet.
                if point.get("positionStatus", "defined") == "defined":
                    control_points.append((point, point.get("coordinateSystem", system)))
    except (ValueError, RecursionError) as error:
        raise _FormatError(f"is not JSON ({error})") from None
    except (KeyError, TypeError, AttributeError):
        raise _FormatError("is not a markups file with control points") from None
    positions, labels = [], []
    for number, (point, system) in enumerate(control_points, start=1):
        position = point.get("position")
        if not isinstance(position, list):
            raise _FormatError(f"has no position at point {number}")
        positions.append(_to_lps(_position(position, f"point {number}"), system))
        labels.append(str(point.get("label", "")))
    return Points(_array(positions), labels=tuple(labels) if any(labels) else ())


def _format_markups(points: Points) -> str:
    labels = points.labels or [f"F-{number}" for number in range(1, len(points) + 1)]
    control_points = [
        {"id": str(number), "label": label, "position": [float(value) for value in position]}
        for number, (label, position) in enumerate(zip(labels, points.positions, strict=True), start=1)
    ]
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "controlPoints": control_points,
    }
    return json.dumps({"@schema": MARKUPS_SCHEMA, "markups": [markup]}, indent=2, ensure_ascii=False) + "\n"


# ----------------------------------------------------------------------------------- Slicer's fcsv


def _parse_fcsv(text: str) -> Points:
    system = "RAS"  # what Slicer meant before it wrote the system down
    names = FCSV_COLUMNS
    body = []
    for line in text.splitlines():
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            if key.strip().lower() == "coordinatesystem":
                system = value
            elif key.strip().lower() == "columns":
                names = [name.strip() for name in value.split(",")]
        elif line.strip():
            body.append(line)
    if not set(AXES) <= set(names):
        raise _FormatError("has no columns x, y and z")
    indices = [names.index(axis) for axis in AXES]
    label = names.index("label") if "label" in names else None
    positions, labels = [], []
    for number, row in enumerate(csv.reader(body), start=1):
        if len(row) <= max(indices):
            raise _FormatError(f"needs three coordinates at point {number}")
        positions.append(_to_lps(_position([row[i] for i in indices], f"point {number}"), system))
        labels.append(row[label] if label is not None and label < len(row) else "")
    return Points(_array(positions), labels=tuple(labels) if any(labels) else ())


def _format_fcsv(points: Points) -> str:
    stream = io.StringIO()
    stream.write("# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n")
    stream.write(f"# columns = {','.join(FCSV_COLUMNS)}\n")
    writer = csv.writer(stream, lineterminator="\n")
    labels = points.labels or [f"F-{number}" for number in range(1, len(points) + 1)]
    for number, (label, position) in enumerate(zip(labels, points.positions, strict=True), start=1):
        coordinates = [repr(float(value)) for value in position]
        writer.writerow([number, *coordinates, 0, 0, 0, 1, 1, 1, 0, label, "", ""])
    return stream.getvalue()


# ------------------------------------------------------------------------------------ DIR-Lab text


def _parse_dirlab(text: str, image: sitk.Image | None) -> Points:
    if image is None:
        raise _FormatError("counts voxels, so its image is needed", "Give the image, or use a .csv in mm.")
    positions = []
    lines = [line.split() for line in text.splitlines() if line.strip()]
    for number, entries in enumerate(lines, start=1):
        index = _position(entries, f"point {number}")
        # DIR-Lab counts voxels from one, ITK from zero.
        positions.append(image.TransformContinuousIndexToPhysicalPoint([value - 1.0 for value in index]))
    return Points(_array(positions))
