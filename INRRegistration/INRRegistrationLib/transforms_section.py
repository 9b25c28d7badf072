"""The section Transforms: export a result, load a transform, bring other nodes along, map the change of volume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ctk
import slicer
from slicer.i18n import tr as _

from inrreg.protocol import UserError

from . import hierarchy, masks, results, series
from .applying import Inverse, Resampled, known_inverse, put_under
from .exporting import FORMATS, MODEL, Export, ExportRequest
from .loading import Load
from .operation import Operation
from .section import Section
from .selectors import Selectors
from .ventilation import VolumeChange, show_over
from .widgets import ask_for_file, chosen, connect, fill, read

if TYPE_CHECKING:
    from .panel import Panel

PARTS = {
    "whole": _("Whole"),
    "prealignment": _("Prealignment"),
    "initial": _("Initial transform"),
    "deformable": _("Deformable"),
    "coarse": _("Deformable: coarse"),
    "fine": _("Deformable: fine"),
}
LOADABLE = "*.h5 *.tfm *.txt *.mat *.nrrd *.nii.gz *.nii *.mha *.dcm model.json"


class TransformsSection(Section):
    """Works with the panel's output transform: the result of the last registration, or a loaded one."""

    file = "Transforms.ui"

    def __init__(self, panel: Panel) -> None:
        super().__init__(panel)
        ui = self.ui
        self._folder = ""
        """Where the user exported to last."""
        self._said = ""
        """What came of the last export, until the result is another."""
        self._busy, self._result = False, ""
        fill(ui.formatSelector, [(text, ending) for ending, text in FORMATS.items()])
        fill(ui.directionSelector, [(_("Fixed to moving"), False), (_("Moving to fixed (inverse)"), True)])
        self._selectors = Selectors(ui, {"apply_grid": "gridSelector"}, self._on_grid_chosen)
        ui.nodesSelector.setMRMLScene(slicer.mrmlScene)
        for box in (ui.formatSelector, ui.partSelector, ui.directionSelector):
            connect(box.currentIndexChanged, self._show_state)
        for edit in (ui.fixedSeriesEdit, ui.movingSeriesEdit):
            edit.setProperty("filters", ctk.ctkPathLineEdit.Dirs)
            connect(edit.currentPathChanged, self._show_state)
        connect(ui.nodesSelector.checkedNodesChanged, self._show_state)
        connect(ui.newNodesCheckBox.toggled, self._show_state)
        connect(ui.exportButton.clicked, self.on_export)
        connect(ui.loadButton.clicked, self.on_load)
        connect(ui.toFixedButton.clicked, lambda: self.on_move(inverse=False))
        connect(ui.toMovingButton.clicked, lambda: self.on_move(inverse=True))
        connect(ui.volumeChangeButton.clicked, self.on_volume_change)

    @property
    def transform(self) -> Any:
        """The transform that all this is about, or None."""
        return self.panel.parameters.output_transform

    # --------------------------------------------------------------------------------------- display

    def show(self) -> None:
        self._selectors.show(self.panel.parameters)
        result = self.transform.GetAttribute(results.RESULT) if self.transform is not None else ""
        if result != self._result:
            self._result, self._said = result, ""
        part = chosen(self.ui.partSelector)
        try:
            found = results.parts_of(self.transform)
        except UserError:
            found = ["whole"]
        fill(self.ui.partSelector, [(PARTS[name], name) for name in found], part)

    def set_busy(self, busy: bool) -> None:
        self._busy = busy
        self._show_state()

    def forget(self, node: Any) -> None:
        self._selectors.forget(node)

    def _show_state(self) -> None:
        """Show what can be done, and why not."""
        ui, ending = self.ui, chosen(self.ui.formatSelector)
        for box in (ui.partSelector, ui.directionSelector, ui.spacingSpinBox):
            box.setEnabled(ending != MODEL)
        for side in ("fixed", "moving"):
            volume = self.transform.GetNodeReference(getattr(hierarchy, side.upper())) if self.transform else None
            asked = ending == ".dcm" and volume is not None and series.of_volume(volume) is None
            for widget in (getattr(ui, f"{side}SeriesLabel"), getattr(ui, f"{side}SeriesEdit")):
                widget.setVisible(asked)
        reason = self._reason(lambda: self._request(f"x{'' if ending == MODEL else ending}").check())
        ui.exportButton.setEnabled(not self._busy and not reason)
        ui.exportButton.setToolTip(reason)
        ui.exportLabel.setText(reason or self._said)
        ui.exportLabel.setVisible(bool(reason or self._said))
        ui.loadButton.setEnabled(not self._busy)
        reason = self._reason(self._check_move)
        for button, tip in (
            (ui.toFixedButton, _("From the moving side to the fixed one")),
            (ui.toMovingButton, _("From the fixed side to the moving one, by the result's inverse")),
        ):
            button.setEnabled(not self._busy and not reason)
            button.setToolTip(reason or tip)
        ui.gridSelector.setEnabled(read(ui.newNodesCheckBox, "checked"))
        ui.volumeChangeButton.setEnabled(not self._busy and not self._reason(lambda: results.check(self.transform)))

    def _reason(self, check: Callable[[], Any]) -> str:
        try:
            check()
        except UserError as error:
            return str(error)
        return ""

    def _on_grid_chosen(self, name: str, node: Any) -> None:
        self.panel.parameters.apply_grid = node

    # ---------------------------------------------------------------------------------------- export

    def _request(self, output: str) -> ExportRequest:
        ui, parameters = self.ui, self.panel.parameters
        return ExportRequest(
            transform=self.transform,
            output=output,
            part=chosen(ui.partSelector) or "whole",
            inverse=bool(chosen(ui.directionSelector)),
            spacing=float(read(ui.spacingSpinBox, "value")),
            mask=parameters.fixed_mask,
            mask_segments=parameters.fixed_mask_segments,
            fixed_folder=read(ui.fixedSeriesEdit, "currentPath"),
            moving_folder=read(ui.movingSeriesEdit, "currentPath"),
        )

    def on_export(self) -> None:
        """Ask for a file and write it."""
        ending = chosen(self.ui.formatSelector)
        name = self.transform.GetName().replace("/", "-").replace(".", "-")
        suffix = "" if ending == MODEL else ending
        inverse = suffix and chosen(self.ui.directionSelector)
        proposed = f"{name} inverse{suffix}" if inverse else f"{name}{suffix}"
        pattern = f"{FORMATS[ending]} (*{suffix})" if suffix else _("New folder (*)")
        path = ask_for_file(_("Export transform"), str(Path(self._folder) / proposed), pattern, save=True)
        if not path:
            return
        if suffix and not path.lower().endswith(suffix):
            path += suffix
            question = _("{path} exists. Replace it?").format(path=path)
            if Path(path).exists() and not slicer.util.confirmOkCancelDisplay(question):
                return
        self._folder, self._said = str(Path(path).parent), ""
        begin = self.panel.registrations.begin
        self.panel.perform(lambda: begin(lambda *place: Export(self._request(path), *place)), self._on_exported)

    def _on_exported(self, operation: Export) -> None:
        self._said = described(operation.figures)
        self.panel.show_outcome(_("Written: {path}").format(path=operation.figures["output"]))

    # ------------------------------------------------------------------------------------------ load

    def on_load(self) -> None:
        """Ask for a transform file, or a model, and bring it into the scene."""
        pattern = f"{_('Transforms and models')} ({LOADABLE})"
        path = ask_for_file(_("Load transform"), self._folder, pattern)
        if not path:
            return
        self._folder, parameters = str(Path(path).parent), self.panel.parameters
        begin, volumes = self.panel.registrations.begin, (parameters.fixed, parameters.moving)
        self.panel.perform(lambda: begin(lambda *place: Load(path, *volumes, *place)), self._on_loaded)

    def _on_loaded(self, operation: Load) -> None:
        node = operation.transform
        if node.IsA("vtkMRMLGridTransformNode"):
            self.panel.parameters.output_transform = node
        self.panel.show_outcome(_("Loaded: {name}, from fixed to moving.").format(name=node.GetName()))

    # ----------------------------------------------------------------------------------------- apply

    def _check_move(self) -> None:
        if self.transform is None:
            raise UserError("result", _("There is no transform yet."), _("Register, or load one."))
        if not self.ui.nodesSelector.checkedNodes():
            raise UserError("nodes", _("Choose the nodes to move."))

    def on_move(self, *, inverse: bool) -> None:
        """Bring the chosen nodes to the other side: under the transform or its inverse, or as new nodes."""
        transform, nodes = self.transform, list(self.ui.nodesSelector.checkedNodes())
        begin = self.panel.registrations.begin
        if read(self.ui.newNodesCheckBox, "checked"):
            grid = self.panel.parameters.apply_grid
            make = lambda *place: Resampled(transform, nodes, inverse, grid, *place)  # noqa: E731
            self.panel.perform(lambda: begin(make), self._on_resampled)
        elif not inverse:
            self._put_under(transform, known_inverse(transform), nodes)
        elif (known := known_inverse(transform)) or all(transform in hierarchy.chain(node) for node in nodes):
            self._put_under(known, transform, nodes)
        else:
            ids = [node.GetID() for node in nodes]
            self.panel.perform(
                lambda: begin(lambda *place: Inverse(transform, *place)),
                lambda operation: self._on_inverse(operation, transform, ids),
            )

    def _on_inverse(self, operation: Operation, transform: Any, ids: list[str]) -> None:
        found = [slicer.mrmlScene.GetNodeByID(identifier) for identifier in ids]
        self._put_under(operation.transform, transform, [node for node in found if node is not None])

    def _put_under(self, transform: Any, opposite: Any, nodes: list[Any]) -> None:
        self.panel.show_idle()
        try:
            put_under(transform, opposite, nodes)
        except UserError as error:
            self.panel.show_error(error)
        else:
            names = ", ".join(node.GetName() for node in nodes)
            side = _("moving") if opposite is self.transform else _("fixed")
            self.panel.show_outcome(_("Moved to the {side} side: {names}.").format(side=side, names=names))

    def _on_resampled(self, operation: Resampled) -> None:
        names = ", ".join(node.GetName() for node in operation.nodes)
        self.panel.show_outcome(_("Made: {names}.").format(names=names))

    # ------------------------------------------------------------------------------- change of volume

    def on_volume_change(self) -> None:
        """Map the determinant and show it over the fixed volume."""
        begin, transform = self.panel.registrations.begin, self.transform
        self.panel.perform(lambda: begin(lambda *place: VolumeChange(transform, *place)), self._on_mapped)

    def _on_mapped(self, operation: VolumeChange) -> None:
        masks.preview(self.panel.parameters.fixed_mask, False)  # it would lie over the map
        fixed = slicer.mrmlScene.GetNodeByID(self.transform.GetNodeReferenceID(hierarchy.FIXED) or "")
        show_over(fixed, operation.volume)
        text = _("Change of volume from {low:+.0%} to {high:+.0%}: {name}.")
        found = operation.figures
        self.panel.show_outcome(
            text.format(low=found["minimum"], high=found["maximum"], name=operation.volume.GetName())
        )


def described(figures: dict[str, Any]) -> str:
    """What an export cost, in words."""
    if "limit" not in figures:
        return _("The model as it is, exact at every point.")
    if "spacing" not in figures:
        return _("Exact: a matrix.")
    apart = " × ".join(f"{value:.1f}" for value in figures["spacing"])
    if "interpolation_error" in figures:
        text = _("Largest error {error:.2f} mm, vectors {apart} mm apart.")
        return text.format(error=figures["interpolation_error"], apart=apart)
    text = _("Points come back to within {p99:.2f} mm (99 %), {max:.2f} mm at most")
    lines = [text.format(**figures["return_error"])]
    if "in_mask" in figures:
        lines.append(_("in the fixed mask {p99:.2f} mm and {max:.2f} mm").format(**figures["in_mask"]))
    return ", ".join(lines) + _("; vectors {apart} mm apart.").format(apart=apart)
