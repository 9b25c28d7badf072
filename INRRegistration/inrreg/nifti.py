"""What must be known of a NIfTI file before a library reads it: ITK's reader never ends on some infinite numbers."""

from __future__ import annotations

import contextlib
import gzip
import math
import struct
import zlib
from pathlib import Path

_LAYOUTS = {348: (344, "8f", 76, "18f", 256), 540: (4, "8d", 104, "18d", 352)}
"""By the header's size: where its magic is; format and place of the spacings, and of quaternion, offset and matrix."""
_MAGIC = (b"n+1\0", b"ni1\0", b"n+2\0", b"ni2\0")


def is_finite(path: Path) -> bool:
    """Whether spacings, quaternion, offset and matrix of a NIfTI-1 or NIfTI-2 header are numbers.

    True for any other file, and for one that is cut short: the reader says so.
    """
    if path.suffix.lower() == ".img" and path.with_suffix(".hdr").is_file():
        path = path.with_suffix(".hdr")
    header = b""
    with contextlib.suppress(OSError, EOFError, zlib.error), path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        header = (gzip.GzipFile(fileobj=file) if packed else file).read(max(_LAYOUTS))
    for order in "<>":
        size = struct.unpack(f"{order}i", header[:4])[0] if len(header) >= 4 else 0
        if size in _LAYOUTS and len(header) >= size:
            magic, *parts = _LAYOUTS[size]
            if header[magic : magic + 4] in _MAGIC:
                numbers = [
                    number
                    for form, place in zip(parts[::2], parts[1::2], strict=True)
                    for number in struct.unpack_from(order + form, header, place)
                ]
                return all(map(math.isfinite, numbers))
    return True
