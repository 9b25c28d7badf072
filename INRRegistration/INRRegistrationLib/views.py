"""Ways to look at a result in the slice views, and the way back to how they were."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _

from . import hierarchy, looks, results
from .background import Task
from .signal import Signal

KEPT = (
    "BackgroundVolumeID",
    "ForegroundVolumeID",
    "LabelVolumeID",
    "ForegroundOpacity",
    "LabelOpacity",
    "Compositing",
    "LinkedControl",
    "HotLinkedControl",
)
"""What is restored of a slice view's composite node."""
GRID = {"Visibility": 1, "Visibility2D": 1, "Visibility3D": 0, "VisualizationMode": 1, "GridSpacingMm": 15.0}
"""What is set of the transform's display node, to show a grid."""
COLOURS = "vtkMRMLProceduralColorNode"
FLICKER, FRAME = 700, 50
"""Milliseconds between turns, and from one frame of the play to the next."""
FRAMES = 24
"""Frames from no deformation to all of it."""


class Views:
    """One way to look at a time. Signal: `changed` (), when `mode` is another."""

    def __init__(self) -> None:
        self.changed = Signal()
        self.mode = ""
        """One of the names of `MODES`; "" for the views as the user has them."""
        self._nodes: tuple[str, str, str] = ("", "", "")
        self._undo = ExitStack()
        self._task: Task | None = None
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._on_frame)
        self._frame = 0

    def show(self, mode: str, transform: Any) -> None:
        """Look at a result this way; another way is left first."""
        self.restore()
        fixed, moving = (transform.GetNodeReference(role) for role in (hierarchy.FIXED, hierarchy.MOVING))
        self.mode, self._nodes = mode, tuple(node.GetID() for node in (transform, fixed, moving))
        MODES[mode](self, transform, fixed, moving)
        self.changed.emit()

    def restore(self) -> None:
        """The views as they were; where the scene was closed, there is nothing to restore."""
        self._timer.stop()
        if self._task is not None:
            self._task.abandon()
            self._task = None
        if self._there():
            self._undo.close()
        else:
            self._undo.pop_all()
        if self.mode:
            self.mode = ""
            self.changed.emit()

    def uses(self, node: Any) -> bool:
        """Whether what is shown needs a node."""
        return bool(self.mode) and node.GetID() in self._nodes

    def _there(self) -> bool:
        return all(slicer.mrmlScene.GetNodeByID(each) is not None for each in self._nodes)

    # --------------------------------------------------------------------------------------- layers

    def _layers(self, background: Any, foreground: Any, opacity: float) -> None:
        """Put two volumes into all slice views, linked."""
        shown = False
        composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        for node in composites:
            shown = shown or bool(node.GetBackgroundVolumeID() or node.GetForegroundVolumeID())
            values = {name: getattr(node, f"Get{name}")() for name in KEPT}
            for name, value in values.items():
                self._undo.callback(getattr(node, f"Set{name}"), value)
            wanted = {
                "BackgroundVolumeID": background.GetID(),
                "ForegroundVolumeID": foreground.GetID(),
                "ForegroundOpacity": opacity,
                "Compositing": 0,
                "LinkedControl": 1,
                "HotLinkedControl": 1,
            }
            with slicer.util.NodeModify(node):
                for name, value in wanted.items():
                    getattr(node, f"Set{name}")(value)
        if not shown:
            self._fit()

    def _fit(self) -> None:
        """Nothing was shown: the views look somewhere."""
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            before = vtk.vtkMatrix4x4()
            before.DeepCopy(node.GetSliceToRAS())
            self._undo.callback(node.UpdateMatrices)
            self._undo.callback(node.GetSliceToRAS().DeepCopy, before)
            self._undo.callback(node.SetXYZOrigin, *node.GetXYZOrigin())
            self._undo.callback(node.SetFieldOfView, *node.GetFieldOfView())
        slicer.app.layoutManager().resetSliceViews()

    def _add(self, kind: str, name: str) -> Any:
        """A node that is here only while it is looked at."""
        node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
        node.SetSaveWithScene(False)
        node.SetHideFromEditors(True)
        self._undo.callback(results.remove, node)
        return node

    # ----------------------------------------------------------------------------------------- ways

    def _blend(self, transform: Any, fixed: Any, moving: Any) -> None:
        self._layers(fixed, moving, 0.5)

    def _difference(self, transform: Any, fixed: Any, moving: Any) -> None:
        """Half the fixed image and half the negative of the moving one: grey where they look the same.

        Slicer's own Subtract cuts off what is negative.
        """
        display = moving.GetDisplayNode()
        self._undo.callback(display.SetAndObserveColorNodeID, display.GetColorNodeID())
        display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeInvertedGrey")
        self._layers(fixed, moving, 0.5)

    def _grid(self, transform: Any, fixed: Any, moving: Any) -> None:
        display = transform.GetDisplayNode()
        if display is None:
            # Slicer makes colours of its own for it.
            colours = {node.GetID() for node in slicer.util.getNodesByClass(COLOURS)}
            self._undo.callback(_remove_others, COLOURS, colours)
            transform.CreateDefaultDisplayNodes()
            display = transform.GetDisplayNode()
            self._undo.callback(results.remove, display)
        for name, value in GRID.items():
            self._undo.callback(getattr(display, f"Set{name}"), getattr(display, f"Get{name}")())
            getattr(display, f"Set{name}")(value)
        self._layers(fixed, moving, 1.0)

    def _flicker(self, transform: Any, fixed: Any, moving: Any) -> None:
        self._layers(fixed, moving, 0.5)
        self._begin()

    def _play(self, transform: Any, fixed: Any, moving: Any) -> None:
        self._layers(fixed, moving, 0.5)
        self._begin()

    def _begin(self) -> None:
        self._undo.callback(self._whole)
        self._frame = 0
        self._on_frame()

    def _on_frame(self, *_args: Any) -> None:
        transform = slicer.mrmlScene.GetNodeByID(self._nodes[0])
        if transform is None:
            return
        flicker = self.mode == "flicker"
        self._frame += 1
        turn = self._frame % (2 * FRAMES)
        part = self._frame % 2 if flicker else min(turn, 2 * FRAMES - turn) / FRAMES
        _scale(transform, part)
        self._timer.start(FLICKER if flicker else FRAME)

    def _whole(self) -> None:
        transform = slicer.mrmlScene.GetNodeByID(self._nodes[0])
        if transform is not None:
            _scale(transform, 1.0)

    # ------------------------------------------------------------------------------ computed volumes

    def _checkerboard(self, transform: Any, fixed: Any, moving: Any) -> None:
        """Every other square of the fixed image over the moving one."""
        array, spacing = slicer.util.arrayFromVolume(fixed), np.array(fixed.GetSpacing())

        def show(made: tuple[np.ndarray, float]) -> None:
            board, threshold = made
            node = self._add("vtkMRMLScalarVolumeNode", _("Checkerboard"))
            matrix = vtk.vtkMatrix4x4()
            fixed.GetIJKToRASMatrix(matrix)
            results.fill_volume(node, board, slicer.util.arrayFromVTKMatrix(matrix))
            node.SetAndObserveTransformNodeID(fixed.GetTransformNodeID())
            results.display_like(fixed, node, self._undo)
            display = node.GetDisplayNode()
            display.SetSaveWithScene(False)
            display.SetInterpolate(False)
            display.SetAutoThreshold(False)
            display.SetThreshold(threshold, float(np.finfo(np.float32).max))
            display.SetApplyThreshold(True)
            self._layers(moving, node, 1.0)

        self._compute(lambda: looks.checkerboard(array, spacing), show)

    def _jacobian(self, transform: Any, fixed: Any, moving: Any) -> None:
        """The volume change of the whole transform, in a diverging colour table, over the fixed image."""
        vectors, matrix = results.grid_of(transform)
        bounds = [0.0] * 6
        fixed.GetRASBounds(bounds)
        corners = np.array([[bounds[2 * axis + end] for axis, end in enumerate(each)] for each in np.ndindex(2, 2, 2)])

        def compute() -> tuple[np.ndarray, np.ndarray]:
            part = looks.inner_part(matrix, vectors.shape[:3], corners)
            moved = matrix.copy()
            moved[:3, 3] = (matrix @ [*((each.start or 0) for each in part[::-1]), 1])[:3]
            return looks.log_determinant(vectors, matrix)[part], moved

        def show(made: tuple[np.ndarray, np.ndarray]) -> None:
            node = self._add("vtkMRMLScalarVolumeNode", _("Volume change"))
            results.fill_volume(node, *made)
            node.SetAndObserveTransformNodeID(transform.GetTransformNodeID())
            display = self._add("vtkMRMLScalarVolumeDisplayNode", "")
            display.SetAutoWindowLevel(False)
            display.SetWindowLevelMinMax(-1.01 * looks.DOUBLED, looks.DOUBLED)
            display.SetAndObserveColorNodeID(self._colours().GetID())
            node.SetAndObserveDisplayNodeID(display.GetID())
            self._layers(fixed, node, 0.5)
            legend = slicer.modules.colors.logic().AddDefaultColorLegendDisplayNode(node)
            legend.SetTitleText(_("Volume, log2"))
            legend.SetSaveWithScene(False)
            self._undo.callback(results.remove, legend)

        self._compute(compute, show)

    def _colours(self) -> Any:
        """Blue over white to red, and yellow for what folds."""
        table = self._add("vtkMRMLColorTableNode", _("Volume change"))
        table.SetTypeToUser()
        table.SetNumberOfColors(256)
        table.SetColor(0, _("folds"), 1.0, 0.9, 0.0, 1.0)
        for index in range(1, 256):
            part = (index - 1) / 127 - 1
            pale = 1 - abs(part) ** 0.8
            red, blue = (1.0 if part >= 0 else pale), (1.0 if part <= 0 else pale)
            table.SetColor(index, "", 0.15 + 0.85 * red, 0.15 + 0.85 * pale, 0.15 + 0.85 * blue, 1.0)
        return table

    def _compute(self, work: Callable[[], Any], show: Callable[[Any], None]) -> None:
        """Compute off the GUI thread, then show, unless another way to look was chosen meanwhile."""

        def done(made: Any, error: BaseException | None) -> None:
            self._task = None
            if error is not None:
                raise error
            if self._there():
                show(made)

        self._task = Task(work, done)


MODES = {
    "blend": Views._blend,
    "flicker": Views._flicker,
    "checkerboard": Views._checkerboard,
    "difference": Views._difference,
    "grid": Views._grid,
    "jacobian": Views._jacobian,
    "play": Views._play,
}
"""Ways to look, by name."""


def _remove_others(kind: str, known: set[str]) -> None:
    for node in slicer.util.getNodesByClass(kind):
        if node.GetID() not in known:
            slicer.mrmlScene.RemoveNode(node)


def _scale(transform: Any, part: float) -> None:
    """Show so much of a deformation, from 0 to 1."""
    transform.GetTransformFromParent().SetDisplacementScale(part)
