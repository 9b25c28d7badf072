"""The panel's section that judges a result: what by, figures, checks, landmarks, and what of it the views show."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from inrreg.protocol import UserError
from inrreg.verdict import MET, NOT_MET, NOTICE, Check, Tolerances, judge

from . import evaluation, evaluation_nodes, evaluation_views, export, hierarchy, landmark_lists
from .cells import AT_ONCE, Cells
from .evaluation import Evaluation, Judged
from .section import Section
from .selectors import Selectors
from .widgets import ask_for_file, chosen, connect, fill

if TYPE_CHECKING:
    from .panel import Panel

SELECTORS = {
    "fixed_landmarks": "fixedLandmarksSelector",
    "moving_landmarks": "movingLandmarksSelector",
    "fixed_structures": "fixedStructuresSelector",
    "moving_structures": "movingStructuresSelector",
}
"""Node selectors of the .ui file by parameter."""
FIGURE, TOLERANCE, STATE = 1, 2, 3
"""Columns of the checks."""
SHORT = {
    "tre_mean": "Mean landmark error",
    "tre_max": "Largest landmark error",
    "dice": "Dice coefficient",
    "mda": "Mean dist. to agreement",
    "folding": "Determinant <= 0",
    "inverse": "Inverse consistency",
}
"""Titles of checks that the panel has room for; the tool tips have the whole ones."""
COLOURS = {MET: "#1b6e2c", NOT_MET: "#b00020"}
MUTED = "QLabel, QLabel:disabled { color: gray; }"


class EvaluationSection(Section, VTKObservationMixin):
    """Shows the last evaluation of the panel's transform, and starts the next."""

    file = "Evaluation.ui"

    def __init__(self, panel: Panel) -> None:
        Section.__init__(self, panel)
        VTKObservationMixin.__init__(self)
        ui = self.ui
        self._busy = self._changed = False
        self._report = ""
        self._pairs: list[tuple[str, str]] = []
        """Name and id of the fixed point of each row of the landmarks' table."""
        self._checks: tuple[Check, ...] = ()
        self._selectors = Selectors(ui, SELECTORS, self._on_chosen)
        self._marks, self._table = Cells(ui.landmarksTable), Cells(ui.checksTable)
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(100)
        connect(self._timer.timeout, self._show_marks)
        for label in (ui.noticeLabel, ui.matchLabel, ui.guideLabel):
            label.setStyleSheet(MUTED)
        ui.noticeLabel.setText(NOTICE)
        connect(ui.evaluateButton.clicked, self.on_evaluate)
        connect(ui.reportButton.clicked, self.on_report)
        connect(ui.openButton.clicked, self.on_open)
        connect(ui.followButton.clicked, self.on_follow)
        connect(ui.showButton.clicked, self.on_show)
        ui.landmarksTable.cellClicked.connect(lambda row, column, *_: self.on_landmark(row, column))
        ui.landmarksTable.cellChanged.connect(lambda row, column, *_: self._on_mark_changed(row, column))
        ui.checksTable.cellChanged.connect(lambda row, column, *_: self._on_check_changed(row, column))

    # --------------------------------------------------------------------------------------- actions

    def on_evaluate(self) -> None:
        """Judge the result."""
        self._perform("")

    def on_report(self) -> None:
        """Judge the result, and have the report written to a file that the user names."""
        path = ask_for_file(_("Save report"), str(Path.home() / "report.html"), _("Web page (*.html)"), save=True)
        if path:
            self._perform(path if path.lower().endswith((".html", ".htm")) else f"{path}.html")

    def on_open(self) -> None:
        """Show the last report in the browser."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(self._report))

    def on_follow(self) -> None:
        """What belongs to the moving volume goes where it is."""
        moving = self.panel.parameters.moving
        for node in self._left_behind():
            node.SetAndObserveTransformNodeID(moving.GetTransformNodeID())
        self.show()
        self.set_busy(self._busy)

    def on_show(self) -> None:
        """Show a table, chart or map in the views."""
        evaluation_views.show(chosen(self.ui.showSelector), self.panel.parameters)

    def on_landmark(self, row: int, column: int) -> None:
        """Jump to the landmark of a row."""
        node = self.panel.parameters.fixed_landmarks
        if node is not None and 0 <= row < len(self._pairs):
            evaluation_views.jump(node, self._pairs[row][1])

    def _perform(self, report: str) -> None:
        parameters, registrations = self.panel.parameters, self.panel.registrations
        self.panel.perform(lambda: registrations.evaluate(lambda: Judged.of(parameters), report), self._on_done)

    def _on_done(self, done: Evaluation) -> None:
        self._changed = False
        if done.report:
            self._report = done.report
            self.panel.show_outcome(_("The report is in {path}.").format(path=done.report))
        else:
            self.panel.show_outcome(_("Evaluated."))

    # --------------------------------------------------------------------------------------- display

    def show(self) -> None:
        """Show what the parameters say, and the last evaluation of the transform."""
        self._selectors.show(self.panel.parameters)
        self._observe()
        self._show_figures()
        self._show_checks()
        fixed = self.panel.parameters.fixed_landmarks
        if fixed is not None and fixed.GetNumberOfControlPoints() > AT_ONCE:
            self._timer.start()  # in a turn of their own
        else:
            self._show_marks()

    def set_busy(self, busy: bool) -> None:
        """Nothing can be started or chosen while an operation is under way."""
        self._busy, ui = busy, self.ui
        try:
            Judged.of(self.panel.parameters).check()
            reason = ""
        except UserError as error:
            reason = str(error)
        for button, tip in ((ui.evaluateButton, _("Judge the result")), (ui.reportButton, _("Save a web page"))):
            button.setEnabled(not busy and not reason)
            button.setToolTip(reason or tip)
        for widget in (*(getattr(ui, name) for name in SELECTORS.values()), ui.checksTable, ui.followButton):
            widget.setEnabled(not busy)
        ui.openButton.setEnabled(bool(self._report))

    def forget(self, node: Any) -> None:
        """Choose none in place of a node about to be removed."""
        self._selectors.forget(node)
        self._timer.start()

    def cleanup(self) -> None:
        """Let go of everything."""
        for each in (self._timer, self._marks, self._table):
            each.stop()
        self.removeObservers()

    def _known(self) -> tuple[dict[str, Any], dict[str, str]]:
        return evaluation.known(self.panel.parameters.output_transform)

    def _show_match(self) -> None:
        """Which landmarks and structures have no partner, and which stand where they were placed on the result."""
        parameters, told = self.panel.parameters, []
        fixed, moving = parameters.fixed_landmarks, parameters.moving_landmarks
        if fixed is not None and moving is not None:
            try:
                pairs = landmark_lists.pairs(fixed, moving)
                told.append(
                    _("{count} landmark pairs, matched by {way}.").format(count=len(pairs), way=pairs.matched_by)
                )
                told += _alone(pairs.missing, _("list"))
            except UserError as error:
                told.append(str(error))
        elif fixed is not moving:
            told.append(_("Landmarks are needed for both volumes."))
        judged = Judged.of(parameters)
        if judged.fixed_labels is not None and judged.moving_labels is not None:
            with contextlib.suppress(UserError):
                told += _alone(export.single_segments(judged.fixed_labels, judged.moving_labels), _("segmentation"))
        self._tell(self.ui.matchLabel, " ".join(told))
        left = self._left_behind()
        names = ", ".join(f"'{node.GetName()}'" for node in left)
        text = _(
            "{names} counts as placed on the registered image, as the slices show it. Does it belong to the moving "
            "volume as it was, as when loaded from a file?"
        )
        self._tell(self.ui.followLabel, text.format(names=names) if left else "")
        self.ui.followButton.setVisible(bool(left))

    def _left_behind(self) -> list[Any]:
        parameters = self.panel.parameters
        if parameters.fixed is None or parameters.moving is None:
            return []
        nodes = [parameters.moving_landmarks, Judged.of(parameters).moving_labels]
        return [node for node in nodes if node is not None and hierarchy.is_left_behind(node, parameters.moving)]

    def _show_figures(self) -> None:
        metrics, _names = self._known()
        self._tell(self.ui.summaryLabel, "<br>".join(summary(metrics)))
        combo = self.ui.showSelector
        entries = evaluation_views.entries(self.panel.parameters.output_transform)
        fill(combo, entries, chosen(combo))
        self.ui.showButton.setEnabled(bool(entries))
        combo.setEnabled(bool(entries))

    def _tell(self, label: Any, text: str) -> None:
        label.setText(text)
        label.setVisible(bool(text))

    # ---------------------------------------------------------------------------------------- checks

    def _show_checks(self) -> None:
        metrics, names = self._known()
        try:
            tolerances = Tolerances.of(self._spacing(metrics), self.panel.parameters.tolerances)
        except UserError:  # of a damaged scene
            tolerances = Tolerances.of(self._spacing(metrics))
        self._checks = judge(metrics, tolerances, names).checks
        rows = []
        for check in self._checks:
            tip = f"{check.title}, {check.detail}" if check.detail else check.title
            bound = f"{'>=' if check.key == 'dice' else '<='} {_in_words(check)}"
            cells = [
                self._table.text(_(SHORT[check.key]), tip=tip),
                self._table.text(check.text, tip=tip),
                self._table.text(bound, tip=_("Type another one; empty for the default"), edit=True),
                self._table.text(check.state, tip=tip, colour=COLOURS.get(check.state)),
            ]
            rows.append(cells)
        self._table.show(rows)

    def _spacing(self, metrics: dict[str, Any]) -> list[float] | None:
        fixed = self.panel.parameters.fixed
        return metrics.get("fixed_spacing") or (list(fixed.GetSpacing()) if fixed is not None else None)

    def _on_check_changed(self, row: int, column: int) -> None:
        if self._table.quiet or column != TOLERANCE:
            return
        check, text = self._checks[row], self._table.read(row, column)
        changes = {name: value for name, value in self.panel.parameters.tolerances.items() if name != check.key}
        number = re.search(r"\d+(?:[.,]\d*)?|[.,]\d+", text)
        if number is not None:
            value = float(number.group().replace(",", "."))
            changes[check.key] = value / 100 if check.unit == "share" else value
        elif text.strip():
            changes = dict(self.panel.parameters.tolerances)  # no number: as it was
        self.panel.parameters.tolerances = changes
        # Not while the table is still in its own editor.
        qt.QTimer.singleShot(0, self._renew_checks)

    def _renew_checks(self) -> None:
        self._show_checks()
        transform, (metrics, names) = self.panel.parameters.output_transform, self._known()
        if evaluation_nodes.node(transform, "Checks") is not None:
            with contextlib.ExitStack() as undo:
                evaluation_nodes.show_checks(transform, metrics, names, self.panel.parameters.tolerances, undo)
                undo.pop_all()

    # ------------------------------------------------------------------------------------- landmarks

    def _observe(self) -> None:
        wanted = {node for node in (getattr(self.panel.parameters, name) for name in SELECTORS) if node is not None}
        wanted = {node for node in wanted if node.IsA("vtkMRMLMarkupsNode")}
        self.removeObservers(self._on_points_changed)
        for node in wanted:
            for event in (node.PointPositionDefinedEvent, node.PointRemovedEvent, node.PointModifiedEvent):
                self.addObserver(node, event, self._on_points_changed)

    def _on_points_changed(self, *_: Any) -> None:
        # Points come by hundreds, and move with the mouse.
        self._changed = True
        self._timer.start()

    def _show_marks(self) -> None:
        """All pairs, the worst first, those that count nowhere last."""
        parameters, metrics = self.panel.parameters, self._known()[0]
        lists = parameters.fixed_landmarks, parameters.moving_landmarks
        rows = []
        if None not in lists:
            with contextlib.suppress(UserError):
                rows = landmark_lists.matched(*lists)
        marks = metrics.get("landmarks") or {}
        errors = {
            name: pair
            for name, *pair in zip(
                marks.get("names", []), marks.get("errors_before", []), marks.get("errors", []), strict=True
            )
        }
        rows.sort(key=lambda entry: -errors.get(entry[0], (0, -1))[1])
        self._pairs = [(name, identifier) for name, identifier, *_numbers in rows]
        cells = []
        for name, identifier in self._pairs:
            before, after = errors.get(name, (None, None))
            tip = _("Guided this result, or took part in it: does not count") if errors and after is None else ""
            cells.append(
                [
                    self._marks.check(identifier in parameters.guides),
                    self._marks.text(name, tip=_("Click to see it in the slices")),
                    self._marks.text("-" if before is None else f"{before:.2f}", tip=tip),
                    self._marks.text("-" if after is None else f"{after:.2f}", tip=tip),
                ]
            )
        self._marks.show(cells)
        self._show_match()
        self._show_guides(bool(errors))

    def _show_guides(self, judged: bool) -> None:
        guides = {identifier for _name, identifier in self._pairs} & set(self.panel.parameters.guides)
        told = []
        if judged and self._changed:
            told.append(_("The landmarks have changed since: evaluate again."))
        if guides:
            text = _("{count} checked pairs guide the next registration; the other {rest} judge it.")
            told.append(text.format(count=len(guides), rest=len(self._pairs) - len(guides)))
        self._tell(self.ui.guideLabel, " ".join(told))

    def _on_mark_changed(self, row: int, column: int) -> None:
        if self._marks.quiet or column != 0 or row >= len(self._pairs):
            return
        identifier = self._pairs[row][1]
        known = {other for _name, other in self._pairs}
        guides = [other for other in self.panel.parameters.guides if other in known and other != identifier]
        if self._marks.checked(row, column):
            guides.append(identifier)
        self.panel.parameters.guides = guides

    def _on_chosen(self, name: str, node: Any) -> None:
        with slicer.util.NodeModify(self.panel.parameters.node):
            setattr(self.panel.parameters, name, node)
            if name == "fixed_landmarks":
                self.panel.parameters.guides = []  # the choice was among another list's


def summary(metrics: dict[str, Any]) -> list[str]:
    """The main figures as lines of rich text."""
    lines = []
    marks = metrics.get("landmarks") or {}
    if "after" in marks:
        after, before = marks["after"], marks["before"]
        text = _(
            "<b>Target registration error {mean:.2f} mm</b> (before {before:.2f}), SD {sd:.2f}, median {median:.2f}, "
        )
        text += _("95th percentile {p95:.2f}, largest {max:.2f}, at {count} landmarks")
        lines.append(text.format(**after, before=before["mean"]))
    elif marks.get("guided"):
        lines.append(_("All landmarks guided the registration; none is left to judge it."))
    if rows := metrics.get("labels", {}).get("after"):
        dice = sorted(row["dice"] for row in rows.values())
        text = _("Dice {low:.3f} to {high:.3f} over {count} structures")
        lines.append(text.format(low=dice[0], high=dice[-1], count=len(dice)))
    for key, where in evaluation_nodes.REGIONS:
        if row := metrics.get("jacobian", {}).get(key):
            text = _("Jacobian determinant {min:.2f} to {max:.2f} {where}; {folding:.2%} fold; SD of log {sd_log:.3f}")
            lines.append(text.format(where=where, **row))
    if row := metrics.get("inverse"):
        lines.append(_("Inverse consistency, 99th percentile: {p99:.3f} mm").format(**row))
    if row := metrics.get("uncertainty"):
        lines.append(_("Uncertainty {mean:.2f} mm, 95th percentile {p95:.2f} mm").format(**row))
    return lines


def _alone(missing: dict[str, Any], kind: str) -> list[str]:
    """Sentences that name what one side alone has."""
    text = _("Only in the {side} {kind}: {names}.")
    return [text.format(side=side, kind=kind, names=", ".join(names)) for side, names in missing.items() if names]


def _in_words(check: Check) -> str:
    if check.unit == "share":
        return f"{100 * check.tolerance:g} %"
    return f"{check.tolerance:g} {check.unit}".rstrip()
