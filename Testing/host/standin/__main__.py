"""Shows the panel as a window: `python -m standin [fixed moving]`, run in `Testing/host`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PySide6 import QtWidgets

from . import application
from .window import Window

MODULE = Path(__file__).resolve().parents[3] / "INRRegistration" / "INRRegistration.py"


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        slicer = application.start(Path(temporary))
        application.load_module(MODULE)
        window = Window(slicer, slicer.modules.inrregistration.widgetRepresentation())
        nodes = [application.load_volume(path) for path in sys.argv[1:3]]
        if nodes:
            window.show_volumes(*nodes)
        window.show()
        code = QtWidgets.QApplication.exec()
        application.unload_module("INRRegistration")
        return code


if __name__ == "__main__":
    sys.exit(main())
