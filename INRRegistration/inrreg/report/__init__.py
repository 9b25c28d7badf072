"""A registration's report: one HTML file that holds everything, to be read in a browser and printed to PDF from it.

It names no file and no path, since these may hold a patient's name: inputs are known by their hashes.
"""

from __future__ import annotations

import base64
import io
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

import inrreg
from inrreg.automask import mask as read_mask
from inrreg.evaluation import MOST, doubts
from inrreg.images import read_image
from inrreg.pictures import Scene, check_matplotlib, histogram, planes
from inrreg.protocol import SIMILARITY, Job, UserError
from inrreg.report.template import TEMPLATE
from inrreg.transforms import PointMap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 3
"""Worst landmarks that planes are shown through."""


def check_packages() -> None:
    """Raise `UserError` (code `package`) where jinja2 or matplotlib is missing."""
    try:
        import jinja2  # noqa: F401
    except ImportError:
        raise UserError("package", "A report needs jinja2.", "Install it with: pip install 'inrreg[report]'") from None
    check_matplotlib()


def check_ending(path: Path) -> None:
    """Raise `UserError` (code `output`) for a file that would not be taken for a page."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(
            "output", f"A report is a page in HTML, which {path.name} is not.", "Let its name end in .html."
        )


def write_report(
    path: str | Path, metrics: dict[str, Any], transform: PointMap, job: Job | None, files: dict[str, str]
) -> None:
    """Write the report on a transform with its `metrics`, as `inrreg.evaluation` gives them.

    `files` has the names of `Job.FILES`: with both images there are pictures. `job`, if known, is the one that made
    the transform. The file appears complete or not at all. Raises `UserError` (code `package`) without jinja2 or
    matplotlib, (code `output`) where it cannot be written, or is
    not called a page.
    """
    check_packages()
    check_ending(path := Path(path))
    from jinja2 import Environment

    marks = metrics.get("landmarks") or {}
    page = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE)
    text = page.render(
        m=metrics,
        version=inrreg.__version__,
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        most=MOST,
        warnings=[sentence for _, sentence in doubts(metrics)],
        names=job.label_names if job else {},
        facts=_facts(metrics, job),
        histogram=_embedded(histogram(marks["errors_before"], marks["errors"])) if "errors" in marks else None,
        pictures=_pictures(metrics, transform, files),
    )
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            "output", f"The report cannot be written to {path} ({error.strerror}).", "Check the path and permissions."
        ) from None


def _pictures(metrics: dict[str, Any], transform: PointMap, files: dict[str, str]) -> list[tuple[str, str]]:
    """Captions and embedded pictures: through the centre, and through the worst landmarks."""
    if not {"fixed", "moving"} <= set(files):
        return []
    scene = Scene(read_image(files["fixed"], "fixed"), read_image(files["moving"], "moving"), transform)
    centre, name = _centre(scene, files.get("fixed_mask", ""))
    found = [(f"Through the centre of the {name}.", _embedded(planes(scene, centre)))]
    for mark in (metrics.get("landmarks") or {}).get("worst", [])[:_SHOWN]:
        caption = (
            f"Through landmark {mark['name']}: {mark['after']:.2f} mm after, {mark['before']:.2f} mm before. "
            "Cross: the fixed landmark. Circle: where the moving landmark comes to lie in the warped image."
        )
        found.append((caption, _embedded(planes(scene, np.array(mark["fixed"]), mark))))
    return found


def _centre(scene: Scene, mask: str) -> tuple[np.ndarray, str]:
    """The middle of the fixed mask, or of the image, (3,) LPS mm, and whose it is."""
    if not mask:
        return scene.grid.centre, "fixed image"
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(read_mask(mask, "fixed mask", scene.fixed))
    return np.array(shape.GetCentroid(1)), "fixed mask"


def _facts(metrics: dict[str, Any], job: Job | None) -> list[tuple[str, str]]:
    """What made the registration, as far as it is known."""
    facts = [("preset", metrics.get("preset")), ("prealignment", job.prealign if job else None)]
    facts += [("seed", metrics.get("seed")), ("device", metrics.get("device"))]
    if "seconds" in metrics:
        facts.append(("time", f"{metrics['seconds']:.1f} s"))
    if match := metrics.get("similarity"):
        change = f"{match['before']:.3f} before, {match['after']:.3f} after"
        name = SIMILARITY[match.get("used", "ncc")]
        facts.append((name, f"{change}, {match['overlap']:.0%} mapped into the moving image"))
    for key, name in (("largest_displacement", "largest displacement"), ("interpolation_error", "interpolation error")):
        if key in metrics:
            facts.append((f"{name}", f"{metrics[key]:.2f} mm"))
    if spacing := metrics.get("fixed_spacing"):
        facts.append(("fixed voxel size", " x ".join(f"{value:.3g}" for value in spacing) + " mm"))
    if versions := metrics.get("versions"):
        facts.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return [(name, str(value)) for name, value in facts if value is not None]


def _embedded(figure: Figure) -> str:
    """A figure as a data URI."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
