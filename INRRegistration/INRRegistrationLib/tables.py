"""Columns of text or numbers as a VTK table, which a table node shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import vtk
from vtk.util import numpy_support


def table_of(columns: Mapping[str, Sequence[Any]]) -> Any:
    """A table with these columns, by name; each has texts or numbers alone."""
    table = vtk.vtkTable()
    for name, values in columns.items():
        if len(values) and isinstance(values[0], str):
            column = vtk.vtkStringArray()
            for value in values:
                column.InsertNextValue(value)
        else:
            column = numpy_support.numpy_to_vtk(np.array(values), deep=True)
        column.SetName(name)
        table.AddColumn(column)
    return table
