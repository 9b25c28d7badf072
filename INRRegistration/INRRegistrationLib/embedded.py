"""A result's model in the scene, so that a scene opened later can go on from it: text nodes that hold packed files.

The displacement itself is the transform node's own; what is kept beside it evaluates it anew, at any spacing and, of
a conditioned result, at any alpha. Packing and unpacking is safe off the GUI thread.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import slicer

from inrreg import parts
from inrreg.protocol import UserError

from . import alphafields
from .alphafields import AlphaFields

MODEL, FIELDS = "INRRegistration.Model", "INRRegistration.Fields"
"""Roles of our transforms' references to the text nodes with the model's files and with the fields over alpha."""
NAMES = {MODEL: "model", FIELDS: "tuning"}
PIECE = 3 << 18
"""Bytes that are made text at once: meanwhile Python lets no other thread go on, the panel's neither."""
KEPT = ("model.json", "model.safetensors", "job.json", "metrics.json", "alpha.json")


def pack(folder: Path) -> dict[str, str]:
    """A result folder as the texts to keep, by role; `FIELDS` only of a conditioned result. Raises `UserError`."""
    file = io.BytesIO()
    # Weights hardly shrink: not worth the time.
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(Path(folder).iterdir()):
            if path.name in KEPT or path.name.startswith("before_"):
                archive.write(path, path.name)
    packed = {MODEL: _text(file.getvalue())}
    if (fields := alphafields.load(folder)) is not None:
        packed[FIELDS] = _text(fields.pack())
    return packed


def unpack_model(text: str, folder: Path) -> None:
    """Write the files that `pack` has put into a text. Raises `UserError` (code `result`) where it is damaged."""
    with _opened(text) as archive:
        for name in archive.namelist():
            # What a scene says is not to reach any other folder.
            (Path(folder) / Path(name.replace("\\", "/")).name).write_bytes(archive.read(name))


def parts_of(transform: Any) -> list[str]:
    """The parts of the result in a transform's text, as `inrreg.parts` has them; nothing is unpacked.

    Raises `UserError` where it is damaged.
    """
    node = transform.GetNodeReference(MODEL)
    return list(_parts(node.GetID(), node.GetMTime()))


@lru_cache(maxsize=16)
def _parts(identifier: str, modified: int) -> tuple[str, ...]:
    with _opened(slicer.mrmlScene.GetNodeByID(identifier).GetText()) as archive:
        names = archive.namelist()
        model, job = (json.loads(archive.read(name)) if name in names else None for name in ("model.json", "job.json"))
    return tuple(parts.described(model, job is not None and parts.prealigns(job)))


@contextmanager
def _opened(text: str) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(io.BytesIO(_data(text))) as archive:
            yield archive
    except (zipfile.BadZipFile, binascii.Error, ValueError, RecursionError) as error:
        raise UserError("result", f"The model in the scene is damaged ({error}).", "Register again.") from None


def unpack_fields(text: str) -> AlphaFields:
    """The fields that `pack` has put into a text. Raises `UserError` (code `result`) where it is damaged."""
    try:
        data = _data(text)
    except (binascii.Error, ValueError) as error:
        raise UserError("result", f"The fields in the scene are damaged ({error}).", "Register again.") from None
    return AlphaFields.unpack(data)


def show(packed: dict[str, str], transform: Any, undo: ExitStack) -> None:
    """Keep packed texts beside a transform, in place of those it had, unless another transform needs them too.

    `undo` takes it back.
    """
    scene = slicer.mrmlScene
    for role, name in NAMES.items():
        node = transform.GetNodeReference(role)
        if node is not None and (role not in packed or len(_users(node, role)) > 1):
            undo.callback(transform.SetNodeReferenceID, role, node.GetID())
            transform.SetNodeReferenceID(role, None)
            node = None
        if role not in packed:
            continue
        if node is None:
            unique = scene.GenerateUniqueName(f"{transform.GetName()} {name}")
            node = scene.AddNewNodeByClass("vtkMRMLTextNode", unique)
            node.SetAttribute(role, "1")
            undo.callback(scene.RemoveNode, node)
            undo.callback(transform.SetNodeReferenceID, role, None)
            transform.SetNodeReferenceID(role, node.GetID())
        else:
            undo.callback(node.SetText, node.GetText())
        node.SetText(packed[role])


def share(source: Any, target: Any) -> None:
    """Let a second transform have the same model."""
    for role in NAMES:
        target.SetNodeReferenceID(role, source.GetNodeReferenceID(role))


def siblings(transform: Any) -> list[Any]:
    """The transforms that have the same model, itself among them."""
    node = transform.GetNodeReference(MODEL)
    return _users(node, MODEL) if node is not None else [transform]


def remove_orphans() -> None:
    """Remove the texts that no transform has any more: they are large."""
    for node in slicer.util.getNodesByClass("vtkMRMLTextNode"):
        if any(node.GetAttribute(role) and not _users(node, role) for role in NAMES):
            slicer.mrmlScene.RemoveNode(node)


def _users(node: Any, role: str) -> list[Any]:
    transforms = slicer.util.getNodesByClass("vtkMRMLTransformNode")
    return [each for each in transforms if each.GetNodeReferenceID(role) == node.GetID()]


def _text(data: bytes) -> str:
    parts = (data[first : first + PIECE] for first in range(0, len(data), PIECE))
    return "".join(base64.b64encode(part).decode("ascii") for part in parts)


def _data(text: str) -> bytes:
    """Raises ValueError for what is no such text."""
    piece = PIECE // 3 * 4
    parts = (text[first : first + piece] for first in range(0, len(text), piece))
    return b"".join(base64.b64decode(part, validate=True) for part in parts)
