"""What the views show of an evaluation."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from . import evaluation_nodes
from .parameters import Parameters

CHARTS, TABLES, MAPS = (
    ("ErrorChart", "HistogramChart"),
    ("Landmarks", "Structures", "Figures", "Checks"),
    ("Jacobian", "Uncertainty"),
)
OPACITY = 0.5


def entries(transform: Any) -> list[tuple[str, str]]:
    """Text and role of what there is to show; nothing without an evaluation."""
    texts = {
        "ErrorChart": _("Chart: errors by landmark"),
        "HistogramChart": _("Chart: histogram of errors"),
        "Landmarks": _("Table: landmarks"),
        "Structures": _("Table: structures"),
        "Figures": _("Table: all figures"),
        "Checks": _("Table: checks"),
        "Jacobian": _("Map: Jacobian determinant"),
        "Uncertainty": _("Map: uncertainty"),
    }
    found = [(text, role) for role, text in texts.items() if evaluation_nodes.node(transform, role) is not None]
    return [*found, (_("Images alone"), "")] if found else []


def show(role: str, parameters: Parameters) -> None:
    """Show a node of the evaluation by its role, or, for "", the images alone."""
    found = evaluation_nodes.node(parameters.output_transform, role) if role else None
    manager = slicer.app.layoutManager()
    if role in CHARTS and found is not None:
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpPlotView)
        slicer.modules.plots.logic().ShowChartInLayout(found)
    elif role in TABLES and found is not None:
        layout = slicer.modules.tables.logic().GetLayoutWithTable(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        manager.setLayout(layout)
        selection = slicer.app.applicationLogic().GetSelectionNode()
        selection.SetActiveTableID(found.GetID())
        slicer.app.applicationLogic().PropagateTableSelection()
    else:
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        over = found if found is not None else parameters.output_volume
        slicer.util.setSliceViewerLayers(background=parameters.fixed, foreground=over, foregroundOpacity=OPACITY)
        legend(parameters.output_transform, role)


def legend(transform: Any, shown: str) -> None:
    """The colour legend of the map that is shown, and of no other."""
    for role in MAPS:
        found = evaluation_nodes.node(transform, role)
        if found is None or found.GetDisplayNode() is None:
            continue
        bar = slicer.modules.colors.logic().GetColorLegendDisplayNode(found)
        if bar is None and role == shown:
            bar = slicer.modules.colors.logic().AddDefaultColorLegendDisplayNode(found)
            bar.SetTitleText(_("Jacobian") if role == "Jacobian" else _("mm"))
        if bar is not None:
            bar.SetVisibility(role == shown)


def jump(landmarks: Any, identifier: str) -> None:
    """Take all slices to a control point, in their middle."""
    for row in range(landmarks.GetNumberOfControlPoints()):
        if landmarks.GetNthControlPointID(row) == identifier:
            slicer.modules.markups.logic().JumpSlicesToNthPointInMarkup(landmarks.GetID(), row, True)
