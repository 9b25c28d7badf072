"""The panel: shows the scene's parameters, starts and cancels a registration, tells how it goes."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Iterator
from typing import Any

import ctk
import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from inrreg import protocol
from inrreg.protocol import UserError

from . import embedded, masks, results
from .evaluation_section import EvaluationSection
from .logic import Registrations
from .mask_menu import MaskMenu
from .masks import MakeMask
from .operation import CANCELLED, DONE, Operation
from .parameters import Parameters
from .request import Request
from .run import Run
from .section import Section
from .segment_menu import SegmentMenu
from .selectors import Selectors
from .series_section import SeriesSection
from .settings_form import SettingsForm
from .transforms_section import TransformsSection
from .tuning_section import TuningSection
from .views_section import ViewsSection
from .widgets import choose, chosen, connect, fill, read

REGISTER_KEY = "Ctrl+Return"
BOX = "QLabel {{ background: {}; color: {}; border: 1px solid {}; padding: 8px; }}"
ERROR_STYLE = BOX.format("#fdecea", "#7a1c12", "#e0a39b")
WARNING_STYLE = BOX.format("#fff6dd", "#5c4300", "#e3c877")
MUTED_STYLE = "QLabel, QLabel:disabled { color: gray; }"
SELECTORS = {
    "fixed": "fixedSelector",
    "moving": "movingSelector",
    "fixed_mask": "fixedMaskSelector",
    "moving_mask": "movingMaskSelector",
    "fixed_labels": "fixedLabelsSelector",
    "moving_labels": "movingLabelsSelector",
    "sliding": "slidingSelector",
    "rigid": "rigidSelector",
    "exclude": "excludeSelector",
    "initial_transform": "initialSelector",
    "output_transform": "transformSelector",
    "output_volume": "volumeSelector",
}
"""Node selectors of the .ui file by parameter."""
SEGMENTS = {
    "fixed_mask": "fixedSegmentsButton",
    "moving_mask": "movingSegmentsButton",
    "sliding": "slidingSegmentsButton",
    "rigid": "rigidSegmentsButton",
    "exclude": "excludeSegmentsButton",
}
"""Buttons that choose segments, by the parameter whose segments they are of."""
HOST = "INRRegistration/Host"
"""Of the user's settings: where to compute."""
SECTIONS: tuple[type[Section], ...] = (
    TuningSection,
    ViewsSection,
    EvaluationSection,
    TransformsSection,
    SeriesSection,
)
"""What stands below the registration, from top to bottom."""


class Panel(VTKObservationMixin):
    """Binds the widgets of `INRRegistration.ui` to the scene's parameters and to `Registrations`."""

    def __init__(self, ui: Any, registrations: Registrations) -> None:
        super().__init__()
        self.ui = ui
        self.registrations = registrations
        self.run: Operation | None = None
        """What the progress bar is about: a registration, or what a section performs."""
        self._done: Callable[[Any], None] = self._show_done
        self._updating = False
        self._ending: Iterator[None] | None = None
        """What is still to be shown of an operation that has ended."""
        self._shown_later = False
        """Whether the parameters that change will be shown in a moment."""
        self._progressed = False
        self._outcome = ""
        """What came of the last registration: shown until something is changed."""
        ui.researchLabel.setStyleSheet(MUTED_STYLE)
        ui.presetLabel.setStyleSheet(MUTED_STYLE)
        fill(ui.presetSelector, [(name, name) for name in protocol.presets()])
        fill(ui.prealignSelector, [(_("None"), "none"), (_("Rigid"), "rigid"), (_("Affine"), "affine")])
        self._form = SettingsForm(ui.settingsBox)
        self._menus = {name: SegmentMenu(getattr(ui, button)) for name, button in SEGMENTS.items()}
        for side in ("fixed", "moving"):
            MaskMenu(getattr(ui, f"{side}MakeMaskButton"), lambda kind, side=side: self._make_mask(side, kind))
        self._selectors = Selectors(ui, SELECTORS, self._on_node_chosen)
        self.sections = [kind(self) for kind in SECTIONS]
        self._connect()
        self.enter()
        self.show_idle()

    # ------------------------------------------------------------------------------ life in the scene

    def enter(self) -> None:
        """Take up the scene's parameters: the module is opened, or there is a new scene."""
        results.make_linear()
        self.parameters = Parameters.of_scene()
        self.removeObservers(self._on_parameters_modified)
        self.addObserver(self.parameters.node, "ModifiedEvent", self._on_parameters_modified)
        self._show_parameters()

    def cleanup(self) -> None:
        """Let go of everything: the module is reloaded or Slicer exits."""
        self.removeObservers()
        self._ending = None
        for section in self.sections:
            section.cleanup()
        self.registrations.process.hello.disconnect(self._on_hello)
        self.registrations.close()

    def _connect(self) -> None:
        ui = self.ui
        for name, menu in self._menus.items():
            menu.changed.connect(lambda segments, name=name: self._set(f"{name}_segments", segments))
        connect(ui.presetSelector.currentIndexChanged, lambda: self._set("preset", chosen(ui.presetSelector)))
        connect(ui.prealignSelector.currentIndexChanged, lambda: self._set("prealign", chosen(ui.prealignSelector)))
        connect(ui.deviceSelector.currentIndexChanged, lambda: self._set("device", chosen(ui.deviceSelector)))
        connect(ui.threadsSpinBox.valueChanged, lambda: self._set("threads", read(ui.threadsSpinBox, "value")))
        connect(ui.seedSpinBox.valueChanged, lambda: self._set("seed", read(ui.seedSpinBox, "value")))
        connect(ui.timeSpinBox.valueChanged, lambda: self._set("time_budget", float(read(ui.timeSpinBox, "value"))))
        ui.priorEdit.setProperty("filters", ctk.ctkPathLineEdit.Files)
        connect(ui.priorEdit.currentPathChanged, lambda: self._set("prior", read(ui.priorEdit, "currentPath")))
        ui.hostEdit.setText(self.host)
        connect(ui.hostEdit.editingFinished, self._on_host_edited)
        connect(ui.resampleCheckBox.toggled, lambda: self._set("resample", read(ui.resampleCheckBox, "checked")))
        connect(ui.previewCheckBox.toggled, self._on_preview)
        connect(ui.applyButton.clicked, self.on_apply)
        connect(ui.advancedSection.contentsCollapsed, self._on_advanced_opened)
        self._form.changed.connect(self._on_settings_changed)
        self.registrations.process.hello.connect(self._on_hello)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._on_scene_start_close)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self._on_scene_end_close)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self._on_scene_end_import)
        # Selectors hear of it after us, with a lower priority.
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAboutToBeRemovedEvent, self._on_node_removed)

    def _on_scene_start_close(self, *_: Any) -> None:
        self._updating = self._selectors.quiet = True

    def _on_scene_end_close(self, *_: Any) -> None:
        self._updating = self._selectors.quiet = False
        self.enter()
        self.show_idle()

    def _on_scene_end_import(self, *_: Any) -> None:
        self.enter()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_node_removed(self, scene: Any, event: str, node: Any) -> None:
        if not self._updating:
            self._selectors.forget(node)
            for section in self.sections:
                section.forget(node)
            if node.GetNodeReferenceID(embedded.MODEL):
                # Its model's texts may be nobody's any more, once it is gone.
                qt.QTimer.singleShot(0, embedded.remove_orphans)

    def _on_parameters_modified(self, *_: Any) -> None:
        if not self._updating and not self._shown_later:
            # What is said of the last registration is about parameters that have just changed.
            self._outcome = ""
            self.ui.errorLabel.setVisible(False)
            self._show_parameters()

    # ------------------------------------------------------------------------------------ parameters

    def _set(self, name: str, value: Any) -> None:
        if not self._updating:
            setattr(self.parameters, name, value)

    def _on_node_chosen(self, name: str, node: Any) -> None:
        before = getattr(self.parameters, name)
        with slicer.util.NodeModify(self.parameters.node):
            self._set(name, node)
            if name in ("fixed_mask", "moving_mask"):
                masks.preview(before, False)
                masks.preview(node, True)
            if name in SEGMENTS:
                self._set(f"{name}_segments", None)  # the choice was among another segmentation's
            if name in ("fixed", "moving"):
                # The outputs of another pair are not to be overwritten by accident.
                self._set("output_transform", None)
                self._set("output_volume", None)

    def _on_settings_changed(self, overrides: dict[str, Any]) -> None:
        self._set("overrides", {**self.parameters.overrides, self.parameters.preset: overrides})

    def _show_parameters(self) -> None:
        self._show_own_parameters()
        for section in self.sections:
            self._show_section(section)
        self._show_button()

    def _show_section(self, section: Section) -> None:
        self._updating = True
        try:
            section.show()
        finally:
            self._updating = False

    def _show_own_parameters(self) -> None:
        ui, parameters = self.ui, self.parameters
        self._updating = True
        try:
            self._selectors.show(parameters)
            for name, menu in self._menus.items():
                menu.show(getattr(parameters, name), getattr(parameters, f"{name}_segments"))
            ui.presetSelector.setCurrentIndex(ui.presetSelector.findData(parameters.preset))
            choose(ui.prealignSelector, parameters.prealign)
            self._show_devices()
            ui.threadsSpinBox.setValue(parameters.threads)
            ui.seedSpinBox.setValue(parameters.seed)
            ui.timeSpinBox.setValue(int(parameters.time_budget))
            if read(ui.priorEdit, "currentPath") != parameters.prior:
                ui.priorEdit.setCurrentPath(parameters.prior)
            ui.resampleCheckBox.setChecked(parameters.resample)
            ui.previewCheckBox.setChecked(parameters.preview)
            ui.volumeSelector.setEnabled(parameters.resample)
            ui.fixedMakeMaskButton.setEnabled(parameters.fixed is not None)
            ui.movingMakeMaskButton.setEnabled(parameters.moving is not None)
            if preset := protocol.presets().get(parameters.preset):
                ui.presetLabel.setText(preset.purpose[:1].upper() + preset.purpose[1:])
                ui.presetLabel.setToolTip(preset.source)
                ui.priorEdit.setEnabled(preset.prior)
                self._form.show(preset.settings, parameters.overrides.get(preset.name, {}))
        finally:
            self._updating = False

    # ------------------------------------------------------------------------------------------ masks

    def _make_mask(self, side: str, kind: str) -> None:
        """Make a mask of the fixed or the moving volume, in place of the one that was made of it before."""
        volume, known = getattr(self.parameters, side), getattr(self.parameters, f"{side}_mask")
        if volume is None:
            self.show_error(UserError("input", _("Choose a {side} volume first.").format(side=side)))
            return
        known = masks.replaceable(known, volume)
        if kind == masks.LOBES:
            self.show_idle()
            try:
                self._take_mask(side, volume, masks.lobes(volume, known))
            except UserError as error:
                self.show_error(error)
            return
        self.perform(
            lambda: self.registrations.begin(lambda *place: MakeMask(volume, kind, known, *place)),
            lambda made: self._take_mask(side, volume, made.mask),
        )

    def _take_mask(self, side: str, volume: Any, mask: Any) -> None:
        with slicer.util.NodeModify(self.parameters.node):
            setattr(self.parameters, f"{side}_mask", mask)
            setattr(self.parameters, f"{side}_mask_segments", None)
        masks.preview(mask, True)
        masks.show_volume(volume)
        self.show_outcome(_("Look at the mask in the slices before you trust it: {name}.").format(name=mask.GetName()))

    # ---------------------------------------------------------------------------------------- devices

    def _on_advanced_opened(self) -> None:
        """The devices are the worker's to know; without PyTorch there is nothing to ask yet."""
        from . import dependencies

        here = not self.host and dependencies.satisfied("torch", dependencies.TORCH)
        if not read(self.ui.advancedSection, "collapsed") and here:
            self.registrations.warm_up()

    def _on_hello(self, data: dict[str, Any]) -> None:
        self._log(", ".join(f"{name} {version}" for name, version in data["versions"].items()))
        self._show_devices()

    def _show_devices(self) -> None:
        """Those that the worker found, and the chosen one even where it is not among them."""
        known = {"auto": _("Automatic"), "cpu": _("CPU")}
        known |= {device["id"]: device["name"] for device in self.registrations.process.devices}
        wanted = self.parameters.device
        if wanted not in known:
            asked = bool(self.registrations.process.devices)
            known[wanted] = _("{device} (not present)").format(device=wanted) if asked else wanted
        fill(self.ui.deviceSelector, [(name, identifier) for identifier, name in known.items()], wanted)

    # ------------------------------------------------------------------------------------------- host

    @property
    def host(self) -> str:
        """Where to compute: of this user, not of the scene, which others open on other computers."""
        return qt.QSettings().value(HOST) or ""

    def _on_host_edited(self) -> None:
        qt.QSettings().setValue(HOST, read(self.ui.hostEdit, "text").strip())
        self._show_button()

    def agreed(self) -> bool:
        """Whether the user has agreed, once for each host, that images leave this computer."""
        key = f"{HOST}/Agreed/{self.host.replace('/', '|')}"
        if not self.host or qt.QSettings().value(key):
            return True
        text = _(
            "The volumes, masks, structures, landmarks and transforms of this registration will be sent to {host} over "
            "ssh, and removed there when the connection ends. File and patient names are not sent. Send them?"
        )
        if not slicer.util.confirmOkCancelDisplay(text.format(host=self.host)):
            return False
        qt.QSettings().setValue(key, "1")
        return True

    # ------------------------------------------------------------------------------------------- run

    def _on_preview(self) -> None:
        wanted = read(self.ui.previewCheckBox, "checked")
        self._set("preview", wanted)
        if not wanted and isinstance(self.run, Run):
            self.run.end_preview()

    def on_apply(self) -> None:
        """The button: register, or cancel."""
        if self.run is not None:
            self.run.cancel()
            if self.run is not None:
                self._show_button()
            return
        self.ui.logText.clear()
        if self.agreed():
            self.perform(lambda: self.registrations.start(self._request), self._show_done)

    def _request(self) -> Request:
        return dataclasses.replace(Request.of(self.parameters), host=self.host)

    def perform(self, start: Callable[[], Operation], done: Callable[[Any], None]) -> None:
        """Show an operation's progress, with Cancel, and call `done(operation)` once it has succeeded.

        What goes wrong is shown here, what `start` raises, too.
        """
        self.show_idle()
        try:
            run = start()
        except UserError as error:
            self.show_error(error)
            return
        self.run, self._done, self._ending = run, done, None
        run.progress.connect(self._on_progress)
        run.alive.connect(self._on_alive)
        run.lost.connect(self._on_lost)
        run.log.connect(self._log)
        run.finished.connect(self._on_finished)
        self._progressed = False
        self._tell(_("Preparing…"))
        self.ui.progressBar.setMaximum(0)
        self.ui.progressBar.setVisible(True)
        self._show_button()

    def _on_alive(self, seconds: float | None) -> None:
        if seconds is None:
            self._tell(_("The registration process has not answered for a while. Wait for it, or cancel."))
        elif not self._progressed:
            self._tell(_("Preparing… {time}").format(time=duration(seconds)))

    def _on_lost(self) -> None:
        self._tell(_("The connection was lost. The registration goes on there, and is sought again. Wait, or cancel."))

    def _on_progress(self, data: dict[str, Any]) -> None:
        self._progressed = True
        bar = self.ui.progressBar
        bar.setMaximum(1000)
        bar.setValue(int(1000 * data["step"] / max(1, data["steps"])))
        if data["loss"] is None:
            text = _("{stage}: step {step} of {steps}")
        else:
            text = _("{stage}: step {step} of {steps}, loss {loss:.4g} (lower is better), {left} left")
        self._tell(text.format(**{**data, "stage": str(data["stage"]).capitalize()}, left=duration(data["eta"])))

    def _on_finished(self) -> None:
        run = self.run
        if run.state == DONE:
            self._ending = self._end(run)
            self._go_on(self._ending)
            return
        self.run = None
        self.show_idle()
        if run.state == CANCELLED:
            self.show_outcome(_("Cancelled. The scene is as it was."))
        else:
            self.show_error(run.error)

    def _go_on(self, ending: Iterator[None]) -> None:
        if ending is not self._ending:
            return  # there is another operation by now
        try:
            next(ending)
        except StopIteration:
            pass
        except BaseException:
            self.run = self._ending = None
            self.show_idle()
            raise
        else:
            qt.QTimer.singleShot(0, lambda: self._go_on(ending))

    def _end(self, run: Operation) -> Iterator[None]:
        """Show what came of an operation, a part in each turn of the event loop: together it would be a long stop."""
        self._hide_outcome()
        self._shown_later = True
        try:
            self._done(run)
        finally:
            self._shown_later = False
        yield
        # The result may be another in the same nodes.
        self._show_own_parameters()
        for section in self.sections:
            yield
            self._show_section(section)
        for section in self.sections:
            yield
            section.set_busy(False)
        yield
        self.run = self._ending = None
        self._show_own_button()
        if run.warnings:
            self._show_box(WARNING_STYLE, _("Look at this result with care"), " ".join(run.warnings))

    def _show_done(self, run: Run) -> None:
        # So that registering again replaces this result instead of adding another.
        with slicer.util.NodeModify(self.parameters.node):
            self.parameters.output_transform = run.transform
            if run.volume is not None:
                self.parameters.output_volume = run.volume
        text = _("Done in {time}: {moving} is under the transform {transform}.")
        moving = run.transform.GetNodeReference("INRRegistration.Moving").GetName()
        text = text.format(time=duration(run.seconds), moving=moving, transform=run.transform.GetName())
        self.show_outcome(text)
        for name, value in run.metrics.items():
            self._log(f"{name}: {value}")

    # --------------------------------------------------------------------------------------- display

    def show_idle(self) -> None:
        """Nothing runs: no progress, no outcome."""
        self._hide_outcome()
        self._show_button()

    def _hide_outcome(self) -> None:
        self._outcome = ""
        self.ui.progressBar.setVisible(False)
        self.ui.errorLabel.setVisible(False)

    def show_error(self, error: UserError) -> None:
        """Say in the panel what went wrong and what to do about it."""
        self._show_box(ERROR_STYLE, error.message, error.hint)
        self._log(f"{error.message} {error.hint}")

    def _show_box(self, style: str, title: str, text: str) -> None:
        label = self.ui.errorLabel
        label.setStyleSheet(style)
        label.setText(f"<b>{html.escape(title)}</b><br>{html.escape(text)}")
        label.setVisible(True)

    def show_outcome(self, text: str) -> None:
        """Say what came of an operation, until something is changed."""
        self._outcome = text
        self._tell(text)

    def _tell(self, text: str) -> None:
        self.ui.statusLabel.setText(text)
        self.ui.statusLabel.setVisible(bool(text))

    def _show_button(self) -> None:
        for entry in self.sections:
            entry.set_busy(self.run is not None)
        self._show_own_button()

    def _show_own_button(self) -> None:
        button = self.ui.applyButton
        running = self.run is not None
        cancelling = running and self.run.state == "cancelling"
        for section in ("inputsSection", "outputsSection", "moreSection", "advancedSection"):
            getattr(self.ui, section).setEnabled(not running)
        button.setText(_("Cancelling…") if cancelling else _("Cancel") if running else _("Register"))
        # Qt takes it away with the text.
        button.setShortcut(qt.QKeySequence(REGISTER_KEY))
        if running:
            button.setEnabled(not cancelling)
            button.setToolTip("")
            return
        try:
            Request.of(self.parameters).check()
        except UserError as reason:
            button.setEnabled(False)
            button.setToolTip(str(reason))
            self._tell(str(reason))
        else:
            button.setEnabled(True)
            button.setToolTip(_("Move the moving volume onto the fixed one (Ctrl+Return)"))
            self._tell(self._outcome)

    def _log(self, text: str) -> None:
        self.ui.logText.appendPlainText(text)


def duration(seconds: float | None) -> str:
    """Seconds for people: '8 s', '2 min 5 s'."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return _("less than 1 s")
    seconds = round(seconds)
    return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"
