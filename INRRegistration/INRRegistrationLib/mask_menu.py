"""A button whose menu makes a mask of a volume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from . import masks
from .widgets import connect


class MaskMenu:
    """Calls `make(kind)` with one of `masks.BODY`, `masks.LUNGS` and `masks.LOBES`."""

    def __init__(self, button: Any, make: Callable[[str], None]) -> None:
        self._menu = qt.QMenu(button)
        self._menu.setProperty("toolTipsVisible", True)
        for kind, text, tip in (
            (masks.BODY, _("Body"), _("Above -350 HU in CT, by a threshold of its own else")),
            (masks.LUNGS, _("Lungs (CT)"), _("The air in the body, with vessels and airways")),
            (masks.LOBES, _("Lungs and lobes by TotalSegmentator"), ""),
        ):
            action = self._menu.addAction(text)
            action.setProperty("toolTip", tip)
            connect(action.triggered, lambda kind=kind: make(kind))
        self._lobes = action
        button.setMenu(self._menu)
        connect(self._menu.aboutToShow, self._refresh)
        self._refresh()

    def _refresh(self) -> None:
        there = masks.has_totalsegmentator()
        missing = _("Install the extension TotalSegmentator in the Extensions Manager, and restart Slicer")
        self._lobes.setEnabled(there)
        self._lobes.setProperty("toolTip", _("A segment for each lobe, by a trained network") if there else missing)
