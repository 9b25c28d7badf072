"""A window like Slicer's: the panel on the left, the layout's views on the right."""

from __future__ import annotations

from PySide6 import QtWidgets


class Window(QtWidgets.QMainWindow):
    """1280 x 800, as a small laptop shows Slicer."""

    def __init__(self, slicer, panel):
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self.setWindowTitle("3D Slicer stand-in: INR Registration")
        self._slicer = slicer
        scroll = QtWidgets.QScrollArea()
        scroll.setWidget(panel)
        scroll.setWidgetResizable(True)
        scroll.setFixedWidth(470)
        centre = QtWidgets.QWidget()
        layout = QtWidgets.QHBoxLayout(centre)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(scroll)
        layout.addWidget(slicer.app.layoutManager().viewport(), 1)
        self.setCentralWidget(centre)
        self.resize(1280, 800)

    def closeEvent(self, event):
        # The views are the layout manager's.
        self._slicer.app.layoutManager().viewport().setParent(None)

    def show_volumes(self, background, foreground=None, opacity=0.5):
        """As the user would in the slice views' controllers."""
        self._slicer.util.setSliceViewerLayers(background, foreground, foregroundOpacity=opacity, fit=True)

    def save(self, path):
        """A picture of the window."""
        self._slicer.app.processEvents()
        self._slicer.util.forceRenderAllViews()
        self._slicer.app.processEvents()
        self.grab().save(str(path))
