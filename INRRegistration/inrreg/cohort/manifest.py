"""Which pairs a cohort has: a table with a row for each."""

from __future__ import annotations

import csv
import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inrreg.protocol import Job, UserError

PLAIN = ("preset", "prealign", "device", "threads", "seed", "time_budget", "ensemble")
"""Columns that are not files; `set:KEY` changes a setting of the preset."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Pair:
    """One row: its name, which its folder gets, and its job; or, where that cannot be, why."""

    name: str
    job: Job | None = None
    error: str = ""


def read_manifest(path: Path, defaults: dict[str, Any]) -> list[Pair]:
    """The pairs of a CSV file. Its columns are `name`, entries of `Job` and `set:KEY`; `fixed` and `moving` are needed.

    Files are relative to the manifest's folder; `defaults` has entries of `Job` that hold where a cell is empty.
    A row that makes no job, or whose files are missing, is a pair with an error. Raises `UserError` (code `manifest`)
    for what is no such table: unreadable, unknown columns, no rows, names that are not unique.
    """
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = [row for row in reader if any(row.values())]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is no table"
        raise UserError("manifest", f"The manifest {path} cannot be read ({reason}).") from None
    unknown = [name for name in columns if name not in ("name", *Job.FILES, *PLAIN) and not name.startswith("set:")]
    if unknown:
        hint = f"Known ones: name, {', '.join((*Job.FILES, *PLAIN))}, set:KEY."
        raise UserError("manifest", f"The manifest has unknown columns: {', '.join(unknown)}.", hint)
    if not {"fixed", "moving"} <= set(columns) or not rows:
        raise UserError("manifest", "The manifest needs the columns fixed and moving, and rows below them.")
    pairs = [_pair(number, row, path.resolve().parent, defaults) for number, row in enumerate(rows, start=1)]
    seen: set[str] = set()
    for pair in pairs:
        if pair.name.lower() in seen:  # some file systems know no case
            raise UserError("manifest", f"The manifest has two pairs named '{pair.name}'.", "Give each its own name.")
        seen.add(pair.name.lower())
    return pairs


def _pair(number: int, row: dict[str, Any], folder: Path, defaults: dict[str, Any]) -> Pair:
    cells = {name: (value or "").strip() for name, value in row.items() if name}
    name = cells.pop("name", "") or f"{number:05d}"
    if not _NAME.fullmatch(name):
        hint = "Use up to 100 letters, digits, '.', '_' and '-'."
        raise UserError("manifest", f"'{name}' in row {number} cannot be the name of a folder.", hint)
    if "" in row:
        return Pair(name, error="The row has more cells than there are columns.")
    given = {key: value for key, value in cells.items() if value}
    sets = {key.removeprefix("set:"): value for key, value in given.items() if key.startswith("set:")}
    entries = {**defaults, **{key: value for key, value in given.items() if not key.startswith("set:")}}
    entries["overrides"] = {**defaults.get("overrides", {}), **sets}
    try:
        job = Job(**{"fixed": "", "moving": "", **{key: _typed(key, value) for key, value in entries.items()}})
        files = {key: os.path.join(folder, value) for key, value in job.files().items()}
        if missing := [value for value in files.values() if not os.path.exists(value)]:
            raise UserError("file", f"There is no file {missing[0]}.")
    except UserError as error:
        return Pair(name, error=str(error))
    return Pair(name, dataclasses.replace(job, **files))


def _typed(key: str, value: Any) -> Any:
    """A cell as the job wants it."""
    default = Job.__dataclass_fields__[key].default
    if isinstance(value, str) and isinstance(default, (int, float)):
        try:
            return type(default)(value)
        except ValueError:
            raise UserError("manifest", f"'{value}' is no value for {key}.") from None
    return value
