"""The section Tuning: alpha of a conditioned result by a slider, its figures, and alphas that are kept."""

from __future__ import annotations

import contextlib
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from inrreg.protocol import UserError

from . import chart, landmark_lists, pins, renewal, results
from .section import Section
from .tuner import Tuner
from .widgets import choose, chosen, connect, fill, read

STEPS = 1000
"""Of the slider, over alphas from 0 to 1."""
FOLLOW = 100
"""Milliseconds between moves of the chart's line: drawing a chart costs more than moving the images."""


class TuningSection(Section):
    """Visible only while the current result is conditioned."""

    file = "Tuning.ui"

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        self.tuner = Tuner(panel.registrations)
        self._updating = False
        self._note = ""
        self._renewal: renewal.Renewal | None = None
        self._layout: int | None = None
        """The layout to go back to when the chart is put away."""
        self._follow = qt.QTimer()
        self._follow.setSingleShot(True)
        self._follow.setInterval(FOLLOW)
        connect(self._follow.timeout, self._move_line)
        connect(ui.alphaSlider.valueChanged, self._on_slider)
        connect(ui.alphaSpinBox.valueChanged, lambda: self._drag(read(ui.alphaSpinBox, "value")))
        connect(ui.autoButton.clicked, lambda: self._drag(self.tuner.fields.chosen))
        connect(ui.pinButton.clicked, self._on_pin)
        connect(ui.flipButton.clicked, self._on_flip)
        connect(ui.chartButton.toggled, self._on_chart)
        self.tuner.changed.connect(self._show_tuner)
        self.tuner.moved.connect(self._on_moved)
        self.tuner.failed.connect(self._on_failed)
        self._show_tuner()

    # ----------------------------------------------------------------------------------- as a section

    def show(self) -> None:
        """Take up the current result; its fields are there a moment later."""
        self.tuner.take(self.panel.parameters.output_transform)
        self._judge()
        self._show_pins()

    def set_busy(self, busy: bool) -> None:
        """While something else is done, the result stays as it is."""
        self.ui.tuningSection.setEnabled(not busy)
        if busy:
            self._stop_renewal()
        else:
            self.tuner.resume()
            self._renew()

    def forget(self, node: Any) -> None:
        """The result goes, or one that was kept."""
        if node is self.tuner.transform:
            self.tuner.release()
        self._show_pins(node)

    def cleanup(self) -> None:
        """The module is reloaded or Slicer exits."""
        self._follow.stop()
        self._stop_renewal()
        self.tuner.close()

    # --------------------------------------------------------------------------------------- display

    def _show_tuner(self) -> None:
        ui, fields = self.ui, self.tuner.fields
        ui.tuningSection.setVisible(fields is not None)
        self._note = ""
        if fields is None:
            self._stop_renewal()
            ui.chartButton.setChecked(False)
            return
        low, high = self.tuner.range
        self._updating = True
        for name, bound in (("minimum", low), ("maximum", high)):
            ui.alphaSlider.setProperty(name, round(STEPS * bound))
            ui.alphaSpinBox.setProperty(name, bound)
        self._updating = False
        part = (fields.chosen - low) / (high - low)
        for index, stretch in ((0, part), (2, 1 - part)):
            ui.markRow.layout().setStretch(index, round(STEPS * stretch))
        ui.autoButton.setToolTip(
            _("Back to alpha {alpha:g}, which was chosen after the registration").format(alpha=fields.chosen)
        )
        if self.tuner.transform.GetNodeReference(chart.CHART) is not None:
            chart.show(self.tuner.transform, fields, self.tuner.alpha)
        self._show_pins()
        self._on_moved()
        self._judge()

    def _on_moved(self) -> None:
        ui, tuner = self.ui, self.tuner
        self._updating = True
        ui.alphaSlider.setValue(round(STEPS * tuner.alpha))
        ui.alphaSpinBox.setValue(tuner.alpha)
        self._updating = False
        if not tuner.settled:
            self._note = ""
        ui.pinButton.setEnabled(tuner.settled)
        self._renew()
        self._show_figures()
        if not read(self._follow, "active"):
            self._follow.start()

    def _show_figures(self) -> None:
        figures = self.tuner.fields.figures(self.tuner.alpha)
        parts = []
        if "error" in figures:
            parts.append(_("landmark error {value:.2f} mm").format(value=figures["error"]))
        if "dice" in figures:
            parts.append(_("Dice {value:.3f}").format(value=figures["dice"]))
        if not parts:
            parts.append(_("similarity {value:.3f}").format(value=figures["similarity"]))
        parts.append(_("volume change {value:.2f} (SD of its logarithm)").format(value=figures["sd_log"]))
        folding = figures["folding"]
        if folding > chart.FOLDS:
            parts.append(_("<b>{value:.2g} % folds</b>").format(value=100 * folding))
        else:
            parts.append(_("no folding"))
        lines = ["; ".join(parts), self._note]
        volume = self._outdated()
        if volume is not None:
            text = _("'{name}' is still that of alpha {alpha:g}.")
            lines.append(text.format(name=volume.GetName(), alpha=results.alpha_of(volume)))
        self.ui.figuresLabel.setText("<br>".join(filter(None, lines)))

    def _on_failed(self, error: UserError) -> None:
        if self.tuner.fields is None:
            self.panel.show_error(error)
            return
        self._note = _("Shown coarsely: {reason}").format(reason=f"{error.message} {error.hint}")
        self.ui.pinButton.setEnabled(True)
        self._show_figures()

    def _judge(self) -> None:
        """Landmarks that were chosen after the registration tell their error over alpha, too."""
        if self.tuner.fields is None:
            return
        parameters, found = self.panel.parameters, None
        volumes = parameters.fixed, parameters.moving
        lists = parameters.fixed_landmarks, parameters.moving_landmarks
        if None not in (*volumes, *lists):
            with contextlib.suppress(UserError):
                found = landmark_lists.judging(volumes, lists, parameters.guides)
        self.tuner.judge(found)

    def _outdated(self) -> Any:
        """The resampled volume where it is not that of the alpha that is shown."""
        volume = renewal.volume_of(self.tuner.transform)
        return volume if volume is not None and results.alpha_of(volume) not in (None, self.tuner.alpha) else None

    def _renew(self) -> None:
        """Resample the volume again where it is to be had exactly."""
        self._stop_renewal()
        if self.tuner.fields is not None and self.tuner.exact and self._outdated() is not None:
            self._renewal = renewal.Renewal(self.tuner.transform, self.tuner.alpha, self._show_figures)

    def _stop_renewal(self) -> None:
        if self._renewal is not None:
            self._renewal.stop()
            self._renewal = None

    # ---------------------------------------------------------------------------------------- alpha

    def _on_slider(self) -> None:
        self._drag(read(self.ui.alphaSlider, "value") / STEPS)

    def _drag(self, alpha: float) -> None:
        if not self._updating:
            self.tuner.drag(alpha)

    # ----------------------------------------------------------------------------------------- pins

    def _show_pins(self, leaving: Any = None) -> None:
        found = [node for node in pins.of(self.tuner.transform) if node is not leaving]
        entries = [(_("alpha {alpha:.2f}").format(alpha=results.alpha_of(node) or 0), node.GetID()) for node in found]
        for number, selector in enumerate(self._selectors):
            before = chosen(selector)
            known = [identifier for _text, identifier in entries]
            fallback = known[-1] if number and known else None
            fill(selector, entries, before if before in known else fallback)
        self.ui.pinsRow.setVisible(bool(entries))
        self.ui.flipButton.setEnabled(len(entries) > 1)

    def _on_pin(self) -> None:
        try:
            node = pins.pin(self.tuner)
        except UserError as error:
            self.panel.show_error(error)
            return
        first = chosen(self.ui.secondPinSelector)
        self._show_pins()
        if first is not None:
            choose(self.ui.firstPinSelector, first)
        choose(self.ui.secondPinSelector, node.GetID())

    def _on_flip(self) -> None:
        pair = [slicer.mrmlScene.GetNodeByID(chosen(each) or "") for each in self._selectors]
        if None in pair:
            return
        other = pair[0] if self.tuner.exact and self.tuner.alpha == results.alpha_of(pair[1]) else pair[1]
        self.tuner.show(results.alpha_of(other), other)

    @property
    def _selectors(self) -> tuple[Any, Any]:
        return self.ui.firstPinSelector, self.ui.secondPinSelector

    # ---------------------------------------------------------------------------------------- chart

    def _on_chart(self) -> None:
        layout = slicer.app.layoutManager()
        if not read(self.ui.chartButton, "checked"):
            if self._layout is not None:
                layout.setLayout(self._layout)
                self._layout = None
            return
        node = chart.show(self.tuner.transform, self.tuner.fields, self.tuner.alpha)
        self._layout = read(layout, "layout")
        slicer.modules.plots.logic().ShowChartInLayout(node)

    def _move_line(self) -> None:
        if self.tuner.transform is not None:
            chart.move(self.tuner.transform, self.tuner.alpha)
