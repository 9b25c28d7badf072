"""A chart of what alpha does, of Slicer's own plot nodes, which are saved with the scene."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from .alphafields import AlphaFields
from .tables import table_of

CHART, MARKER = "INRRegistration.Chart", "INRRegistration.Marker"
"""Roles of a transform's references to its chart and to the table of the line at the current alpha."""
TABLE, ZONE = "INRRegistration.Table", "INRRegistration.Zone"
"""Roles of the references to the table of the curves and to that of the shaded part."""
ALPHA = "alpha"
FOLDS = 1e-4
"""Share of folding points from which an alpha counts as one that folds."""
LINES = {
    "dice": (_("Dice"), (0.10, 0.45, 0.80)),
    "error": (_("Landmark error"), (0.85, 0.33, 0.10)),
    "sd_log": (_("SD of log volume change"), (0.45, 0.25, 0.65)),
    "folding": (_("Share that folds"), (0.80, 0.10, 0.15)),
    "similarity": (_("Similarity"), (0.25, 0.60, 0.25)),
}
"""Curves by name: how they are called, and their colour."""
UNITS = {"error": " mm", "folding": " %"}
MARK, CHOSEN = (_("current alpha"), (0.1, 0.1, 0.1)), (_("Auto"), (0.6, 0.6, 0.6))
SHADE = (_("folds"), (1.0, 0.85, 0.85))
STROKES, STROKE = 200, 5
"""Lines over the whole range that shade a part of it, and their width: plots have no areas."""
TOP = 1.05


def show(transform: Any, fields: AlphaFields, alpha: float) -> Any:
    """The chart node of a transform, made where there is none, with these curves. Returns it."""
    scene = slicer.mrmlScene
    nodes = {}
    for role, title in (
        (CHART, _("{name} over alpha")),
        (TABLE, _("{name} over alpha")),
        (ZONE, _("{name} where it folds")),
        (MARKER, _("{name} current alpha")),
    ):
        kind = "vtkMRMLPlotChartNode" if role == CHART else "vtkMRMLTableNode"
        nodes[role] = transform.GetNodeReference(role)
        if nodes[role] is None:
            nodes[role] = scene.AddNewNodeByClass(kind, title.format(name=transform.GetName()))
            transform.SetNodeReferenceID(role, nodes[role].GetID())
    chart, table, marker = nodes[CHART], nodes[TABLE], nodes[MARKER]
    names = _fill(table, fields)
    _lines(marker, {"auto": fields.chosen, "now": alpha})
    with slicer.util.NodeModify(chart):
        while chart.GetNumberOfPlotSeriesNodes():
            series = chart.GetNthPlotSeriesNode(0)
            chart.RemoveNthPlotSeriesNodeID(0)
            scene.RemoveNode(series)
        if "folding" in names:
            # First, so that the others are drawn over it.
            _shade(nodes[ZONE], fields)
            _series(chart, nodes[ZONE], ALPHA, "height", *SHADE).SetLineWidth(STROKE)
        for name in names:
            title, colour = LINES[name]
            _series(chart, table, ALPHA, name, names[name].format(title), colour).SetLineWidth(2)
        for column, (title, colour) in (("auto", CHOSEN), ("now", MARK)):
            series = _series(chart, marker, column, "height", title, colour)
            series.SetLineStyle(series.LineStyleDash if column == "auto" else series.LineStyleSolid)
        chart.SetTitle(_("What the strength of regularization does"))
        chart.SetXAxisTitle(_("alpha: weaker to the left, stronger to the right"))
        chart.SetYAxisTitleVisibility(False)
        chart.SetTitleFontSize(13)
        chart.SetAxisTitleFontSize(12)
        chart.SetLegendVisibility(True)
        chart.SetXAxisRangeAuto(False)
        chart.SetXAxisRange(float(fields.alphas[0]), float(fields.alphas[-1]))
        chart.SetYAxisRangeAuto(False)
        chart.SetYAxisRange(0.0, TOP)
    return chart


def move(transform: Any, alpha: float) -> None:
    """Put the line of a transform's chart, where it has one, at another alpha."""
    marker = transform.GetNodeReference(MARKER)
    column = marker.GetTable().GetColumnByName("now") if marker is not None else None
    if column is not None and column.GetValue(0) != alpha:
        for row in range(2):
            column.SetValue(row, alpha)
        column.Modified()
        marker.GetTable().Modified()


def _fill(table: Any, fields: AlphaFields) -> dict[str, str]:
    """Put the curves into the table, each in parts of its largest value; their titles by column."""
    curves = {ALPHA: fields.curves[ALPHA]}
    titles = {}
    for name in LINES:
        row = fields.curves.get(name)
        if row is None or (name == "similarity" and {"dice", "error"} & set(fields.curves)):
            continue
        scale = 1.0 if name in ("dice", "similarity") else max(max(row), 1e-9)
        curves[name] = [max(0.0, value) / scale for value in row]
        shown = 100 * scale if name == "folding" else scale
        titles[name] = "{}" if scale == 1 else f"{{}} (1 = {shown:.3g}{UNITS.get(name, '')})"
    if max(fields.curves.get("folding", [0.0])) <= FOLDS:
        titles.pop("folding", None)
    _columns(table, curves)
    return titles


def _shade(table: Any, fields: AlphaFields) -> None:
    """Strokes up and down over the alphas that fold."""
    places = np.repeat(np.linspace(*fields.alphas[[0, -1]], STROKES), 2)
    share = np.interp(places, fields.curves[ALPHA], fields.curves["folding"])
    up = np.arange(len(places)) // 2 % 2 != np.arange(len(places)) % 2
    _columns(table, {ALPHA: places.tolist(), "height": np.where(up & (share > FOLDS), TOP, 0.0).tolist()})


def _lines(table: Any, places: dict[str, float]) -> None:
    _columns(table, {name: [place, place] for name, place in places.items()} | {"height": [0.0, TOP]})


def _columns(table: Any, columns: dict[str, list[float]]) -> None:
    table.SetAndObserveTable(table_of(columns))
    table.SetLocked(True)


def _series(chart: Any, table: Any, x: str, y: str, title: str, colour: tuple[float, float, float]) -> Any:
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", title)
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName(x)
    series.SetYColumnName(y)
    series.SetPlotType(series.PlotTypeScatter)
    series.SetMarkerStyle(series.MarkerStyleNone)
    series.SetColor(*colour)
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    return series
