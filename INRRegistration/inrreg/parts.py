"""Which parts a result has that can be exported. Standard library only: the panel asks."""

from __future__ import annotations

from pathlib import Path

from inrreg.protocol import Job, UserError, read_json

PARTS = ("whole", "prealignment", "initial", "deformable", "coarse", "fine")


def is_prealigned(folder: Path) -> bool:
    """Whether the first map before a result's deformable part is a prealignment: without its job, it is not told."""
    job = Path(folder) / "job.json"
    try:
        return job.is_file() and Job.from_dict(read_json(job)).prealign != "none"
    except UserError:
        return False


def parts_of(folder: Path) -> list[str]:
    """Those of `PARTS` that a result or model folder has. Raises `UserError` where it has no model."""
    model = read_json(Path(folder) / "model.json")
    if not isinstance(model, dict):
        raise UserError("model", f"The model in {folder} is damaged.")
    names = ("prealignment", "initial") if is_prealigned(folder) else ("initial",)
    before = list(names[: len(model.get("before") or ())])
    dual = (model.get("field") or {}).get("kind") == "dual"
    if not before and not dual:
        return ["whole"]
    return ["whole", *before, "deformable", *(("coarse", "fine") if dual else ())]
