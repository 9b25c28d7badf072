"""Which parts a result has that can be exported. Standard library only: the panel asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inrreg.protocol import Job, UserError, read_json

PARTS = ("whole", "prealignment", "initial", "deformable", "coarse", "fine")


def is_prealigned(folder: Path) -> bool:
    """Whether the first map before a result's deformable part is a prealignment: without its job, it is not told."""
    job = Path(folder) / "job.json"
    try:
        return job.is_file() and prealigns(read_json(job))
    except UserError:
        return False


def prealigns(job: Any) -> bool:
    """Whether a described job is one with a prealignment; not where it is damaged."""
    try:
        return Job.from_dict(job).prealign != "none"
    except UserError:
        return False


def parts_of(folder: Path) -> list[str]:
    """Those of `PARTS` that a result or model folder has. Raises `UserError` where it has no model."""
    return described(read_json(Path(folder) / "model.json"), is_prealigned(folder))


def described(model: Any, prealigned: bool) -> list[str]:
    """Those of `PARTS` that a described model has. Raises `UserError` where it describes none."""
    if not isinstance(model, dict):
        raise UserError("model", "The model is damaged.", "Register again.")
    names = ("prealignment", "initial") if prealigned else ("initial",)
    before = list(names[: len(model.get("before") or ())])
    dual = (model.get("field") or {}).get("kind") == "dual"
    if not before and not dual:
        return ["whole"]
    return ["whole", *before, "deformable", *(("coarse", "fine") if dual else ())]
