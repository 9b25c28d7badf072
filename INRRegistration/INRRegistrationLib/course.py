"""The course in time of a result that has one, as a sequence that plays: the moving volume goes along."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer

from inrreg.protocol import UserError, read_json

from . import hierarchy, results, sequences
from .background import Task


def file_of(transform: Any) -> Path | None:
    """What describes the course of a result, None where it has none or its files are gone."""
    folder = transform.GetAttribute(results.RESULT) if transform is not None else None
    path = Path(folder or "") / "time.json"
    return path if folder and path.is_file() else None


class Course:
    """Shows one course at a time; `done(error)` is called once it is there, or cannot be, with None or why."""

    def __init__(self) -> None:
        self.browser: Any = None
        self._nodes: list[Any] = []
        self._task: Task | None = None
        self._links: tuple[Any, Any] | None = None
        """What went under the course, and the result that it was under."""

    def show(self, transform: Any, done: Callable[[UserError | None], None]) -> None:
        """Read the fields of a result with a course, off the GUI thread, and put its moving volume under them."""
        self.put_away()
        path, identifier = file_of(transform), transform.GetID()

        def read() -> list[tuple[str, sequences.Grid]]:
            entries = read_json(path)["fields"]
            return [(f"{each['time']:g}", results.read_grid(path.parent / Path(each["file"]).name)) for each in entries]

        def finish(fields: Any, error: BaseException | None) -> None:
            self._task = None
            try:
                if error is not None:
                    raise error
                self._show(slicer.mrmlScene.GetNodeByID(identifier), fields)
            except UserError as known:
                done(known)
            except (OSError, KeyError, TypeError, ValueError) as broken:
                done(UserError("file", f"The course cannot be read ({broken!r}).", "Register again."))
            else:
                done(None)

        self._task = Task(read, finish)

    def _show(self, transform: Any, fields: list[tuple[str, sequences.Grid]]) -> None:
        moving = transform.GetNodeReference(hierarchy.MOVING) if transform is not None else None
        if moving is None:
            raise UserError("scene", "The moving volume was deleted.", "Choose the volumes and register again.")
        with contextlib.ExitStack() as undo:
            sequence = sequences.new(f"{transform.GetName()}, course", "time", "", undo)
            for value, grid in fields:
                sequences.append(sequence, value, grid)
            browser = sequences.new_browser(sequence, undo)
            name = slicer.mrmlScene.GenerateUniqueName(f"{transform.GetName()}, at a time")
            made, fixed = results.grid_transform(*fields[-1][1]), transform.GetNodeReference(hierarchy.FIXED)
            shown = results.show_transform(made, None, fixed, moving, {}, undo, name)
            shown.SetAndObserveTransformNodeID(transform.GetTransformNodeID())
            sequences.show(browser, sequence, shown, undo)
            browser.SetSelectedItemNumber(len(fields) - 1)
            own = [moving, *hierarchy.chain(moving)]
            if transform not in own:
                hint = f"Put it under '{transform.GetName()}' again."
                raise UserError("scene", "The moving volume is not under its result any more.", hint)
            link = own[own.index(transform) - 1]
            link.SetAndObserveTransformNodeID(shown.GetID())
            undo.pop_all()
        self.browser, self._links = browser, (link, transform)
        self._nodes = [browser, shown, sequence.GetStorageNode(), sequence]

    def put_away(self) -> None:
        """The moving volume goes back to where it was, and what played goes."""
        if self._task is not None:
            self._task.abandon()
            self._task = None
        nodes, links = self._nodes, self._links
        self.browser, self._nodes, self._links = None, [], None  # first: who removes the nodes asks for them
        if links is not None:
            link, above = links
            if link.GetTransformNodeID() == nodes[1].GetID():
                link.SetAndObserveTransformNodeID(above.GetID())
            for node in nodes:
                results.remove(node)

    def uses(self, node: Any) -> bool:
        """Whether it needs that node."""
        return any(node is each for each in (*self._nodes, *(self._links or ())))
