"""Images as NRRD files, in NumPy alone: writing and reading can so run off the GUI thread, without MRML.

Arrays are indexed (k, j, i), with the components last where there are several. Matrices are 4 x 4, from
voxel indices (i, j, k) to RAS millimetres, as Slicer keeps them; files hold LPS.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np

from inrreg.protocol import UserError

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From RAS to LPS, and back."""

_TIGHTEST = 1100
"""How often a compressed part's size its content can be: deflate reaches 1032."""

_LONGEST = 1 << 16
"""Bytes in a line of a header."""

_PIECE = 1 << 20
"""Bytes that are unpacked at a time."""

_TYPES = {
    "int8": "int8",
    "uint8": "uint8",
    "int16": "int16",
    "uint16": "uint16",
    "int32": "int32",
    "uint32": "uint32",
    "int64": "int64",
    "uint64": "uint64",
    "float32": "float",
    "float64": "double",
}
_NAMES = {
    "signed char": "int8",
    "unsigned char": "uint8",
    "uchar": "uint8",
    "short": "int16",
    "unsigned short": "uint16",
    "ushort": "uint16",
    "int": "int32",
    "unsigned int": "uint32",
    "uint": "uint32",
    "long long": "int64",
    "unsigned long long": "uint64",
    **{nrrd: numpy for numpy, nrrd in _TYPES.items()},
}


def write(path: Path, array: np.ndarray, ijk_to_ras: np.ndarray) -> None:
    """Write an image, shape (k, j, i), or a field of LPS vectors, shape (k, j, i, 3).

    The file appears complete or not at all.
    """
    path = Path(path)
    matrix = LPS @ ijk_to_ras
    columns = [_vector(matrix[:3, axis]) for axis in range(3)]
    kinds = ["domain"] * 3
    if array.ndim == 4:
        columns, kinds = ["none", *columns], ["vector", *kinds]
    header = (
        "NRRD0004\n"
        f"type: {_TYPES[array.dtype.name]}\n"
        f"dimension: {array.ndim}\n"
        "space: left-posterior-superior\n"
        f"sizes: {' '.join(map(str, array.shape[::-1]))}\n"
        f"space directions: {' '.join(columns)}\n"
        f"kinds: {' '.join(kinds)}\n"
        "endian: little\n"
        "encoding: raw\n"
        f"space origin: {_vector(matrix[:3, 3])}\n\n"
    )
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(header.encode("ascii"))
        file.flush()
        np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tofile(file)
    partial.replace(path)


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A three-dimensional image or vector field: its array, and its matrix from indices to RAS.

    Raises `UserError` (code `result`) for a file that is missing, damaged or of another kind.
    """
    try:
        path = Path(path)
        with path.open("rb") as file:
            fields = _header(file)
            sizes = [int(size) for size in fields["sizes"].split()]
            dtype = np.dtype(_NAMES[fields["type"]])
            dtype = dtype.newbyteorder(">" if fields.get("endian") == "big" else "<")
            count, rest = math.prod(sizes), path.stat().st_size - file.tell()
            packed = fields["encoding"] in ("gzip", "gz")
            if not packed and fields["encoding"] != "raw":
                raise ValueError(f"encoding {fields['encoding']}")
            # Before memory is taken for what a damaged header claims.
            if min(sizes) < 1 or count * dtype.itemsize > rest * (_TIGHTEST if packed else 1):
                raise ValueError("it is cut short")
            array = _unpacked(file, count * dtype.itemsize).view(dtype) if packed else np.fromfile(file, dtype, count)
        vectors = [_numbers(text) for text in re.findall(r"\([^)]*\)", fields["space directions"])]
        matrix = np.eye(4)
        matrix[:3, :3] = np.array(vectors).T
        matrix[:3, 3] = _numbers(fields["space origin"])
        if fields["space"] != "left-posterior-superior" or len(sizes) not in (3, 4):
            raise ValueError(f"space {fields['space']}, {len(sizes)} dimensions")
        array = array.astype(dtype.newbyteorder("="), copy=False).reshape(sizes[::-1])
    except (OSError, KeyError, ValueError, EOFError, zlib.error) as error:
        raise UserError("result", f"The file {path} cannot be read ({error}).", "Register again.") from None
    return array, LPS @ matrix


def _unpacked(file, size: int) -> np.ndarray:
    """The first bytes of a compressed file, (size,) uint8, in pieces: a thread that copies keeps all others waiting."""
    array = np.empty(size, np.uint8)
    with gzip.open(file) as stream:
        for first in range(0, size, _PIECE):
            piece = array[first : first + _PIECE]
            if stream.readinto(piece) < len(piece):
                raise ValueError("it is cut short")
    return array


def _header(file) -> dict[str, str]:
    fields = {}
    while line := file.readline(_LONGEST).decode("utf-8").strip():
        name, separator, value = line.partition(":")
        if separator:
            fields[name] = value.lstrip("=").strip()
    return fields


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.strip("()").split(",")]


def _vector(values: np.ndarray) -> str:
    return "(" + ",".join(repr(float(value)) for value in values) + ")"
