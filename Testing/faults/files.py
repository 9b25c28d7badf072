"""Image files written byte by byte, so that their headers can claim anything."""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

NRRD_TYPES = {
    "int8": "int8", "uint8": "uint8", "int16": "int16", "uint16": "uint16", "int32": "int32", "uint32": "uint32",
    "int64": "int64", "uint64": "uint64", "float32": "float", "float64": "double",
}  # fmt: skip
META_TYPES = {
    "int8": "MET_CHAR", "uint8": "MET_UCHAR", "int16": "MET_SHORT", "uint16": "MET_USHORT", "int32": "MET_INT",
    "uint32": "MET_UINT", "int64": "MET_LONG_LONG", "uint64": "MET_ULONG_LONG", "float32": "MET_FLOAT",
    "float64": "MET_DOUBLE",
}  # fmt: skip
NIFTI_TYPES = {
    "int8": 256, "uint8": 2, "int16": 4, "uint16": 512, "int32": 8, "uint32": 768, "int64": 1024, "uint64": 1280,
    "float32": 16, "float64": 64,
}  # fmt: skip
FORMATS = (".nrrd", ".mha", ".nii", ".nii.gz")
IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def write(
    path: Path,
    array: np.ndarray,
    *,
    size: Sequence[int] | None = None,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    axes: Sequence[Sequence[float]] = IDENTITY,
    packed: bool = False,
) -> Path:
    """Write an image (k, j, i) in the format of the ending. `size` (i, j, k) is what the header claims; `axes` are the
    directions of i, j and k."""
    size = tuple(array.shape[::-1]) if size is None else tuple(size)
    data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    name = array.dtype.name
    if path.suffix == ".nrrd":
        header = _nrrd(name, size, spacing, origin, axes, packed)
        content = header.encode() + (gzip.compress(data, 1) if packed else data)
    elif path.suffix == ".mha":
        content = _meta(name, size, spacing, origin, axes).encode() + data
    else:
        content = _nifti(name, size, spacing, origin, axes) + data
        content = gzip.compress(content, 1) if path.suffix == ".gz" else content
    path.write_bytes(content)
    return path


def _nrrd(name: str, size: Sequence[int], spacing, origin, axes, packed: bool) -> str:
    vectors = [[_product(mm, part) for part in axis] for mm, axis in zip(spacing, axes, strict=True)]
    return (
        f"NRRD0004\ntype: {NRRD_TYPES[name]}\ndimension: {len(size)}\nspace: left-posterior-superior\n"
        f"sizes: {' '.join(map(str, size))}\nspace directions: {' '.join(map(_vector, vectors))}\n"
        f"kinds: {' '.join(['domain'] * len(size))}\nendian: little\nencoding: {'gzip' if packed else 'raw'}\n"
        f"space origin: {_vector(origin)}\n\n"
    )


def _meta(name: str, size: Sequence[int], spacing, origin, axes) -> str:
    words = {
        "TransformMatrix": [part for axis in axes for part in axis],
        "Offset": origin,
        "ElementSpacing": spacing,
        "DimSize": size,
    }
    lines = [f"{key} = {' '.join(map(str, values))}" for key, values in words.items()]
    return (
        f"ObjectType = Image\nNDims = {len(size)}\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        + "\n".join(lines)
        + f"\nElementType = {META_TYPES[name]}\nElementDataFile = LOCAL\n"
    )


def _nifti(name: str, size: Sequence[int], spacing, origin, axes) -> bytes:
    dims = [len(size), *(max(-32768, min(n, 32767)) for n in size), *[1] * (7 - len(size))]
    rows = [[_product(mm, axis[r]) for mm, axis in zip(spacing, axes, strict=True)] + [origin[r]] for r in range(3)]
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, *dims)
    struct.pack_into("<hh", header, 70, NIFTI_TYPES[name], 8 * np.dtype(name).itemsize)
    struct.pack_into("<8f", header, 76, 1.0, *map(_single, spacing), 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, 352.0)
    struct.pack_into("<hh", header, 252, 0, 1)  # the sform alone
    for number, row in enumerate(rows):
        struct.pack_into("<4f", header, 280 + 16 * number, *map(_single, row))
    header[344:348] = b"n+1\0"
    return bytes(header)


def _single(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) > 3.4e38 else value


def _product(one: float, other: float) -> float:
    return 0.0 if other == 0 else one * other


def _vector(values: Sequence[float]) -> str:
    return "(" + ",".join(repr(float(value)) for value in values) + ")"
