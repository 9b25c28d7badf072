"""A cohort's outcome: a table as CSV, and a page with distributions and the worst pairs first."""

from __future__ import annotations

import base64
import csv
import io
import math
from pathlib import Path
from typing import Any

import inrreg
from inrreg.images import atomic
from inrreg.pictures import check_matplotlib
from inrreg.report import check_packages
from inrreg.verdict import NOTICE

COLUMNS = {
    "name": "pair",
    "state": "state",
    "error": "error",
    "seconds": "time (s)",
    "similarity_before": "correlation before",
    "similarity": "correlation after",
    "tre_before": "TRE before (mm)",
    "tre": "TRE (mm)",
    "tre_p95": "TRE, 95 % (mm)",
    "tre_max": "TRE, largest (mm)",
    "tre_snapped": "TRE, snapped (mm)",
    "dice": "Dice, mean",
    "folding": "det <= 0",
    "sd_log": "SD log det",
    "not_met": "checks not met",
}
"""Figures of a row and their heads."""

_DRAWN = ("tre", "dice", "similarity", "folding", "sd_log", "seconds")


def worst_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Failed pairs, then by error, overlap, folding, and similarity, as far as they are known."""

    def badness(row: dict[str, Any]) -> tuple[float, ...]:
        failed = row["state"] == "failed"
        known = [(row.get("tre"), 1), (row.get("dice"), -1), (row.get("folding"), 1), (row.get("similarity"), -1)]
        return (float(failed), *(-math.inf if value is None else sign * value for value, sign in known))

    return sorted(rows, key=badness, reverse=True)


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """A line for each pair, in the manifest's order; the columns are those of `COLUMNS`, by their short names."""
    with atomic(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in rows)


def write_html(rows: list[dict[str, Any]], path: Path) -> None:
    """The summary page, with links to the pairs' reports. Raises `UserError` without jinja2 or matplotlib."""
    check_packages()
    from jinja2 import Environment

    done = [row for row in rows if row["state"] != "failed"]
    known = {name for row in rows for name, value in row.items() if value is not None}
    shown = [name for name in COLUMNS if name in known - {"error", "state"}]
    page = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE)
    text = page.render(
        rows=worst_first(rows),
        failed=len(rows) - len(done),
        shown=shown,
        columns=COLUMNS,
        means={name: _mean(done, name) for name in shown if name != "name"},
        pictures=[_histogram(done, name) for name in _DRAWN if name in known],
        text=_text,
        notice=NOTICE,
        version=inrreg.__version__,
    )
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _mean(rows: list[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else None


def _text(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "folding":
        return f"{value:.3%}"
    if isinstance(value, float):
        return f"{value:.1f}" if name == "seconds" else f"{value:.3g}" if abs(value) < 0.1 else f"{value:.2f}"
    return str(value)


def _histogram(rows: list[dict[str, Any]], name: str) -> str:
    """How a figure is distributed over the pairs, as a data URI."""
    check_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4, 2.3), layout="constrained")
    axes = figure.add_subplot()
    axes.hist([row[name] for row in rows if row.get(name) is not None], bins="auto", color="#3b6ea5")
    axes.set_xlabel(COLUMNS[name])
    axes.set_ylabel("pairs")
    axes.yaxis.get_major_locator().set_params(integer=True)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Cohort</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; max-width: 84rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.2rem 0.7rem; border-bottom: 1px solid #e3e3e3; }
th:first-child, td:first-child, td.error { text-align: left; }
th { vertical-align: bottom; }
.failed { background: #fdecea; }
.notice { border: 2px solid #b36b00; background: #fff7e6; padding: 0.5rem 0.9rem; font-weight: 600; }
.mean { font-weight: 600; background: #f4f6f8; }
</style>
</head>
<body>
<h1>{{ rows|length }} pairs, {{ failed }} failed</h1>
<p class="notice">{{ notice }}</p>
<p>INRRegistration {{ version }}. The worst pairs first.</p>
<p>{% for picture in pictures %}<img src="{{ picture }}" alt="A figure's distribution over the pairs">{% endfor %}</p>
<table>
<tr>{% for name in shown %}<th>{{ columns[name] }}</th>{% endfor %}</tr>
<tr class="mean"><td>mean</td>
{% for name in shown[1:] %}<td>{{ text(name, means[name]) }}</td>{% endfor %}
</tr>
{% for row in rows %}
<tr{% if row.state == "failed" %} class="failed"{% endif %}>
{% set folder = "pairs/" ~ row.name ~ "/" %}
<td>{% if row.report %}<a href="{{ folder }}report.html">{{ row.name }}</a>{% else %}{{ row.name }}{% endif %}</td>
{% if row.state == "failed" %}
<td class="error" colspan="{{ shown|length - 1 }}">{{ row.error }}</td>
{% else %}
{% for name in shown[1:] %}<td>{{ text(name, row[name]) }}</td>{% endfor %}
{% endif %}
</tr>
{% endfor %}
</table>
</body>
</html>
"""
