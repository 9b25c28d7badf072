"""Plot views: vtkMRMLPlotChartNode drawn as VTK's chart, as Slicer draws it."""

from __future__ import annotations

import slicer
import vtk
from PySide6 import QtWidgets

from . import canvas
from .canvas import Canvas
from .qmrml import observe, qMRMLWidget

SERIES = slicer.vtkMRMLPlotSeriesNode
LINES = {
    SERIES.LineStyleNone: vtk.vtkPen.NO_PEN,
    SERIES.LineStyleSolid: vtk.vtkPen.SOLID_LINE,
    SERIES.LineStyleDash: vtk.vtkPen.DASH_LINE,
    SERIES.LineStyleDot: vtk.vtkPen.DOT_LINE,
    SERIES.LineStyleDashDot: vtk.vtkPen.DASH_DOT_LINE,
    SERIES.LineStyleDashDotDot: vtk.vtkPen.DASH_DOT_DOT_LINE,
}
MARKERS = {
    SERIES.MarkerStyleNone: vtk.vtkPlotPoints.NONE,
    SERIES.MarkerStyleCross: vtk.vtkPlotPoints.CROSS,
    SERIES.MarkerStylePlus: vtk.vtkPlotPoints.PLUS,
    SERIES.MarkerStyleSquare: vtk.vtkPlotPoints.SQUARE,
    SERIES.MarkerStyleCircle: vtk.vtkPlotPoints.CIRCLE,
    SERIES.MarkerStyleDiamond: vtk.vtkPlotPoints.DIAMOND,
}


class qMRMLPlotView(Canvas):
    """Shows the chart of a plot view node. The mouse changes nothing: the stand-in's charts are pictures."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = self._node = self._chart_node = None
        if canvas.opengl():
            self._renderer.SetBackground(1, 1, 1)
            self._chart = vtk.vtkChartXY()
            self._actor = vtk.vtkContextActor()
            self._actor.GetScene().AddItem(self._chart)
            self._actor.GetScene().SetRenderer(self._renderer)
            self._renderer.AddActor(self._actor)
            self._actor.SetForceDevice(vtk.vtkOpenGLContextDevice2D())

    def setMRMLScene(self, scene):
        self._scene = scene

    def setMRMLPlotViewNode(self, node):
        self._node = node
        observe(node, "ModifiedEvent", self._on_view_node)
        self._on_view_node()

    def chart(self):
        return self._chart

    def fitToContent(self):
        self._chart.RecalculateBounds()
        self.scheduleRender()

    def _on_view_node(self):
        node = self._node.GetPlotChartNode()
        if node is not self._chart_node:
            self._chart_node = node
            if node is not None:
                for event in (node.PlotModifiedEvent, "ModifiedEvent"):
                    observe(node, event, self._show)
            self._show()

    def _show(self):
        if not canvas.opengl():
            return
        self._chart.ClearPlots()
        self._chart.SetVisible(self._chart_node is not None)
        if self._chart_node is not None:
            self._fill(self._chart_node)
        self.scheduleRender()

    def _fill(self, node):
        chart = self._chart
        for index in range(node.GetNumberOfPlotSeriesNodes()):
            plot = made(node.GetNthPlotSeriesNode(index))
            if plot is not None:
                chart.AddPlot(plot)
        chart.SetTitle(node.GetTitle() or "" if node.GetTitleVisibility() else "")
        chart.GetTitleProperties().SetFontSize(node.GetTitleFontSize())
        chart.GetTitleProperties().SetFontFamilyToArial()
        chart.SetShowLegend(node.GetLegendVisibility())
        for axis, name in ((vtk.vtkAxis.BOTTOM, "X"), (vtk.vtkAxis.LEFT, "Y")):
            axis = chart.GetAxis(axis)
            visible = getattr(node, f"Get{name}AxisTitleVisibility")()
            axis.SetTitle((getattr(node, f"Get{name}AxisTitle")() or "") if visible else "")
            axis.GetTitleProperties().SetFontSize(node.GetAxisTitleFontSize())
            axis.GetTitleProperties().SetBold(False)
            axis.GetLabelProperties().SetFontSize(node.GetAxisLabelFontSize())
            axis.SetGridVisible(node.GetGridVisibility())
            axis.SetLogScale(getattr(node, f"Get{name}AxisLogScale")())
            if getattr(node, f"Get{name}AxisRangeAuto")():
                axis.SetBehavior(vtk.vtkAxis.AUTO)
            else:
                axis.SetBehavior(vtk.vtkAxis.FIXED)
                axis.SetRange(*getattr(node, f"Get{name}AxisRange")())
        chart.RecalculateBounds()


def made(node):
    """VTK's plot for a series; None where its table lacks a column."""
    table = node.GetTableNode().GetTable() if node is not None and node.GetTableNode() else None
    names = [node.GetXColumnName(), node.GetYColumnName()] if table is not None else []
    needed = names if names and node.IsXColumnRequired() else names[1:]
    if not needed or any(not name or table.GetColumnByName(name) is None for name in needed):
        return None
    bar = node.GetPlotType() in (node.PlotTypeBar, node.PlotTypeScatterBar)
    plot = vtk.vtkPlotBar() if bar else vtk.vtkPlotLine()
    plot.SetWidth(node.GetLineWidth())
    plot.SetColorF(*node.GetColor())
    plot.GetPen().SetOpacityF(node.GetOpacity())
    plot.GetPen().SetLineType(vtk.vtkPen.SOLID_LINE if bar else LINES[node.GetLineStyle()])
    if not bar:
        plot.SetMarkerStyle(MARKERS[node.GetMarkerStyle()])
        plot.SetMarkerSize(node.GetMarkerSize())
    plot.SetUseIndexForXSeries(not node.IsXColumnRequired())
    plot.SetInputData(table, needed[0], needed[-1])
    plot.SetLabel(node.GetName())
    return plot


class qMRMLPlotWidget(qMRMLWidget):
    """A plot view as the layout has it."""

    def __init__(self, node):
        super().__init__()
        self._view = qMRMLPlotView()
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._view)
        self._view.setMRMLScene(node.GetScene())
        self._view.setMRMLPlotViewNode(node)

    def plotView(self):
        return self._view

    def finalize(self):
        self._view.finalize()
