"""A form for a preset's settings, made from their schema."""

from __future__ import annotations

import dataclasses
from typing import Any

import qt

from inrreg.protocol import Settings, UserError

from .signal import Signal
from .widgets import connect, read

INVALID = "QLineEdit { border: 1px solid #c0392b; }"


class SettingsForm:
    """One row a setting. `changed` is emitted with what differs from the preset, by name, when that changes."""

    def __init__(self, parent: Any) -> None:
        self.changed = Signal()
        self._outer = qt.QVBoxLayout(parent)
        self._rows: Any = None
        self._defaults: Settings | None = None
        self._editors: dict[str, Any] = {}

    def show(self, defaults: Settings, overrides: dict[str, Any]) -> None:
        """Show a preset's settings with some replaced."""
        if self._defaults != defaults:
            self._build(defaults)
        for item in dataclasses.fields(defaults):
            self._set(self._editors[item.name], overrides.get(item.name, getattr(defaults, item.name)))

    def _build(self, defaults: Settings) -> None:
        if self._rows is not None:
            self._outer.removeWidget(self._rows)
            self._rows.deleteLater()
        self._rows = qt.QWidget()
        layout = qt.QFormLayout(self._rows)
        self._outer.addWidget(self._rows)
        self._defaults, self._editors = defaults, {}
        for item in dataclasses.fields(defaults):
            value = getattr(defaults, item.name)
            editor = qt.QCheckBox() if isinstance(value, bool) else qt.QLineEdit()
            connect(editor.toggled if isinstance(value, bool) else editor.editingFinished, self._on_edited)
            editor.setObjectName(f"setting_{item.name}")
            editor.setToolTip(_tip(item, value))
            unit = item.metadata["unit"]
            title = item.name.replace("_", " ").capitalize()
            layout.addRow(f"{title} ({unit}):" if unit else f"{title}:", editor)
            self._editors[item.name] = editor

    def _set(self, editor: Any, value: Any) -> None:
        editor.blockSignals(True)
        if isinstance(value, bool):
            editor.setChecked(value)
        else:
            editor.setText(_text(value))
            editor.setStyleSheet("")
        editor.blockSignals(False)

    def _on_edited(self) -> None:
        overrides = {}
        for name, editor in self._editors.items():
            default = getattr(self._defaults, name)
            value = read(editor, "checked") if isinstance(default, bool) else read(editor, "text")
            try:
                setting = getattr(self._defaults.override({name: value}), name)
            except UserError:
                # Kept as typed: the Register button then says what is wrong with it.
                setting = value
                editor.setStyleSheet(INVALID)
            else:
                editor.setStyleSheet("")
            if setting != default:
                overrides[name] = list(setting) if isinstance(setting, tuple) else setting
        self.changed.emit(overrides)


def _text(value: Any) -> str:
    return ", ".join(str(entry) for entry in value) if isinstance(value, (list, tuple)) else str(value)


def _tip(item: dataclasses.Field, value: Any) -> str:
    low, high = item.metadata["low"], item.metadata["high"]
    bounds = [f"from {low}"] * (low is not None) + [f"to {high}"] * (high is not None)
    details = [*bounds, item.metadata["unit"], f"(preset: {_text(value)})"]
    return f"{item.metadata['help']} {' '.join(detail for detail in details if detail)}"
