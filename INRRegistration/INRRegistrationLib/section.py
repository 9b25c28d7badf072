"""A part of the panel below the registration, with a .ui file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import slicer

if TYPE_CHECKING:
    from .panel import Panel

UI = Path(__file__).resolve().parents[1] / "Resources" / "UI"


class Section:
    """Loads its .ui file into the panel. Kinds of it bind the widgets in `self.ui` and override the rest.

    It reads `self.panel.parameters`, and starts what takes time by `self.panel.perform`.
    """

    file = ""
    """Name of its .ui file."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        widget = slicer.util.loadUI(str(UI / self.file))
        panel.ui.sections.layout().addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)

    def show(self) -> None:
        """Show what the parameters say: called whenever they, or the scene, may be others; `set_busy` follows."""

    def set_busy(self, busy: bool) -> None:
        """An operation has begun or ended: while there is one, no other can be started."""

    def forget(self, node: Any) -> None:
        """A node is about to be removed from the scene."""

    def cleanup(self) -> None:
        """Let go of everything: the module is reloaded or Slicer exits."""
