"""One pair of a cohort, wherever it is computed: registered, reported, published under its name, once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import inrreg
from inrreg import protocol
from inrreg.protocol import Job, UserError

PAIRS, UNFINISHED, RECORD = "pairs", ".unfinished", "pair.json"
"""In a cohort's folder: what is done, what is under way; in a pair's: what it came from, and its row in the summary."""


def settings_key(job: Job) -> str:
    """What makes two jobs on the same files the same, whatever the files are called, as a hash."""
    plain = {name: value for name, value in job.to_dict().items() if name not in (*Job.FILES, "id")}
    known = {**plain, "settings": job.settings().to_dict(), "inrreg": inrreg.__version__, "files": sorted(job.files())}
    masks = {name: getattr(job, name) for name in ("fixed_mask", "moving_mask") if name not in job.files()}
    return hashlib.sha256(json.dumps([known, masks], sort_keys=True).encode()).hexdigest()


def stamps(job: Job) -> dict[str, list[Any]]:
    """Size and time of each file, which tell cheaply that it has not changed."""
    return {name: [os.stat(path).st_size, os.stat(path).st_mtime_ns] for name, path in job.files().items()}


def finished(folder: Path, name: str, job: Job) -> dict[str, Any] | None:
    """The row of a pair that is done: with these settings, on files that hold the same; None where there is none."""
    with contextlib.suppress(UserError, KeyError, TypeError, AttributeError, OSError):
        record = protocol.read_json(folder / PAIRS / name / RECORD)
        if record["settings"] == settings_key(job) and (record["stamps"] == stamps(job) or _same(job, record)):
            return record["row"]
    return None


def _same(job: Job, record: dict[str, Any]) -> bool:
    from inrreg.evaluation import sha256

    return record["inputs"] == {name: sha256(path) for name, path in job.files().items()}


def register_pair(name: str, entries: dict[str, Any], folder: str, report: bool = True) -> dict[str, Any]:
    """Register one pair and publish it; its row in the summary. Runs in a worker, which needs this package.

    What the user can mend is a row with an error; anything else is raised, and may be tried again.
    """
    from inrreg.registration import register

    job, cohort = Job.from_dict(entries), Path(folder)
    own = cohort / UNFINISHED / uuid.uuid4().hex
    try:
        if (row := finished(cohort, name, job)) is not None:
            return row  # by a worker that was taken for dead
        own.mkdir(parents=True)
        metrics = register(job, own / "result")
        row = {"name": name, "state": "done", "error": "", **figures(metrics)}
        row["report"] = report and _report(job, metrics, own)
        record = {"settings": settings_key(job), "stamps": stamps(job), "inputs": metrics["inputs"], "row": row}
        protocol.write_json(own / RECORD, record)
        return publish(own, cohort / PAIRS / name, job)
    except UserError as error:
        return {"name": name, "state": "failed", "error": str(error)}
    except Exception as error:
        # Not every exception can be sent on.
        raise RuntimeError(f"{type(error).__name__}: {error}") from None
    finally:
        shutil.rmtree(own, ignore_errors=True)


def publish(own: Path, target: Path, job: Job) -> dict[str, Any]:
    """Move a finished pair to its place and give its row; what is there already of the same job stays, and counts."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = own.with_name(uuid.uuid4().hex)
    try:
        while True:
            try:
                own.rename(target)
            except OSError:
                if not target.exists():
                    raise
            else:
                return protocol.read_json(target / RECORD)["row"]
            if (row := finished(target.parents[1], target.name, job)) is not None:
                return row
            # Of other settings or files. Renaming is whole or not at all, whoever else does it.
            with contextlib.suppress(FileNotFoundError):
                target.rename(aside)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _report(job: Job, metrics: dict[str, Any], folder: Path) -> bool:
    """Write the report, where its packages are installed."""
    from inrreg.deformation import load_transform
    from inrreg.evaluation import located
    from inrreg.report import check_packages, write_report

    try:
        check_packages()
    except UserError:
        return False
    result = folder / "result"
    write_report(folder / "report.html", metrics, load_transform(result), job, located(job, {}, result))
    return True


def figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """The row of a finished pair: the main figures, mm and s; None where there is nothing to take them from."""
    marks, labels = metrics.get("landmarks") or {}, metrics.get("labels") or {}
    before, after = marks.get("before") or {}, marks.get("after") or {}
    jacobian = metrics["jacobian"].get("mask") or metrics["jacobian"]["whole"]
    overlaps = [value["dice"] for value in (labels.get("after") or {}).values()]
    checks = [check["state"] for check in metrics["verdict"]["checks"]]
    return {
        "seconds": metrics["seconds"],
        "similarity_before": metrics["similarity"]["before"],
        "similarity": metrics["similarity"]["after"],
        "tre_before": before.get("mean"),
        "tre": after.get("mean"),
        "tre_p95": after.get("p95"),
        "tre_max": after.get("max"),
        "tre_snapped": (marks.get("after_snapped") or {}).get("mean"),
        "dice": sum(overlaps) / len(overlaps) if overlaps else None,
        "folding": jacobian["folding"],
        "sd_log": jacobian["sd_log"],
        "not_met": checks.count("not met"),
    }
