"""Masks made for the user: by the engine's classical means, or by the TotalSegmentator extension."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import slicer
import vtk

from inrreg.protocol import AUTOMATIC_MASKS, UserError

from . import export, nrrd, results, segmentations
from .operation import Operation
from .process import WorkerProcess

MADE_OF = "INRRegistration.MaskOf"
"""Role of a mask's reference to the volume that it was made of: such a mask is replaced by the next one."""
BODY, LUNGS, LOBES = "auto", "lungs", "lobes"
NAMES = {BODY: "Body", LUNGS: "Lungs", LOBES: "Lungs and lobes"}
_COLOURS = {BODY: (0.69, 0.48, 0.40), LUNGS: (0.28, 0.65, 0.84)}
_LOBES = [
    f"lung_{lobe}_lobe_{side}"
    for lobe, side in (
        ("upper", "left"),
        ("lower", "left"),
        ("upper", "right"),
        ("middle", "right"),
        ("lower", "right"),
    )
]
"""TotalSegmentator's names."""


class MakeMask(Operation):
    """Finds a mask in a volume. When done, `mask` is a segmentation on it: a new one, or `node` with other contents."""

    command = "mask"

    def __init__(self, volume: Any, kind: str, node: Any, process: WorkerProcess, folder: Path) -> None:
        if kind not in AUTOMATIC_MASKS:
            raise UserError("mask", f"There is no mask '{kind}'.", f"Choose one of: {', '.join(AUTOMATIC_MASKS)}.")
        self.mask, self._kind = None, kind
        self._volume_id, self._node_id = volume.GetID(), node.GetID() if node is not None else ""
        # In the volume's own coordinates: the mask goes wherever the volume goes.
        snapshot = export.volume(volume, vtk.vtkGeneralTransform())

        def write() -> tuple[dict[str, Any], list[str]]:
            snapshot.write(folder / "image.nrrd")
            return {"image": "image.nrrd", "method": kind}, []

        super().__init__(process, folder, write)

    def _read(self, data: dict[str, Any]) -> Any:
        return nrrd.read(Path(data["mask"]))

    def _show(self, read: Any) -> None:
        volume = slicer.mrmlScene.GetNodeByID(self._volume_id)
        if volume is None:
            raise UserError("scene", "The volume was deleted meanwhile.", "Choose another one.")
        segment = segmentations.new_segment(NAMES[self._kind], _COLOURS[self._kind])
        with contextlib.ExitStack() as undo:
            node = _emptied(volume, slicer.mrmlScene.GetNodeByID(self._node_id) if self._node_id else None, undo)
            segmentations.add_segments(node, *read, {1: ("", segment)})
            undo.pop_all()
        self.mask = node


def replaceable(mask: Any, volume: Any) -> Any:
    """The chosen mask, where it was made here of that volume and so may be made anew; else None."""
    ours = mask is not None and mask.GetNodeReferenceID(MADE_OF) == volume.GetID()
    return mask if ours and mask.IsA("vtkMRMLSegmentationNode") else None


def preview(mask: Any, shown: bool) -> None:
    """Show a mask in the slices, or hide it, where it was made here: other nodes are the user's to show."""
    if mask is not None and mask.GetNodeReferenceID(MADE_OF) and mask.GetDisplayNode() is not None:
        mask.GetDisplayNode().SetVisibility(shown)


def show_volume(volume: Any) -> None:
    """Have the slices show a volume where none of them does."""
    for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        if volume.GetID() in (node.GetBackgroundVolumeID(), node.GetForegroundVolumeID()):
            return
    slicer.util.setSliceViewerLayers(background=volume, fit=True)


def has_totalsegmentator() -> bool:
    """Whether the TotalSegmentator extension is installed."""
    return hasattr(slicer.modules, "totalsegmentator")


def lobes(volume: Any, node: Any) -> Any:
    """The lobes of the lungs as segments, by the TotalSegmentator extension. Returns once it is done.

    It installs what it needs, shows its own progress and keeps the GUI going as it does. Raises `UserError`.
    """
    if not has_totalsegmentator():
        hint = "Install it in the Extensions Manager and restart Slicer, or choose another mask."
        raise UserError("mask", "The TotalSegmentator extension is not installed.", hint)
    from TotalSegmentator import TotalSegmentatorLogic

    with contextlib.ExitStack() as undo:
        made = _emptied(volume, node, undo)
        try:
            logic = TotalSegmentatorLogic()
            logic.setupPythonRequirements()
            logic.process(volume, made, fast=True, task="total", subset=_LOBES)
        except Exception as error:
            # Another extension's code, over pip, the network and a subprocess: anything may come.
            hint = "Its own module's log says more."
            raise UserError("mask", f"TotalSegmentator failed ({error}).", hint) from None
        if not made.GetSegmentation().GetNumberOfSegments():
            raise UserError("mask", f"TotalSegmentator found no lungs in '{volume.GetName()}'.", "Choose another mask.")
        made.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        undo.pop_all()
    return made


def _emptied(volume: Any, node: Any, undo: contextlib.ExitStack) -> Any:
    """A segmentation on a volume, without segments: a new one, or the one that was made before."""
    if node is None:
        name = slicer.mrmlScene.GenerateUniqueName(f"Mask of {volume.GetName()}")
        node = results.add("vtkMRMLSegmentationNode", name, undo)
        node.CreateDefaultDisplayNodes()
        undo.callback(slicer.mrmlScene.RemoveNode, node.GetDisplayNode())
    else:
        undo.callback(node.SetAndObserveSegmentation, node.GetSegmentation())
        node.SetAndObserveSegmentation(slicer.vtkSegmentation())
    segmentations.as_in(volume, node)
    node.SetNodeReferenceID(MADE_OF, volume.GetID())
    return node
