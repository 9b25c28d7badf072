"""The local change of volume of a result as a volume of the scene."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from inrreg.protocol import UserError

from . import nrrd, results
from .operation import Operation
from .process import WorkerProcess

ROLE = "INRRegistration.VolumeChange"
"""Role of a transform's reference to its map, which a new one replaces."""
COLOURS = "INRRegistration.VolumeChange"
"""Singleton tag of the colour table."""
LEAST_RANGE = 0.1


class VolumeChange(Operation):
    """Maps determinant - 1, the relative change of volume from fixed to moving: `volume` is its node when done."""

    command = "jacobian"

    def __init__(self, transform: Any, process: WorkerProcess, folder: Path) -> None:
        self.volume, self.figures = None, {}
        self._id = transform.GetID()
        entries = {"result": str(results.folder_of(transform)), "alpha": results.alpha_of(transform)}
        super().__init__(process, folder, lambda: (entries, []))

    def _read(self, data: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, float]:
        determinant, matrix = nrrd.read(Path(data["map"]))
        change = determinant - np.float32(1)
        self.figures = {name: data[name] - 1 for name in ("minimum", "maximum")}
        thinned = np.abs(change[::2, ::2, ::2])
        return change, matrix, max(LEAST_RANGE, float(np.percentile(thinned, 99)))

    def _show(self, read: tuple[np.ndarray, np.ndarray, float]) -> None:
        change, matrix, reach = read
        transform = slicer.mrmlScene.GetNodeByID(self._id)
        if transform is None:
            raise UserError("scene", "The transform was deleted meanwhile.", "Choose another one.")
        with contextlib.ExitStack() as undo:
            node = transform.GetNodeReference(ROLE)
            if node is None:
                name = slicer.mrmlScene.GenerateUniqueName(f"Volume change of {transform.GetName()}")
                node = results.add("vtkMRMLScalarVolumeNode", name, undo)
                node.CreateDefaultDisplayNodes()
                undo.callback(slicer.mrmlScene.RemoveNode, node.GetDisplayNode())
            display, image = node.GetDisplayNode(), results.plain_image(change)
            display.SetAndObserveColorNodeID(diverging_colours().GetID())
            display.SetAutoWindowLevel(False)
            display.SetWindowLevelMinMax(-reach, reach)
            frame = transform.GetTransformNodeID()
            with slicer.util.NodeModify(node):
                node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
                node.SetAndObserveImageData(image)
                node.SetAndObserveTransformNodeID(frame)
            transform.SetNodeReferenceID(ROLE, node.GetID())
            undo.pop_all()
        self.volume = node


def show_over(fixed: Any, volume: Any) -> None:
    """Show a map over the fixed volume, which may be None, with a legend of its colours in the slices."""
    background = {"background": fixed} if fixed is not None else {}
    slicer.util.setSliceViewerLayers(**background, foreground=volume, foregroundOpacity=0.5)
    logic = slicer.modules.colors.logic()
    # It finds its place in the views that show the volume by then.
    legend = logic.GetColorLegendDisplayNode(volume) or logic.AddDefaultColorLegendDisplayNode(volume)
    legend.SetTitleText("Change")
    legend.SetUseColorNamesForLabels(False)
    legend.SetLabelFormat("%+.2f")
    legend.SetNumberOfLabels(5)
    legend.SetVisibility(True)


def diverging_colours() -> Any:
    """Blue below no change, white at it, red above: a table of the scene's own, made once."""
    node = slicer.mrmlScene.GetSingletonNode(COLOURS, "vtkMRMLColorTableNode")
    if node is not None:
        return node
    node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLColorTableNode")
    node.UnRegister(None)
    node.SetSingletonTag(COLOURS)
    node.SetName("Volume change")
    node.SetTypeToUser()
    node.SetNumberOfColors(256)
    anchors = np.array([[0.02, 0.19, 0.42], [0.26, 0.58, 0.76], [0.97, 0.97, 0.97], [0.84, 0.38, 0.30], [0.4, 0, 0.12]])
    colours = np.stack([np.interp(np.linspace(0, 4, 256), range(5), channel) for channel in anchors.T], -1)
    for index, colour in enumerate(colours.tolist()):
        node.SetColor(index, f"{index / 127.5 - 1:+.2f}", *colour, 1.0)
    return slicer.mrmlScene.AddNode(node)
