"""An evaluation's figures as nodes of the scene: tables, charts and maps, made once for a transform and then renewed.

The transform refers to them, so that they are found again in a loaded scene, under whatever name; any of them may be
deleted, and is made anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import slicer
import vtk

from inrreg.verdict import Tolerances, judge

from . import results
from .tables import table_of

ROLE = "INRRegistration."
BEFORE_COLOUR, AFTER_COLOUR = (0.62, 0.66, 0.72), (0.11, 0.42, 0.75)
BINS = 20
DICE = "Twice the common volume over the sum of both."
HD95 = "The larger of the two directions' 95th percentile of the distance from each surface voxel to the other surface."
MDA = "Mean distance to agreement: the mean of the distances from each surface voxel to the other surface, both ways."
ERROR = "Distance between the mapped fixed and the moving landmark, in mm, at world coordinates."
SUMMARY = (("mean", "mean"), ("sd", "SD"), ("median", "median"), ("p95", "95th percentile"), ("max", "largest"))
REGIONS = (("mask", "in the mask"), ("whole", "in the whole field"))
TITLES = {
    "Figures": "figures",
    "Landmarks": "landmark errors",
    "Structures": "structures",
    "Checks": "checks",
    "Histogram": "histogram of landmark errors",
    "ErrorChart": "chart of landmark errors",
    "HistogramChart": "chart of the histogram",
    "Jacobian": "Jacobian determinant",
    "Uncertainty": "uncertainty",
}
"""What the nodes are called, by role, after the transform's name."""


def node(transform: Any, role: str) -> Any:
    """A node of a transform's evaluation; None where it is not there."""
    return transform.GetNodeReference(ROLE + role) if transform is not None else None


def show(
    transform: Any, metrics: dict[str, Any], names: dict[str, str], maps: dict[str, Any], frame: Any, undo: ExitStack
) -> Iterator[None]:
    """Put everything into the scene, a part at each step; what there are no figures for any more is removed, at last.

    `undo` takes back what there is up to then.
    """
    tables = {"Figures": figures(metrics), "Landmarks": landmarks(metrics), "Structures": structures(metrics, names)}
    tables |= {"Histogram": histogram(metrics)}
    shown = {role: columns for role, columns in tables.items() if columns}
    for role, columns in shown.items():
        _show_table(transform, role, columns, undo)
        yield
    show_checks(transform, metrics, names, {}, undo)
    yield
    charts = {role: parts for role, parts in CHARTS.items() if parts[0] in shown}
    for role in charts:
        _show_chart(transform, role, undo)
        yield
    known = {role: read for role in MAPS if (read := maps.get(role.lower())) is not None}
    for role, read in known.items():
        _show_map(transform, role, read, frame, undo)
        yield
    for role in {*tables, *CHARTS, *MAPS} - {*shown, *charts, *known}:
        for part in (role, *(_series(role) if role in CHARTS else ())):
            _remove(transform, part)
    _file(transform)


# ------------------------------------------------------------------------------------------- tables

Columns = list[tuple[str, str, list[Any]]]
"""Name, what it means, and values."""


def figures(metrics: dict[str, Any]) -> Columns:
    """The summary: what, before, after."""
    rows: list[tuple[str, Any, Any]] = []
    marks = metrics.get("landmarks") or {}
    if "after" in marks:
        for key, name in SUMMARY:
            row = f"Target registration error, {name} (mm)"
            rows.append((row, _text(marks["before"][key]), _text(marks["after"][key])))
        if snapped := marks.get("after_snapped"):
            rows.append(("Target registration error, voxel-snapped mean (mm)", "", _text(snapped["mean"])))
        rows.append(("Landmarks that count", "", str(marks["after"]["count"])))
    if marks.get("guided"):
        rows.append(("Landmarks that guided, and do not count", "", str(marks["guided"])))
    if match := metrics.get("similarity"):
        rows.append(("Normalized cross-correlation", _text(match["before"], 3), _text(match["after"], 3)))
    for key, where in REGIONS:
        if values := metrics.get("jacobian", {}).get(key):
            rows += [
                (f"Jacobian determinant, smallest, {where}", "", _text(values["min"], 3)),
                (f"Jacobian determinant, largest, {where}", "", _text(values["max"], 3)),
                (f"Jacobian determinant <= 0, share {where}", "", f"{100 * values['folding']:.3f} %"),
                (f"SD of its logarithm, {where}", "", _text(values["sd_log"], 3)),
            ]
    if inverse := metrics.get("inverse"):
        for key, name in (("mean", "mean"), ("p99", "99th percentile"), ("max", "largest")):
            rows.append((f"Inverse consistency, {name} (mm)", "", _text(inverse[key], 3)))
    if doubt := metrics.get("uncertainty"):
        for key, name in (("mean", "mean"), ("p95", "95th percentile"), ("max", "largest")):
            rows.append((f"Uncertainty, {name} (mm)", "", _text(doubt[key])))
    if not rows:
        return []
    what, before, after = (list(values) for values in zip(*rows, strict=True))
    return [
        ("Figure", "Of the result", what),
        ("Before", "Before the registration", before),
        ("After", "After it", after),
    ]


def landmarks(metrics: dict[str, Any]) -> Columns:
    """Each landmark's errors, in the order of the list; empty without any that count."""
    marks = metrics.get("landmarks") or {}
    if "errors" not in marks:
        return []
    before, after = (np.round(marks[key], 2) for key in ("errors_before", "errors"))
    return [
        ("Landmark", "Its label, or its number in the list", list(marks["names"])),
        ("Number", "In the order of the list", list(range(1, len(after) + 1))),
        ("Before (mm)", ERROR, before.tolist()),
        ("After (mm)", ERROR, after.tolist()),
    ]


def histogram(metrics: dict[str, Any]) -> Columns:
    """Landmarks by error, before and after, in common bins."""
    marks = metrics.get("landmarks") or {}
    if "errors" not in marks:
        return []
    before, after = marks["errors_before"], marks["errors"]
    edges = np.linspace(0, max(*before, *after, 1e-3), BINS + 1)
    counts = [np.histogram(values, edges)[0].tolist() for values in (before, after)]
    middles = np.round((edges[1:] + edges[:-1]) / 2, 2).tolist()
    return [
        ("Error (mm)", "Middle of the bin", middles),
        ("Before", "Landmarks in the bin", counts[0]),
        ("After", "Landmarks in the bin", counts[1]),
    ]


def structures(metrics: dict[str, Any], names: dict[str, str]) -> Columns:
    """Overlap and distances of each structure; empty without any."""
    rows = metrics.get("labels")
    if not rows:
        return []
    labels = list(rows["after"])
    columns = [("Structure", "Name of the segment, or label", [names.get(label, f"label {label}") for label in labels])]
    for key, title, meaning in (("dice", "Dice", DICE), ("hd95", "HD95 (mm)", HD95), ("mda", "MDA (mm)", MDA)):
        for name in ("before", "after"):
            values = [_text(rows[name].get(label, {}).get(key), 3 if key == "dice" else 2) for label in labels]
            columns.append((f"{title} {name}", meaning, values))
    return columns


def show_checks(
    transform: Any, metrics: dict[str, Any], names: dict[str, str], tolerances: dict[str, Any], undo: ExitStack
) -> None:
    """The verdict as a table, for these tolerances."""
    verdict = judge(metrics, Tolerances.of(metrics.get("fixed_spacing"), tolerances), names)
    checks = verdict.checks
    columns = [
        ("Check", "After AAPM TG-132. For research use", [check.title for check in checks]),
        ("Of what", "", [check.detail for check in checks]),
        ("Figure", "", [check.text for check in checks]),
        ("Tolerance", "", [check.bound for check in checks]),
        ("State", "They advise; none says that a registration is safe", [check.state for check in checks]),
    ]
    _show_table(transform, "Checks", columns, undo)


def _text(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _show_table(transform: Any, role: str, columns: Columns, undo: ExitStack) -> None:
    found = _node(transform, role, "vtkMRMLTableNode", undo)
    table = table_of({name: values for name, _, values in columns})
    undo.callback(found.SetAndObserveTable, found.GetTable())
    with slicer.util.NodeModify(found):
        found.SetAndObserveTable(table)
        found.SetUseColumnTitleAsColumnHeader(True)
        found.SetUseFirstColumnAsRowHeader(True)  # which is as wide as its text
        found.SetLocked(True)
        for name, meaning, _ in columns:
            found.SetColumnDescription(name, meaning)


# ------------------------------------------------------------------------------------------- charts


CHARTS = {
    "ErrorChart": ("Landmarks", "PlotTypeScatter", "Number", ("Before (mm)", "After (mm)"), "landmark"),
    "HistogramChart": ("Histogram", "PlotTypeScatterBar", "Error (mm)", ("Before", "After"), "error (mm)"),
}
"""By role: the table's, kind of plot, columns along x and y, title of x."""


def _series(role: str) -> tuple[str, str]:
    return f"{role}Before", f"{role}After"


def _show_chart(transform: Any, role: str, undo: ExitStack) -> None:
    source, kind, x, ys, title = CHARTS[role]
    chart, table = _node(transform, role, "vtkMRMLPlotChartNode", undo), node(transform, source)
    plots = []
    looks = zip(_series(role), ys, ("before", "after"), (BEFORE_COLOUR, AFTER_COLOUR), strict=True)
    for part, y, name, colour in looks:
        plot = _node(transform, part, "vtkMRMLPlotSeriesNode", undo)
        with slicer.util.NodeModify(plot):
            plot.SetName(name)
            plot.SetAndObserveTableNodeID(table.GetID())
            plot.SetPlotType(getattr(plot, kind))
            plot.SetXColumnName(x)
            plot.SetYColumnName(y)
            plot.SetColor(*colour)
            plot.SetLineStyle(plot.LineStyleNone)
            plot.SetMarkerStyle(plot.MarkerStyleCircle)
            plot.SetMarkerSize(9)
        plots.append(plot)
    with slicer.util.NodeModify(chart):
        chart.RemoveAllPlotSeriesNodeIDs()
        for plot in plots:
            chart.AddAndObservePlotSeriesNodeID(plot.GetID())
        chart.SetTitle("Target registration error")
        chart.SetXAxisTitle(title)
        chart.SetYAxisTitle("error (mm)" if role == "ErrorChart" else "landmarks")
        for name in ("Title", "AxisTitle", "AxisLabel"):
            getattr(chart, f"Set{name}FontSize")(14)


# --------------------------------------------------------------------------------------------- maps


MAPS = ("Jacobian", "Uncertainty")
"""Roles of the volumes; the worker calls them so, too."""


def _show_map(transform: Any, role: str, read: Any, frame: Any, undo: ExitStack) -> None:
    array, matrix = read
    found = _node(transform, role, "vtkMRMLScalarVolumeNode", undo)
    before = vtk.vtkMatrix4x4()
    found.GetIJKToRASMatrix(before)
    undo.callback(found.SetAndObserveTransformNodeID, found.GetTransformNodeID())
    undo.callback(found.SetAndObserveImageData, found.GetImageData())
    undo.callback(found.SetIJKToRASMatrix, before)
    with slicer.util.NodeModify(found):
        found.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
        found.SetAndObserveImageData(results.plain_image(array))
        found.SetAndObserveTransformNodeID(frame.GetID() if frame is not None else None)
    if found.GetDisplayNode() is None:
        found.CreateDefaultDisplayNodes()
        display = found.GetDisplayNode()
        display.SetAutoWindowLevel(False)
        if role == "Jacobian":
            display.SetWindowLevel(2.0, 1.0)
            display.SetAndObserveColorNodeID(_diverging(transform, undo).GetID())
        else:
            highest = float(np.percentile(array[::4, ::4, ::4], 99)) or 1.0
            display.SetWindowLevel(highest, highest / 2)
            display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeIron")


def _diverging(transform: Any, undo: ExitStack) -> Any:
    """Blue below the middle, white in it, red above; the lowest colour, of what folds, is black."""
    colours = _node(transform, "JacobianColours", "vtkMRMLColorTableNode", undo)
    colours.SetName("Jacobian determinant: blue shrinks, red expands, black folds")
    colours.SetTypeToUser()
    colours.SetNumberOfColors(256)
    blue, white, red = np.array([[0.13, 0.30, 0.66], [0.97, 0.97, 0.97], [0.70, 0.09, 0.13]])
    for index, place in enumerate(np.linspace(-1, 1, 256)):
        end = blue if place < 0 else red
        colours.SetColor(index, *(white + abs(place) * (end - white)), 1.0)
    colours.SetColor(0, 0.0, 0.0, 0.0, 1.0)
    return colours


# ------------------------------------------------------------------------------------------- places


def _node(transform: Any, role: str, kind: str, undo: ExitStack) -> Any:
    found = node(transform, role)
    if found is None:
        title = f"{transform.GetName()}: {TITLES.get(role, role)}"
        found = slicer.mrmlScene.AddNewNodeByClass(kind, slicer.mrmlScene.GenerateUniqueName(title))
        undo.callback(results.remove, found)
        transform.SetNodeReferenceID(ROLE + role, found.GetID())
    return found


def _remove(transform: Any, role: str) -> None:
    found = node(transform, role)
    if found is not None:
        slicer.mrmlScene.RemoveNode(found)


def _file(transform: Any) -> None:
    """Tables, charts and maps in a folder of the subject hierarchy; those that the user has moved stay there."""
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    top = tree.GetSceneItemID()
    title = f"Evaluation of {transform.GetName()}"
    folder = tree.GetItemChildWithName(top, title) or tree.CreateFolderItem(top, title)
    for role in TITLES:
        found = node(transform, role)
        if found is None:
            continue
        item = tree.GetItemByDataNode(found)
        if not item:
            tree.CreateItem(folder, found)
        elif tree.GetItemParent(item) == top:
            tree.SetItemParent(item, folder)
