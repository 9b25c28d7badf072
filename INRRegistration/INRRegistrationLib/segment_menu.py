"""A button whose menu chooses segments of a segmentation."""

from __future__ import annotations

from typing import Any

import qt
from slicer.i18n import tr as _

from .signal import Signal
from .widgets import connect, read


class SegmentMenu:
    """Shown only for segmentations. `changed` is emitted with the chosen segments' ids; none means all."""

    def __init__(self, button: Any) -> None:
        self.changed = Signal()
        self._button = button
        self._menu = qt.QMenu(button)
        self._actions: dict[str, Any] = {}
        button.setMenu(self._menu)

    def show(self, node: Any, chosen: list[str]) -> None:
        """Offer the segments of a node, which may be None or a label map."""
        is_segmentation = node is not None and node.IsA("vtkMRMLSegmentationNode")
        self._button.setVisible(is_segmentation)
        self._menu.clear()
        self._actions = {}
        if not is_segmentation:
            return
        segmentation = node.GetSegmentation()
        for identifier in segmentation.GetSegmentIDs():
            action = self._menu.addAction(segmentation.GetSegment(identifier).GetName())
            action.setCheckable(True)
            action.setChecked(identifier in chosen or not chosen)
            connect(action.toggled, self._on_toggled)
            self._actions[identifier] = action
        count, total = len([name for name in self._actions if name in chosen]), len(self._actions)
        text = _("{count} of {total} segments").format(count=count, total=total) if count else _("All segments")
        self._button.setText(text)

    def _on_toggled(self) -> None:
        chosen = [name for name, action in self._actions.items() if read(action, "checked")]
        self.changed.emit([] if len(chosen) == len(self._actions) else chosen)
