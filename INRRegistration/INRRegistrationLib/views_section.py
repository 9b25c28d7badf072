"""The section Views: ways to look at the result, each a click away, and back."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from . import hierarchy
from .section import Section
from .views import MODES, Views
from .widgets import connect, read


class ViewsSection(Section):
    """Enabled while there is a result whose volumes are there."""

    file = "Views.ui"

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.views = Views()
        self._busy = False
        self._buttons = {mode: getattr(self.ui, f"{mode}Button") for mode in MODES}
        for mode, button in self._buttons.items():
            connect(button.clicked, lambda mode=mode: self._on_clicked(mode))
        connect(self.ui.restoreButton.clicked, self.views.restore)
        self.views.changed.connect(self._show_mode)
        self._show_mode()

    def show(self) -> None:
        """There may be another result, or none."""
        transform = self.panel.parameters.output_transform
        if self.views.mode and (transform is None or not self.views.uses(transform)):
            self.views.restore()
        roles = (hierarchy.FIXED, hierarchy.MOVING)
        there = transform is not None and all(transform.GetNodeReference(role) is not None for role in roles)
        self.ui.viewsSection.setVisible(there)
        self.ui.viewsSection.setEnabled(there and not self._busy)

    def set_busy(self, busy: bool) -> None:
        """What is to be changed is not looked at."""
        self._busy = busy
        if busy:
            self.views.restore()
        self.show()

    def forget(self, node: Any) -> None:
        """What is looked at goes."""
        if self.views.uses(node):
            self.views.restore()

    def cleanup(self) -> None:
        """The module is reloaded or Slicer exits."""
        self.views.restore()

    def _on_clicked(self, mode: str) -> None:
        if read(self._buttons[mode], "checked"):
            self.views.show(mode, self.panel.parameters.output_transform)
        else:
            self.views.restore()

    def _show_mode(self) -> None:
        for mode, button in self._buttons.items():
            button.setChecked(mode == self.views.mode)
        self.ui.restoreButton.setEnabled(bool(self.views.mode))
        hints = {
            "jacobian": _("Red: tissue is larger in the moving volume. Blue: smaller. Yellow: the deformation folds."),
            "difference": _("Grey where both volumes look the same."),
        }
        text = hints.get(self.views.mode, "")
        self.ui.viewsLabel.setText(text)
        self.ui.viewsLabel.setVisible(bool(text))
