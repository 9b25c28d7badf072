"""The report's page: jinja2, escaped throughout, nothing fetched and nothing run (held by its content policy)."""

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Registration report</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: 0; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 0.8rem 0; }
th, td { text-align: left; padding: 0.2rem 0.9rem 0.2rem 0; border-bottom: 1px solid #eee; vertical-align: top; }
th { font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.hash { font: 12px monospace; overflow-wrap: anywhere; }
.notice { border: 2px solid #b36b00; background: #fff7e6; padding: 0.5rem 0.9rem; font-weight: 600; }
.warning { border-left: 4px solid #b00020; padding-left: 0.7rem; }
.state { font-weight: 600; white-space: nowrap; }
.met { color: #1b6e2c; } .not-met { color: #b00020; } .not-assessed { color: #666; }
.small { color: #555; font-size: 0.87rem; }
figure { margin: 1rem 0; break-inside: avoid; }
img { max-width: 100%; }
figcaption { color: #444; font-size: 0.9rem; }
@media print {
  body { max-width: none; margin: 0; font-size: 11px; }
  h2 { break-after: avoid; } tr { break-inside: avoid; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
@page { margin: 14mm; }
</style>
</head>
<body>
{% macro mm(value) %}{{ "-" if value is none or value is undefined else "%.2f"|format(value) }}{% endmacro %}
<h1>Registration report</h1>
<p class="small">INRRegistration {{ version }}{% if m.finished %}, registered {{ m.finished }}{% endif %}, report made
{{ made }}</p>
<p class="notice">{{ m.verdict.notice }}</p>

<h2>Checks</h2>
<p><strong>{{ m.verdict.sentence }}</strong> Tolerances after AAPM TG-132; whoever uses a registration sets them for the
purpose, and judges.</p>
<table>
<tr><th>check</th><th>of what</th><th class="number">figure</th><th>tolerance</th><th></th></tr>
{% for check in m.verdict.checks %}
<tr><td>{{ check.title }}</td><td>{{ check.detail }}</td><td class="number">{{ check.text }}</td>
<td>{{ check.bound }}</td><td class="state {{ check.state|replace(' ', '-') }}">{{ check.state }}</td></tr>
{% endfor %}
</table>
{% for warning in warnings %}<p class="warning">{{ warning }}</p>{% endfor %}

{% if m.landmarks %}
<h2>Landmarks</h2>
{% if m.landmarks.after %}
<table>
<tr><th>target registration error (mm)</th><th class="number">mean</th><th class="number">SD</th>
<th class="number">median</th><th class="number">95th percentile</th><th class="number">largest</th>
<th class="number">landmarks</th></tr>
{% for name, row in (("before", m.landmarks.before), ("after", m.landmarks.after),
                     ("after, voxel-snapped", m.landmarks.after_snapped)) if row %}
<tr><td>{{ name }}</td>{% for key in ("mean", "sd", "median", "p95", "max") %}
<td class="number">{{ mm(row[key]) }}</td>{% endfor %}<td class="number">{{ row["count"] }}</td></tr>
{% endfor %}
</table>
{% endif %}
{% if histogram %}<figure><img alt="Histogram of the errors" src="{{ histogram }}"></figure>{% endif %}
<p class="small">Distance between the mapped fixed and the moving landmark, in world coordinates; snapped: after the
mapped point is moved to the centre of its voxel in the moving image. Matched by {{ m.landmarks.matched_by }}.
{% for file, names in m.landmarks.missing.items() if names %}Only in the {{ file }} list, and not counted:
{{ names|join(", ") }}. {% endfor %}
{% if m.landmarks.guided %}{{ m.landmarks.guided }} landmarks guided the registration and do not count.{% endif %}</p>
{% if m.landmarks.worst %}
<table>
<tr><th>worst landmarks</th><th class="number">before (mm)</th><th class="number">after (mm)</th>
<th class="number">fixed position L, P, S (mm)</th></tr>
{% for mark in m.landmarks.worst %}
<tr><td>{{ mark.name }}</td><td class="number">{{ mm(mark.before) }}</td><td class="number">{{ mm(mark.after) }}</td>
<td class="number">{% for value in mark.fixed %}{{ "%.1f"|format(value) }}{{ ", " if not loop.last }}{% endfor %}</td>
</tr>{% endfor %}
</table>
{% endif %}
{% endif %}
{% if m.guidance %}
<p>Guided by {{ m.guidance.after["count"] }} point pairs placed by the user: {{ mm(m.guidance.before.mean) }} mm apart
on average before, {{ mm(m.guidance.after.mean) }} mm after. They judge nothing.</p>
{% endif %}

{% if m.labels %}
<h2>Structures</h2>
<table>
<tr><th></th><th class="number" colspan="2">Dice</th><th class="number" colspan="2">HD95 (mm)</th>
<th class="number" colspan="2">mean distance to agreement (mm)</th></tr>
<tr><th></th>{% for _ in range(3) %}<th class="number">before</th><th class="number">after</th>{% endfor %}</tr>
{% for label, after in m.labels.after.items() %}{% set before = m.labels.before.get(label, {}) %}
<tr><td>{{ names.get(label, "label " ~ label) }}</td>
<td class="number">{{ mm(before.dice) }}</td><td class="number">{{ mm(after.dice) }}</td>
<td class="number">{{ mm(before.hd95) }}</td><td class="number">{{ mm(after.hd95) }}</td>
<td class="number">{{ mm(before.mda) }}</td><td class="number">{{ mm(after.mda) }}</td></tr>
{% endfor %}
</table>
<p class="small">Dice: twice the common volume over the sum of both. HD95: the larger of the two directions' 95th
percentile of the distance from each surface voxel to the other surface. Mean distance to agreement: the mean of the
same distances, both directions together. Moving labels are warped by nearest neighbour onto the fixed labels' grid.</p>
{% endif %}

{% if m.jacobian %}
<h2>Regularity</h2>
<table>
<tr><th>Jacobian determinant</th><th class="number">smallest</th><th class="number">largest</th>
<th class="number">share &le; 0</th><th class="number">SD of log</th></tr>
{% for key, name in (("mask", "in the mask"), ("whole", "whole field")) if m.jacobian[key] %}
{% set row = m.jacobian[key] %}
<tr><td>{{ name }}</td><td class="number">{{ "%.3f"|format(row.min) }}</td>
<td class="number">{{ "%.3f"|format(row.max) }}</td>
<td class="number">{{ "%.3f"|format(100 * row.folding) }} %</td>
<td class="number">{{ "%.3f"|format(row.sd_log) }}</td></tr>{% endfor %}
</table>
<p class="small">Each row at up to {{ "{:,}".format(most) }} points, spread evenly over its region: extremes between
them are missed. Of a result of ours the deformation alone, without prealignment and initial transform.</p>
{% if m.inverse %}
<p>Inverse consistency: mean {{ "%.3f"|format(m.inverse.mean) }} mm, 99th percentile
{{ "%.3f"|format(m.inverse.p99) }} mm, largest {{ "%.3f"|format(m.inverse.max) }} mm at {{ m.inverse["count"] }} points:
how far a point ends from where it began, mapped to the moving image and back by the numerical inverse.</p>
{% endif %}
{% if m.uncertainty %}
<p>Uncertainty that the method states: mean {{ mm(m.uncertainty.mean) }} mm, 95th percentile
{{ mm(m.uncertainty.p95) }} mm, largest {{ mm(m.uncertainty.max) }} mm.</p>
{% endif %}
{% endif %}

{% if pictures %}
<h2>Pictures</h2>
<p class="small">Planes along the fixed image's axes; R, L, A, P, S and I name the nearest direction of the patient.
Checkerboard: squares of fixed and warped in turn. Difference: blue where the warped image is brighter, red where it is
darker, full at half of the range of intensities. Deformed grid: where lines 10 mm
apart go. Jacobian determinant of the whole map: red expands towards the moving image, blue shrinks, black folds. Black
elsewhere: outside the moving image.</p>
{% for caption, image in pictures %}
<figure><img alt="{{ caption }}" src="{{ image }}"><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
{% endif %}

<h2>How it was made</h2>
<table>
{% for name, value in facts %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>{% endfor %}
</table>
{% if m.settings %}
<table>
<tr><th>setting</th><th>value</th></tr>
{% for name, value in m.settings.items() %}<tr><td>{{ name }}</td>
<td>{{ value|join(", ") if value is sequence and value is not string else value }}</td></tr>{% endfor %}
</table>
{% endif %}
{% if m.inputs %}
<table>
<tr><th>input</th><th>SHA-256</th></tr>
{% for name, digest in m.inputs.items() %}<tr><td>{{ name|replace("_", " ") }}</td>
<td class="hash">{{ digest }}</td></tr>
{% endfor %}
</table>
{% endif %}
<p class="small">Files are known by their hashes: names and paths, which may hold a patient's, are left out. The names
of landmarks and structures are shown as they were typed. {{ m.verdict.notice }}</p>
</body>
</html>
"""
