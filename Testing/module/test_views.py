"""The host's views are drawn by MRML's own displayable managers and driven through MRML's own logic."""

from __future__ import annotations

import numpy as np
import pytest
import vtk
from conftest import SCREENSHOTS
from PySide6 import QtCore, QtGui, QtWidgets
from standin import canvas
from standin.window import Window

SIZE = 48
needs_opengl = pytest.mark.skipif(not canvas.opengl(), reason="neither EGL nor OSMesa works here")


@pytest.fixture
def window(slicer):
    window = Window(slicer, QtWidgets.QLabel("Panel"))
    window.show()
    slicer.app.processEvents()
    yield window
    window.close()


def volume(slicer, values, kind="vtkMRMLScalarVolumeNode"):
    """A cube of 2 mm voxels about the origin, window and level such that its values are grey levels."""
    node = slicer.mrmlScene.AddNewNodeByClass(kind)
    node.SetSpacing(2, 2, 2)
    node.SetOrigin(-SIZE, -SIZE, -SIZE)
    slicer.util.updateVolumeFromArray(node, values)
    node.CreateDefaultDisplayNodes()
    if kind == "vtkMRMLScalarVolumeNode":
        node.GetDisplayNode().AutoWindowLevelOff()
        node.GetDisplayNode().SetWindowLevel(255, 127.5)
    return node


def flat(slicer, value):
    return volume(slicer, np.full((SIZE, SIZE, SIZE), value, np.float32))


def frame(slicer, name="Red"):
    """A view as rows of RGB."""
    view = slicer.app.layoutManager().sliceWidget(name).sliceView()
    view.forceRender()
    image = view.grab().toImage().convertToFormat(QtGui.QImage.Format.Format_RGB888)
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).astype(int)


def middle(picture):
    return picture[picture.shape[0] // 2, picture.shape[1] // 2]


def test_three_layers_are_blended(slicer, window):
    labels = np.zeros((SIZE, SIZE, SIZE), np.uint8)
    labels[SIZE // 2 - 3 : SIZE // 2 + 3] = 1
    label = volume(slicer, labels, "vtkMRMLLabelMapVolumeNode")
    layers = slicer.util.setSliceViewerLayers
    layers(background=flat(slicer, 40), fit=True)
    assert np.ptp(middle(frame(slicer))) == 0
    assert middle(frame(slicer))[0] == pytest.approx(40, abs=1)
    layers(foreground=flat(slicer, 200), foregroundOpacity=0.25)
    assert middle(frame(slicer))[0] == pytest.approx(80, abs=2)
    layers(label=label, labelOpacity=1.0)
    assert np.ptp(middle(frame(slicer))) > 50


def test_without_opengl_the_volumes_are_painted(slicer, window, monkeypatch):
    from standin.qmrml import forget_all

    slicer.util.setSliceViewerLayers(background=flat(slicer, 40), foreground=flat(slicer, 200), foregroundOpacity=0.25)
    forget_all()
    monkeypatch.setattr(canvas, "opengl", lambda: "")
    from standin.views import qMRMLSliceView

    view = qMRMLSliceView(slicer.app.layoutManager().sliceWidget("Red").sliceLogic(), None)
    assert (view.renderWindow(), view.interactor()) == (None, None)
    view.resize(100, 100)
    view.show()
    view.forceRender()
    assert view.grab().toImage().pixelColor(50, 50).red() == pytest.approx(80, abs=2)
    view.finalize()


@needs_opengl
def test_displayable_managers_draw(slicer, window):
    scene = slicer.mrmlScene
    ramp = np.linspace(0, 255, SIZE, dtype=np.float32)[None, None].repeat(SIZE, 0).repeat(SIZE, 1)
    background = volume(slicer, ramp)
    slicer.util.setSliceViewerLayers(background=background, fit=True)
    plain = frame(slicer)
    assert np.ptp(plain, axis=-1).max() == 0

    ball = np.indices((SIZE, SIZE, SIZE)) - SIZE // 2
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(background)
    name = segmentation.GetSegmentation().AddEmptySegment("Ball", "Ball", (0, 1, 0))
    ball = ((ball**2).sum(0) < 100).astype(np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(ball, segmentation, name, background)
    red, green, blue = middle(frame(slicer))
    assert green > red + 30
    assert green > blue + 30
    segmentation.GetDisplayNode().SetVisibility(False)

    points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    points.CreateDefaultDisplayNodes()
    points.GetDisplayNode().SetSelectedColor(1, 1, 0)
    points.AddControlPoint(vtk.vtkVector3d(0, 0, 0), "Carina")
    red, green, blue = middle(frame(slicer))
    assert min(red, green) > blue + 100
    with_label = np.abs(frame(slicer) - plain).sum()
    points.GetDisplayNode().SetPointLabelsVisibility(False)
    assert np.abs(frame(slicer) - plain).sum() < with_label
    points.SetDisplayVisibility(False)
    np.testing.assert_array_equal(frame(slicer), plain)

    grid(slicer)
    assert (np.ptp(frame(slicer), axis=-1) > 50).mean() > 0.02
    scene.GetFirstNodeByName("Grid").GetDisplayNode().SetVisibility(False)

    background.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeRainbow")
    coloured = frame(slicer)
    legend = slicer.modules.colors.logic().AddDefaultColorLegendDisplayNode(background)
    legend.SetTitleText("log J")
    assert (frame(slicer) != coloured).any(-1).mean() > 0.005


def grid(slicer):
    """A deformation whose grid is shown in the slices."""
    image = vtk.vtkImageData()
    image.SetDimensions(13, 13, 13)
    image.SetSpacing(8, 8, 8)
    image.SetOrigin(-SIZE, -SIZE, -SIZE)
    image.AllocateScalars(vtk.VTK_DOUBLE, 3)
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(image)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Grid")
    node.SetAndObserveTransformFromParent(transform)
    field = slicer.util.arrayFromGridTransform(node)
    i, j = np.mgrid[:13, :13]
    field[..., 0], field[..., 1], field[..., 2] = 5 * np.sin(i / 2), 5 * np.cos(j / 2), 0
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetVisualizationMode(display.VIS_MODE_GRID)
    display.SetGridSpacingMm(8)
    display.SetVisibility2D(True)
    display.SetVisibility(True)
    return node


def wheel(view, modifiers=QtCore.Qt.KeyboardModifier.NoModifier):
    centre = QtCore.QPointF(view.width / 2, view.height / 2)
    event = QtGui.QWheelEvent(
        centre,
        view.mapToGlobal(centre),
        QtCore.QPoint(),
        QtCore.QPoint(0, 120),
        QtCore.Qt.MouseButton.NoButton,
        modifiers,
        QtCore.Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QtWidgets.QApplication.sendEvent(view, event)


@needs_opengl
def test_mouse_and_wheel_reach_mrml(slicer, window):
    slicer.util.setSliceViewerLayers(background=flat(slicer, 40), fit=True)
    red = slicer.app.layoutManager().sliceWidget("Red")
    red.sliceController().setSliceOffsetValue(0)
    wheel(red.sliceView())
    assert abs(red.mrmlSliceNode().GetSliceOffset()) == pytest.approx(2)
    before = red.mrmlSliceNode().GetFieldOfView()[0]
    slicer.util.clickAndDrag(red, button="Right", start=(50, 50), end=(50, 100))
    assert red.mrmlSliceNode().GetFieldOfView()[0] != before


@needs_opengl
@pytest.mark.parametrize("linked", [True, False])
def test_linked_views_follow_each_other(slicer, window, linked):
    slicer.util.setSliceViewerLayers(background=flat(slicer, 40), fit=True)
    manager = slicer.app.layoutManager()
    red, green = manager.sliceWidget("Red"), manager.sliceWidget("Green")
    red.sliceController().setSliceLink(linked)
    before = green.mrmlSliceNode().GetFieldOfView()[0]
    slicer.util.clickAndDrag(red, button="Right", start=(50, 50), end=(50, 100))
    assert (green.mrmlSliceNode().GetFieldOfView()[0] != before) is linked


def test_scripts_find_what_they_call(slicer, window):
    manager = slicer.app.layoutManager()
    assert manager.sliceViewNames() == ("Red", "Green", "Yellow")
    slicer.util.setSliceViewerLayers(background=flat(slicer, 40), rotateToVolumePlane=True)
    red = manager.sliceWidget("Red")
    red.mrmlSliceNode().SetFieldOfView(1, 1, 1)
    slicer.util.resetSliceViews()
    assert red.mrmlSliceNode().GetFieldOfView()[0] > SIZE
    slicer.util.setViewControllersVisible(False)
    assert not red.sliceController().visible
    slicer.modules.markups.logic().JumpSlicesToLocation(3, 4, 5, True)
    for name, axis in (("Red", 2), ("Green", 1), ("Yellow", 0)):
        position = manager.sliceWidget(name).mrmlSliceNode().GetSliceToRAS().GetElement(axis, 3)
        assert position == pytest.approx((3, 4, 5)[axis])
    with slicer.util.RenderBlocker():
        slicer.util.forceRenderAllViews()
    with pytest.raises(AttributeError):
        manager.threeDWidget(0)


def chart(slicer):
    """A table, and a chart of it, shown as Slicer's modules show them."""
    scene = slicer.mrmlScene
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", "Alpha")
    alpha = np.linspace(-4, 0, 9)
    for name, values in (("log alpha", alpha), ("Dice", 0.9 - 0.02 * alpha**2), ("TRE", 1 + 0.1 * alpha**2)):
        column = vtk.vtkDoubleArray()
        column.SetName(name)
        for value in values:
            column.InsertNextValue(value)
        table.AddColumn(column)
    table.SetUseColumnTitleAsColumnHeader(True)
    table.SetLocked(True)
    node = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", "Over alpha")
    for name, colour in (("Dice", (0.1, 0.4, 0.8)), ("TRE", (0.8, 0.3, 0.1))):
        series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", name)
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetXColumnName("log alpha")
        series.SetYColumnName(name)
        series.SetPlotType(series.PlotTypeScatter)
        series.SetColor(*colour)
        node.AddAndObservePlotSeriesNodeID(series.GetID())
    node.SetTitle("What alpha does")
    node.SetXAxisTitle("log10 alpha")
    node.SetYAxisTitle("")
    slicer.modules.plots.logic().ShowChartInLayout(node)
    slicer.app.applicationLogic().GetSelectionNode().SetActiveTableID(table.GetID())
    slicer.app.applicationLogic().PropagateTableSelection()
    return table


def test_tables_and_charts(slicer, window):
    manager = slicer.app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpPlotTableView)
    assert (manager.tableViewCount, manager.plotViewCount) == (1, 1)
    table = chart(slicer)
    assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpPlotTableView
    slicer.util.setSliceViewerLayers(background=flat(slicer, 40), fit=True)
    view = manager.tableWidget(0).tableView()
    assert view.mrmlTableNode() is table
    model = view.model()
    assert (model.rowCount(), model.columnCount()) == (9, 3)
    assert model.headerData(1, QtCore.Qt.Orientation.Horizontal) == "Dice"
    assert float(model.data(model.index(8, 1))) == pytest.approx(0.9)
    SCREENSHOTS.mkdir(exist_ok=True)
    window.save(SCREENSHOTS / "host-chart.png")
    if canvas.opengl():
        assert manager.plotWidget(0).plotView().chart().GetNumberOfPlots() == 2
        picture = manager.plotWidget(0).plotView().grab().toImage()
        assert picture.pixelColor(3, 3).lightness() > 240
    # The same views, arranged anew.
    red = manager.sliceWidget("Red")
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    assert manager.sliceWidget("Red") is red
    assert red.visible
    assert not view.visible


@needs_opengl
def test_a_picture_of_everything(slicer, window):
    """For people to look at."""
    steps = np.indices((SIZE, SIZE, SIZE)) // 6
    background = volume(slicer, (80 + 80 * (steps.sum(0) % 2)).astype(np.float32))
    jacobian = volume(slicer, np.indices((SIZE, SIZE, SIZE))[2].astype(np.float32) / SIZE - 0.5)
    jacobian.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeRainbow")
    jacobian.GetDisplayNode().SetWindowLevelMinMax(-0.5, 0.5)
    slicer.util.setSliceViewerLayers(background=background, foreground=jacobian, foregroundOpacity=0.4, fit=True)
    legend = slicer.modules.colors.logic().AddDefaultColorLegendDisplayNode(jacobian)
    legend.SetTitleText("log J")
    grid(slicer)
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    points.CreateDefaultDisplayNodes()
    for index in range(4):
        points.AddControlPoint(vtk.vtkVector3d(10 * index, 10, 0), f"L{index}")
    slicer.modules.markups.logic().JumpSlicesToLocation(10, 10, 0, False)
    slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode").SetCrosshairMode(1)
    slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode").SetCrosshairRAS(10, 10, 0)
    SCREENSHOTS.mkdir(exist_ok=True)
    window.save(SCREENSHOTS / "host-views.png")
    assert (np.ptp(frame(slicer), axis=-1) > 50).mean() > 0.1
