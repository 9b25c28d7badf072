"""Table views over vtkMRMLTableNode."""

from __future__ import annotations

from PySide6 import QtGui, QtWidgets

from .qmrml import observe, qMRMLWidget


class qMRMLTableView(QtWidgets.QTableView):
    """Shows a table; a change of a cell by the user goes to the node unless the node is locked."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node = self._scene = self._view_node = None
        self._model = QtGui.QStandardItemModel(self)
        self._model.itemChanged.connect(self._on_item_changed)
        self.setModel(self._model)

    def setMRMLScene(self, scene):
        self._scene = scene

    def mrmlScene(self):
        return self._scene

    def setMRMLTableViewNode(self, node):
        self._view_node = node
        observe(node, "ModifiedEvent", self._on_view_node)
        self._on_view_node()

    def mrmlTableViewNode(self):
        return self._view_node

    def setMRMLTableNode(self, node):
        if node is not self._node:
            self._node = node
            if node is not None:
                observe(node, "ModifiedEvent", self._show)
            self._show()

    def mrmlTableNode(self):
        return self._node

    def _on_view_node(self):
        self.setMRMLTableNode(self._view_node.GetTableNode())

    def _first(self):
        """Columns that are no cells: one where the first column is the rows' header."""
        return 1 if self._node.GetUseFirstColumnAsRowHeader() else 0

    def _show(self):
        self._model.blockSignals(True)
        self._model.clear()
        if self._node is not None:
            self._fill()
        self._model.blockSignals(False)
        self._model.layoutChanged.emit()

    def _fill(self):
        node, first = self._node, self._first()
        columns, rows = range(first, node.GetNumberOfColumns()), range(node.GetNumberOfRows())
        for column in columns:
            cells = [QtGui.QStandardItem(node.GetCellText(row, column)) for row in rows]
            for cell in cells:
                cell.setEditable(not node.GetLocked())
                cell.setToolTip(node.GetColumnDescription(node.GetColumnName(column)))
            self._model.appendColumn(cells)
        # Slicer shows the names of columns as the first row where they are no header.
        names = [node.GetColumnName(column) for column in columns]
        if node.GetUseColumnTitleAsColumnHeader():
            names = [node.GetColumnTitle(name) or name for name in names]
        else:
            self._model.insertRow(0, [QtGui.QStandardItem(name) for name in names])
            names = [chr(ord("A") + index) for index in range(len(names))]
        self._model.setHorizontalHeaderLabels(names)
        if first:
            self._model.setVerticalHeaderLabels([node.GetCellText(row, 0) for row in rows])

    def _on_item_changed(self, item):
        self._node.SetCellText(item.row(), item.column() + self._first(), item.text())


class qMRMLTableWidget(qMRMLWidget):
    """A table view as the layout has it."""

    def __init__(self, node):
        super().__init__()
        self._view = qMRMLTableView()
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._view)
        self._view.setMRMLScene(node.GetScene())
        self._view.setMRMLTableViewNode(node)

    def tableView(self):
        return self._view

    def finalize(self):
        """Nothing is held beyond the host's observations."""
