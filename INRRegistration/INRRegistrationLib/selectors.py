"""Node selectors bound to the scene's parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer

from .parameters import Parameters
from .widgets import connect


class Selectors:
    """The node selectors of a .ui file, each by the parameter that it shows; `chosen(parameter, node)` hears choices.

    It hears only what the user chose: neither what `show` did, nor a selector that repeats itself.
    """

    def __init__(self, ui: Any, names: dict[str, str], chosen: Callable[[str, Any], None]) -> None:
        self._widgets = {parameter: getattr(ui, name) for parameter, name in names.items()}
        self._chosen = chosen
        self.quiet = False
        """Whether choices are not heard: while the scene closes, selectors lose their nodes one by one."""
        for parameter, widget in self._widgets.items():
            widget.setMRMLScene(slicer.mrmlScene)
            connect(widget.currentNodeChanged, lambda parameter=parameter: self._on_chosen(parameter))

    def show(self, parameters: Parameters) -> None:
        """Show what the parameters say."""
        self._parameters, before = parameters, self.quiet
        self.quiet = True
        try:
            for parameter, widget in self._widgets.items():
                widget.setCurrentNode(getattr(parameters, parameter))
        finally:
            self.quiet = before

    def forget(self, node: Any) -> None:
        """Choose none in place of a node about to be removed: its selector would go on to another node."""
        for parameter, widget in self._widgets.items():
            if not self.quiet and getattr(self._parameters, parameter) is node:
                widget.setCurrentNode(None)

    def _on_chosen(self, parameter: str) -> None:
        node = self._widgets[parameter].currentNode()
        if not self.quiet and node is not getattr(self._parameters, parameter):
            self._chosen(parameter, node)
