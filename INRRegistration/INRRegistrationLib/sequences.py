"""Grid transforms as a sequence that a browser plays, in step with the images where it has some."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import slicer

from . import hierarchy, results

SEQUENCE = "INRRegistration.Sequence"
"""Role of a transform's reference to the sequence whose items it shows."""
Grid = tuple[np.ndarray, np.ndarray]
"""What `results.read_grid` gives."""
IDENTITY: Grid = np.zeros((2, 2, 2, 3), np.float32), np.diag([1.0, 1.0, 1.0, 1.0])
"""Of an image that is the reference."""


def new(name: str, index: str, unit: str, undo: ExitStack) -> Any:
    """An empty sequence over an index of that name and unit; `undo` removes it."""
    sequence = results.add("vtkMRMLSequenceNode", slicer.mrmlScene.GenerateUniqueName(name), undo)
    sequence.SetIndexName(index)
    sequence.SetIndexUnit(unit)
    # The one that Slicer chooses for fields of one grid reads them as of another class, which no node then plays.
    storage = results.add("vtkMRMLSequenceStorageNode", f"{sequence.GetName()} file", undo)
    sequence.SetAndObserveStorageNodeID(storage.GetID())
    return sequence


def append(sequence: Any, value: str, grid: Grid) -> None:
    """Add a displacement field, from parent, at an index value; it is copied."""
    item = slicer.vtkMRMLGridTransformNode()
    item.SetName(f"{sequence.GetName()} {value}")
    # What shows it gets its attributes, too, and loses its own.
    item.SetAttribute(hierarchy.OUTPUT, "1")
    item.SetAndObserveTransformFromParent(results.grid_transform(*grid))
    sequence.SetDataNodeAtValue(item, value)


def browser_of(sequence: Any, undo: ExitStack) -> Any:
    """The browser that shows a sequence, a new one where there is none."""
    browser = slicer.modules.sequences.logic().GetFirstBrowserNodeForSequenceNode(sequence)
    if browser is None:
        browser = new_browser(sequence, undo)
        browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    return browser


def new_browser(sequence: Any, undo: ExitStack) -> Any:
    """A browser that shows nothing yet, named after a sequence."""
    name = slicer.mrmlScene.GenerateUniqueName(f"{sequence.GetName()} browser")
    return results.add("vtkMRMLSequenceBrowserNode", name, undo)


def shown_by(browser: Any, sequence: Any) -> Any:
    """The node of the scene that a browser keeps at the chosen item of a sequence, made where there is none."""
    if browser.GetProxyNode(sequence) is None:
        slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    return browser.GetProxyNode(sequence)


def show(browser: Any, sequence: Any, transform: Any, undo: ExitStack) -> None:
    """Have a browser show a sequence by this transform."""
    browser.AddProxyNode(transform, sequence, False)
    undo.callback(browser.RemoveSynchronizedSequenceNode, sequence.GetID())
    transform.SetNodeReferenceID(SEQUENCE, sequence.GetID())
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)


def remove(sequence: Any) -> None:
    """Remove a sequence of ours and what it is stored by, and let go of it the browsers that show it."""
    for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode"):
        if browser.IsSynchronizedSequenceNode(sequence, True):
            browser.RemoveSynchronizedSequenceNode(sequence.GetID())
    for node in (sequence.GetStorageNode(), sequence):
        results.remove(node)


def offer(browser: Any) -> None:
    """Give a browser to Slicer's toolbar for sequences, which plays it."""
    slicer.modules.sequences.showSequenceBrowser(browser)
