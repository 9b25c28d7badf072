"""A button whose menu chooses segments of a segmentation."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from .signal import Signal
from .widgets import connect, read


class SegmentMenu:
    """Shown only for segmentations. `changed` is emitted with the chosen segments' ids, or None for all."""

    def __init__(self, button: Any) -> None:
        self.changed = Signal()
        self._button = button
        self._menu = qt.QMenu(button)
        self._node_id = ""
        self._chosen: list[str] | None = None
        self._titles: dict[str, str] = {}
        self._actions: dict[str, Any] = {}
        button.setMenu(self._menu)
        # Segments come, go and are renamed without a word to us.
        connect(self._menu.aboutToShow, self._refresh)

    def show(self, node: Any, chosen: list[str] | None) -> None:
        """Offer the segments of a node, which may be None or a label map."""
        is_segmentation = node is not None and node.IsA("vtkMRMLSegmentationNode")
        self._node_id, self._chosen = node.GetID() if is_segmentation else "", chosen
        self._button.setVisible(is_segmentation)
        self._refresh()

    def _refresh(self) -> None:
        node = slicer.mrmlScene.GetNodeByID(self._node_id) if self._node_id else None
        segmentation = node.GetSegmentation() if node is not None else None
        ids = segmentation.GetSegmentIDs() if segmentation is not None else ()
        titles = {identifier: segmentation.GetSegment(identifier).GetName() for identifier in ids}
        if titles != self._titles:
            # Not at every change: this may be called from one of these actions.
            self._titles = titles
            self._menu.clear()
            self._actions = {identifier: self._add(title) for identifier, title in titles.items()}
        for identifier, action in self._actions.items():
            action.blockSignals(True)
            action.setChecked(self._chosen is None or identifier in self._chosen)
            action.blockSignals(False)
        text = _("All segments")
        if self._chosen is not None:
            count = len([name for name in titles if name in self._chosen])
            text = _("{count} of {total} segments").format(count=count, total=len(titles))
        self._button.setText(text)

    def _add(self, title: str) -> Any:
        action = self._menu.addAction(title)
        action.setCheckable(True)
        connect(action.toggled, self._on_toggled)
        return action

    def _on_toggled(self) -> None:
        chosen = [name for name, action in self._actions.items() if read(action, "checked")]
        self.changed.emit(None if len(chosen) == len(self._actions) else chosen)
