"""The section Series: a sequence registered to one of its items, and sequences of transforms played."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from inrreg.protocol import UserError

from . import sequences
from .course import Course, file_of
from .phases import Phases, SeriesRequest
from .section import Section
from .selectors import Selectors
from .widgets import choose, chosen, connect, fill, read

MASKS = {"": _("None"), "auto": _("Body"), "lungs": _("Lungs (CT)")}


class SeriesSection(Section, VTKObservationMixin):
    """Registers by the panel's preset and settings; its slider goes through what the shown browser has."""

    file = "Series.ui"

    def __init__(self, panel: Any) -> None:
        Section.__init__(self, panel)
        VTKObservationMixin.__init__(self)
        ui = self.ui
        self.course = Course()
        self.browser: Any = None
        self._busy = self._updating = False
        self._said = ""
        fill(ui.seriesMaskSelector, [(text, mask) for mask, text in MASKS.items()])
        names = {"series": "sequenceSelector", "series_landmarks": "seriesLandmarksSelector"}
        self._selectors = Selectors(ui, names, self._on_chosen)
        connect(ui.referenceSelector.currentIndexChanged, lambda: self._set("series_reference", ui.referenceSelector))
        connect(ui.seriesMaskSelector.currentIndexChanged, lambda: self._set("series_mask", ui.seriesMaskSelector))
        connect(ui.registerSeriesButton.clicked, self.on_register)
        connect(ui.courseButton.clicked, self.on_course)
        connect(ui.itemSlider.valueChanged, self._on_slider)

    # ----------------------------------------------------------------------------------- as a section

    def show(self) -> None:
        parameters, ui = self.panel.parameters, self.ui
        self._updating = True
        self._selectors.show(parameters)
        items = []
        if (sequence := parameters.series) is not None:
            unit = sequence.GetIndexUnit() or ""
            for number in range(sequence.GetNumberOfDataNodes()):
                items.append((f"{sequence.GetNthIndexValue(number)} {unit}".rstrip(), number))
        fill(ui.referenceSelector, items, parameters.series_reference)
        choose(ui.seriesMaskSelector, parameters.series_mask)
        self._updating = False
        if self.course.browser is not None and not self.course.uses(parameters.output_transform):
            self._put_away()
        if self.browser is not None and self.browser.GetScene() is None:
            self._watch(None)
        self._show_state()

    def set_busy(self, busy: bool) -> None:
        """While something else is done, no course is shown: the moving volume is under its result."""
        self._busy = busy
        if busy:
            self._put_away()
        self._show_state()

    def forget(self, node: Any) -> None:
        self._selectors.forget(node)
        if self.course.uses(node):
            self._put_away()
        if node is self.browser:
            self._watch(None)

    def cleanup(self) -> None:
        self._put_away()
        self.removeObservers()

    # ---------------------------------------------------------------------------------------- actions

    def on_register(self) -> None:
        """The button: register the sequence."""

        def request() -> SeriesRequest:
            found = SeriesRequest.of(self.panel.parameters)
            found.check()
            return found

        begin, host = self.panel.registrations.begin, self.panel.host
        if self.panel.agreed():
            self.panel.perform(lambda: begin(lambda *place: Phases(request(), *place), host), self._done)

    def _done(self, run: Phases) -> None:
        self._watch(run.browser)
        sequences.offer(run.browser)
        done = _("Done: every item stands where the reference is, under {name}.").format(name=run.transform.GetName())
        self._said = done
        if run.table is not None:
            ways = _("The landmarks' ways are in the table {name}; {count} are drawn as curves.")
            self._said += " " + ways.format(name=run.table.GetName(), count=len(run.curves))
        self.panel.show_outcome(done)
        self._show_state()

    def on_course(self) -> None:
        """The button: show the current result's course in time, or put it away."""
        if read(self.ui.courseButton, "checked"):
            self.course.show(self.panel.parameters.output_transform, self._on_course_there)
        else:
            self._put_away()
            self._show_state()

    def _on_course_there(self, error: UserError | None) -> None:
        if error is not None:
            self.ui.courseButton.setChecked(False)
            self.panel.show_error(error)
        else:
            self._watch(self.course.browser)
            sequences.offer(self.course.browser)
        self._show_state()

    def _put_away(self) -> None:
        if self.browser is not None and self.browser is self.course.browser:
            self._watch(None)
        self.course.put_away()
        self.ui.courseButton.setChecked(False)

    # ---------------------------------------------------------------------------------------- display

    def _on_chosen(self, name: str, node: Any) -> None:
        with slicer.util.NodeModify(self.panel.parameters.node):
            setattr(self.panel.parameters, name, node)
            if name == "series":
                self.panel.parameters.series_reference = 0

    def _set(self, name: str, selector: Any) -> None:
        if not self._updating and chosen(selector) is not None:
            setattr(self.panel.parameters, name, chosen(selector))

    def _watch(self, browser: Any) -> None:
        """Follow what a browser shows, whoever chooses it."""
        self.removeObservers(self._on_browser)
        self.browser, self._said = browser, ""
        if browser is not None:
            self.addObserver(browser, "ModifiedEvent", self._on_browser)

    def _on_browser(self, *_arguments: Any) -> None:
        self._show_item()

    def _on_slider(self) -> None:
        if not self._updating and self.browser is not None:
            self.browser.SetSelectedItemNumber(read(self.ui.itemSlider, "value"))

    def _show_item(self) -> None:
        browser, ui = self.browser, self.ui
        sequence = browser.GetMasterSequenceNode() if browser is not None else None
        count = browser.GetNumberOfItems() if sequence is not None else 0
        ui.itemRow.setVisible(count > 1)
        if count < 2:
            return
        number = browser.GetSelectedItemNumber()
        self._updating = True
        ui.itemSlider.setProperty("maximum", count - 1)
        ui.itemSlider.setValue(number)
        self._updating = False
        parts = sequence.GetIndexName(), sequence.GetNthIndexValue(number), sequence.GetIndexUnit()
        value = " ".join(part for part in parts if part)
        ui.itemLabel.setText(_("{value} ({number} of {count})").format(value=value, number=number + 1, count=count))

    def _show_state(self) -> None:
        """Show what can be done, and why not."""
        ui, parameters, reason = self.ui, self.panel.parameters, ""
        try:
            SeriesRequest.of(parameters).check()
        except UserError as error:
            reason = str(error)
        ui.registerSeriesButton.setEnabled(not reason and not self._busy)
        ui.registerSeriesButton.setToolTip(reason or _("Register every item to the reference, one after the other"))
        ui.courseButton.setEnabled(file_of(parameters.output_transform) is not None and not self._busy)
        text = reason if reason and parameters.series is not None else self._said
        ui.seriesLabel.setText(text)
        ui.seriesLabel.setVisible(bool(text))
        self._show_item()
