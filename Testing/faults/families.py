"""The classes of input that are fuzzed: what is drawn of each, and what must hold of whatever was drawn.

A check takes a drawn input and an empty folder and returns what came out: `VALID` or the code of a `UserError`.
Everything else that it raises is a finding.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import SimpleITK as sitk
import torch
from hypothesis import strategies as st

from inrreg import images, intensities, protocol, tasks, worker
from inrreg.deformation import Deformation
from inrreg.fields import Lattice, LatticeGeometry
from inrreg.geometry import Frame, Grid
from inrreg.landmarks import pair, read_points
from inrreg.protocol import COMMANDS, EVENTS, Job, Message, UserError
from inrreg.registration import register
from inrreg.transforms import read_transform
from INRRegistrationLib import nrrd
from Testing.faults import files
from Testing.faults.judging import VALID, check_sentence, outcome
from Testing.faults.panel_process import Reader

Check = Callable[[Any, Path], str]


@dataclass(frozen=True)
class Family:
    """One class of input. `quota` is how many of it the long form draws."""

    name: str
    inputs: st.SearchStrategy
    check: Check
    quota: int


# ------------------------------------------------------------------------------------ building blocks

TYPES = sorted(files.NRRD_TYPES)
ODD_NUMBERS = [0.0, -0.0, -1.0, 1e-300, 1e-6, 1e-3, 1e3, 1e6, 1e300, math.inf, -math.inf, math.nan]
seeds = st.integers(0, 2**32 - 1)
lengths = st.integers(4, 9)
formats = st.sampled_from(files.FORMATS)
odd = st.sampled_from(ODD_NUMBERS) | st.floats()
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12)
json_values = st.recursive(
    scalars,
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=8), part, max_size=4),
    max_leaves=8,
)


@st.composite
def picture(draw: st.DrawFn, **fixed: Any) -> dict[str, Any]:
    """The description of an image; `fixed` are strategies for some of its entries, in place of harmless ones."""
    plain = {
        "size": st.tuples(lengths, lengths, lengths),
        "claimed": st.none(),
        "type": st.just("float32"),
        "spot": st.just(()),
        "constant": st.just(False),
        "spacing": st.tuples(*[st.floats(0.5, 5)] * 3),
        "origin": st.tuples(*[st.floats(-100, 100)] * 3),
        "axes": st.just(files.IDENTITY),
        "format": formats,
        "packed": st.booleans(),
        "seed": seeds,
    }
    return {name: draw(fixed.get(name, strategy)) for name, strategy in plain.items()}


def write_picture(what: dict[str, Any], stem: Path) -> Path:
    """The file of a description: noise of its type, but for the `spot` of special values at its beginning."""
    rng, dtype = np.random.default_rng(what["seed"]), np.dtype(what["type"])
    shape = what["size"][::-1]
    if dtype.kind == "f":
        array = rng.normal(100, 30, shape).astype(dtype)
    else:
        info = np.iinfo(dtype)
        array = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    if what["constant"]:
        array[...] = array.flat[0]
    with np.errstate(over="ignore"):
        for place, value in what["spot"]:
            array.flat[place % array.size] = value
    geometry = {name: what[name] for name in ("spacing", "origin", "axes")}
    path = stem.with_name(stem.name + what["format"])
    return files.write(path, array, size=what["claimed"], packed=what["packed"], **geometry)


def check_image(what: dict[str, Any], folder: Path) -> str:
    """An image that is read can be worked with: finite, normalized within bounds, on an invertible grid."""
    path = write_picture(what, folder / "image")
    found = []
    came = outcome(lambda: found.append(images.read_image(path, "fixed")))
    if came == VALID:
        check_usable(found[0])
    return came


def check_usable(image: sitk.Image) -> None:
    """Raise AssertionError for an image that no registration could work with."""
    array, grid = sitk.GetArrayFromImage(image), Grid.of(image)
    assert min(grid.size) >= 4
    assert np.isfinite(array.astype(np.float64)).all()
    normal = intensities.normalize(array)
    assert np.isfinite(normal).all()
    assert normal.min() >= 0
    assert normal.max() <= 1 + 1e-5
    assert normal.max() > normal.min()
    assert np.isfinite([*grid.origin, *grid.matrix.ravel()]).all()
    assert np.allclose(grid.to_index(grid.to_world(np.array([1.0, 2.0, 3.0]))), [1, 2, 3], atol=1e-3)


def refused(check: Check) -> Check:
    """The check, where nothing of the family is valid."""

    def checked(what: Any, folder: Path) -> str:
        came = check(what, folder)
        assert came != VALID, "it was taken"
        return came

    return checked


def check_huge(what: dict[str, Any], folder: Path) -> str:
    """A header that claims far too much is refused before its voxels are read."""
    path = write_picture(what, folder / "image")
    with mock.patch.object(images, "read_voxels", side_effect=AssertionError("memory was taken")):
        came = outcome(lambda: images.read_image(path, "fixed"))
    assert came != VALID
    return came


# --------------------------------------------------------------------------------------------- images

spots = st.lists(st.integers(0, 10**6), min_size=1, max_size=5)


def spot(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(st.tuples(st.integers(0, 10**6), values), min_size=1, max_size=5)


floats = st.sampled_from(["float32", "float64"])
checked = st.sampled_from([".nrrd", ".mha"])  # the library that reads NIfTI takes what is not finite for 0
some = st.integers(1, 6)
huge = st.integers(1, 10**18) | st.sampled_from([2**31 - 1, 2**31, 2**32, 10**6, 32767, 10**18])
turns = st.permutations(files.IDENTITY).map(tuple)


def scattered(*parts: st.SearchStrategy) -> st.SearchStrategy:
    """Three numbers or rows, one of them at least from the first strategy."""
    first, rest = parts
    return st.one_of(*(st.tuples(*[first if a == axis else rest for a in range(3)]) for axis in range(3)))


bad_axes = scattered(st.tuples(odd, odd, odd), st.sampled_from(files.IDENTITY)) | st.just(((1.0, 0.0, 0.0),) * 3)


@st.composite
def damaged(draw: st.DrawFn, content: st.SearchStrategy) -> Any:
    """An input and a list of what is done to its bytes: (place, what, byte)."""
    edit = st.tuples(st.integers(0, 10**6), st.sampled_from(["flip", "cut", "insert", "drop"]), st.integers(0, 255))
    # Near the beginning, where headers are, as often as anywhere.
    near = st.tuples(st.integers(0, 400), st.sampled_from(["flip", "insert", "drop"]), st.integers(0, 255))
    return draw(content), draw(st.lists(edit | near, min_size=1, max_size=6))


def damage(data: bytes, edits: list[tuple[int, str, int]]) -> bytes:
    """The bytes after the edits of `damaged`."""
    for place, kind, byte in edits:
        place %= max(1, len(data))
        rest = data[place + 1 :]
        if kind == "cut":
            rest = b""
        middle = {"flip": bytes([byte]), "cut": b"", "insert": data[place : place + 1] + bytes([byte]), "drop": b""}[
            kind
        ]
        data = data[:place] + middle + rest
    return data


def check_damaged_image(what: Any, folder: Path) -> str:
    content, edits = what
    path = write_picture(content, folder / "image")
    path.write_bytes(damage(path.read_bytes(), edits))
    found = []
    came = outcome(lambda: found.append(images.read_image(path, "fixed")))
    if came == VALID:
        check_usable(found[0])
    return came


too_much = st.tuples(huge, huge, huge).filter(lambda size: math.prod(min(n, 32767) for n in size) > 10**7)
kinds = st.sampled_from(TYPES)
infinite = spot(st.sampled_from([math.inf, -math.inf]))
extreme = st.floats(allow_nan=False) | st.sampled_from([1e31, -1e38, 1e160, -1e300])  # which chance alone may not draw
IMAGES = [
    Family("image of few voxels", picture(size=st.tuples(some, some, some)), check_image, 300),
    Family("image of each pixel type", picture(type=kinds), check_image, 400),
    Family(
        "image with NaN", picture(type=floats, format=checked, spot=spot(st.just(math.nan))), refused(check_image), 300
    ),
    Family("image with infinity", picture(type=floats, format=checked, spot=infinite), refused(check_image), 200),
    Family("image of one value", picture(type=kinds, constant=st.just(True)), refused(check_image), 200),
    Family("image of extreme values", picture(type=floats, spot=spot(extreme)), check_image, 300),
    Family("image header that claims too much", picture(claimed=too_much), check_huge, 500),
    Family("image of odd spacing", picture(spacing=scattered(odd, st.floats(0.5, 5))), check_image, 400),
    Family("image of odd directions", picture(axes=bad_axes | turns), check_image, 400),
    Family("image of odd origin", picture(origin=scattered(odd, st.floats(-1e4, 1e4))), check_image, 300),
    Family("damaged image file", damaged(picture()), check_damaged_image, 900),
]

# ---------------------------------------------------------------------------------- masks and labels

labelled = picture(
    size=st.tuples(some, some, some),
    type=st.sampled_from(TYPES),
    spot=st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from([0, 7, 100])), min_size=1, max_size=40),
    constant=st.just(True),
    axes=turns,
    origin=st.tuples(*[st.floats(-2, 2)] * 3) | scattered(st.sampled_from([-1e4, 1e4, 1e9]), st.floats(-5, 5)),
)
special = picture(type=floats, spot=spot(st.sampled_from([math.nan, math.inf, -math.inf, 1e300, -7.5])))
zero = picture(constant=st.just(True), type=st.just("uint8"), size=st.just((4, 4, 4)))
around = st.tuples(*[st.floats(-2, 2)] * 3)
references = st.none() | picture(format=st.just(".nrrd"), origin=around) | picture(format=st.just(".nrrd"))


def _reference(what: dict[str, Any] | None, folder: Path) -> sitk.Image | None:
    return None if what is None else images.read_scalar(write_picture(what, folder / "reference"), "reference")


def check_mask(what: Any, folder: Path) -> str:
    """A mask is 0 and 1, not empty, on the reference's grid."""
    mask, reference = write_picture(what[0], folder / "mask"), _reference(what[1], folder)
    found = []
    came = outcome(lambda: found.append(images.read_mask(mask, "fixed mask", reference)))
    if came == VALID:
        values = sitk.GetArrayFromImage(found[0])
        assert set(np.unique(values)) <= {0, 1}
        assert values.any()
        assert reference is None or Grid.of(found[0]).equals(Grid.of(reference))
    return came


def check_labels(what: Any, folder: Path) -> str:
    """Labels are the whole numbers of their file, on the reference's grid."""
    path, reference = write_picture(what[0], folder / "labels"), _reference(what[1], folder)
    found = []
    came = outcome(lambda: found.append(images.read_labels(path, "fixed labels", reference)))
    if came == VALID:
        values = set(np.unique(sitk.GetArrayFromImage(found[0])).tolist())
        known = sitk.GetArrayFromImage(images.read_scalar(path, "labels"))
        assert values <= {0, *(int(value) for value in np.unique(known).tolist())}
        assert values != {0}
        assert reference is None or Grid.of(found[0]).equals(Grid.of(reference))
    return came


MASKS = [
    Family("mask", st.tuples(labelled | special | zero, references), check_mask, 600),
    Family("label image", st.tuples(labelled | special | zero, references), check_labels, 600),
]

# ------------------------------------------------------------------------------------------ landmarks

cells = (
    st.floats().map(repr)
    | st.integers(-(10**6), 10**6).map(str)
    | st.text(max_size=6)
    | st.sampled_from(["", '"', "x"])
)
table = st.lists(st.lists(cells, max_size=5).map(",".join), max_size=6).map("\n".join)
csv_text = st.one_of(
    st.tuples(st.sampled_from(["x,y,z", "label,x,y,z", "X, Y ,Z", "x,y", "x,x,y,z", "l,x,p", ""]), table).map(
        "\n".join
    ),
    st.text(max_size=60),
)
fcsv_text = st.tuples(
    st.sampled_from(["# CoordinateSystem = LPS", "# CoordinateSystem = RAS", "# CoordinateSystem = 7", "#", ""]),
    st.sampled_from(["# columns = id,x,y,z,label", "# columns = x", "# columns = ", "# columns = id,x,y,z,x"]),
    table,
).map("\n".join)
voxel_text = st.lists(st.lists(cells, max_size=4).map(" ".join), max_size=5).map("\n".join)


@st.composite
def markups(draw: st.DrawFn) -> str:
    """A markups file, any part of which may be something else."""
    maybe = lambda good: draw(st.sampled_from([good] * 6 + [draw(json_values)]))  # noqa: E731
    points = [
        maybe({
            "label": maybe(draw(st.text(max_size=5))),
            "position": maybe([draw(st.floats(-1e3, 1e3)) for _ in range(3)]),
            "positionStatus": maybe("defined"),
        })
        for _ in range(draw(st.integers(0, 3)))
    ]  # fmt: skip
    data = {"markups": maybe([maybe({"coordinateSystem": maybe("RAS"), "controlPoints": maybe(points)})])}
    return json.dumps(maybe(data))


point_files = st.one_of(
    st.tuples(st.just(".csv"), csv_text),
    st.tuples(st.just(".fcsv"), fcsv_text),
    st.tuples(st.just(".txt"), voxel_text),
    st.tuples(st.just(".mrk.json"), markups()),
    st.tuples(st.sampled_from([".csv", ".fcsv", ".txt", ".mrk.json", ".xyz"]), st.binary(max_size=60)),
)


def check_landmarks(what: Any, folder: Path) -> str:
    """Points that are read are finite, (N, 3), and their labels and columns have N entries; pairs correspond."""
    found = []
    for number, (ending, content) in enumerate(what):
        path = folder / f"points{number}{ending}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        came = outcome(lambda path=path: found.append(read_points(path, sitk.Image([5, 5, 5], sitk.sitkUInt8))))
        if came != VALID:
            return came
        points = found[-1]
        assert points.positions.shape == (len(points), 3)
        assert np.isfinite(points.positions).all()
        assert len(points.labels) in (0, len(points))
        assert all(len(column) == len(points) for column in points.columns.values())
    return outcome(lambda: _check_pairs(pair(*found)))


def _check_pairs(pairs: Any) -> None:
    assert pairs.fixed.shape == pairs.moving.shape == (len(pairs.names), 3)


positions = st.lists(st.tuples(*[st.floats(-1e4, 1e4)] * 3), min_size=1, max_size=5)


def check_known_points(what: Any, folder: Path) -> str:
    """What is well formed is read, and as LPS."""
    rows, kind, system = what
    path = folder / f"points{kind}"
    if kind == ".csv":
        system = "LPS"
        path.write_text("x,y,z\n" + "\n".join(",".join(map(repr, row)) for row in rows))
    elif kind == ".fcsv":
        lines = "\n".join(",".join(["1", *map(repr, row), "a"]) for row in rows)
        path.write_text(f"# CoordinateSystem = {system}\n# columns = id,x,y,z,label\n{lines}\n")
    else:
        markup = {"coordinateSystem": system, "controlPoints": [{"position": list(row)} for row in rows]}
        path.write_text(json.dumps({"markups": [markup]}))
    found = read_points(path).positions
    assert np.array_equal(found, np.array(rows) * ([-1, -1, 1] if system == "RAS" else [1, 1, 1]))
    return VALID


LANDMARKS = [
    Family("pair of landmark files", st.tuples(point_files, point_files), check_landmarks, 700),
    Family(
        "well-formed landmark file",
        st.tuples(positions, st.sampled_from([".csv", ".fcsv", ".mrk.json"]), st.sampled_from(["LPS", "RAS"])),
        check_known_points,
        400,
    ),
]

# ----------------------------------------------------------------------------------------- transforms

KINDS = {"AffineTransform_double_3_3": 12, "Euler3DTransform_double_3_3": 6, "TranslationTransform_double_3_3": 3,
         "VersorRigid3DTransform_double_3_3": 6, "AffineTransform_double_2_2": 6, "BSplineTransform_double_3_3": 3,
         "NoSuchTransform_double_3_3": 3}  # fmt: skip
numbers = st.floats(-2, 2) | st.floats() | odd


@st.composite
def transform_text(draw: st.DrawFn) -> str:
    """An ITK transform file, with some of its parts missing or of another length."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    count = draw(st.sampled_from([KINDS[kind]] * 4 + [0, 1, 20]))
    parameters = " ".join(repr(draw(numbers)) for _ in range(count))
    lines = ["#Insight Transform File V1.0", "#Transform 0", f"Transform: {kind}", f"Parameters: {parameters}"]
    lines.append(
        "FixedParameters: " + " ".join(repr(draw(numbers)) for _ in range(draw(st.sampled_from([3, 3, 0, 9]))))
    )
    if draw(st.booleans()):
        lines.pop(draw(st.integers(0, len(lines) - 1)))
    return "\n".join(lines) + "\n"


def check_transform(what: Any, folder: Path) -> str:
    """A transform that is read maps points to finite points."""
    ending, content = what
    path = folder / f"transform{ending}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return _maps(path)


def _maps(path: Path) -> str:
    found = []
    came = outcome(lambda: found.append(read_transform(path)))
    if came == VALID:
        points = np.array([[0.0, 0.0, 0.0], [10.0, -20.0, 30.0]])
        mapped = found[0].map(points)
        assert mapped.shape == points.shape
        assert np.isfinite(mapped).all(), mapped
    return came


@st.composite
def field_file(draw: st.DrawFn) -> dict[str, Any]:
    value = draw(st.sampled_from([0.0, 1.0, 1e3]) | odd)
    return {
        "size": draw(st.tuples(some, some, some)),
        "value": value,
        "kind": draw(st.sampled_from(["resampling", "modeling", "other"])),
        "components": draw(st.sampled_from([3, 3, 3, 1, 2])),
        "ending": draw(st.sampled_from([".nrrd", ".nii.gz", ".mha"])),
        "edits": draw(st.just([]) | damaged(st.none()).map(lambda pair: pair[1])),
    }


def check_field(what: dict[str, Any], folder: Path) -> str:
    """A displacement field that is read maps points to finite points."""
    shape = what["size"][::-1] + ((what["components"],) if what["components"] > 1 else ())
    array = np.random.default_rng(0).normal(size=shape)
    array.flat[0] = what["value"]
    image = sitk.GetImageFromArray(array, isVector=what["components"] > 1)
    image.SetOrigin((-3.0, -3.0, -3.0))
    image.SetMetaData("displacement field type", what["kind"])
    path = folder / f"field{what['ending']}"
    sitk.WriteImage(image, str(path))
    path.write_bytes(damage(path.read_bytes(), what["edits"]))
    return _maps(path)


ending = st.sampled_from([".tfm", ".txt", ".h5", ".mat", ".xfm", ".nrrd", ".dcm"])
TRANSFORMS = [
    Family(
        "transform file",
        st.tuples(st.just(".tfm"), transform_text()) | st.tuples(ending, st.binary(max_size=80)),
        check_transform,
        700,
    ),
    Family("displacement field", field_file(), check_field, 500),
]

# ------------------------------------------------------------------------------------ jobs, settings

names = st.sampled_from([item.name for item in dataclasses.fields(Job)])
paths = st.sampled_from([
    "../out.nrrd", "/etc/hostname", "in/../../x", "link", "link/x", "a\0b", "x" * 5000, "fixed.nrrd", "auto", "lungs",
    "\udcff", "~/x", "C:\\x", "..\\x", ".", "..", "a\nb.nrrd",
])  # fmt: skip


@st.composite
def job_entries(draw: st.DrawFn) -> Any:
    """A job file's content in which some entries are something else."""
    data = Job(fixed="fixed.nrrd", moving="moving.nrrd").to_dict()
    for _ in range(draw(st.integers(0, 4))):
        name = draw(names | st.text(max_size=6) | st.just("version"))
        data[name] = draw(paths if name in Job.FILES and draw(st.booleans()) else json_values)
    if draw(st.integers(0, 9)) == 0:
        data.pop(draw(st.sampled_from(sorted(data))))
    if draw(st.booleans()):
        data["overrides"] = draw(
            st.dictionaries(st.sampled_from(["steps", "rate", "width", "a\nb"]), json_values, max_size=2)
        )
    return data if draw(st.integers(0, 19)) else draw(json_values)


def check_job(what: Any, folder: Path) -> str:
    """A job that is loaded names files in its folder only, and its settings and tolerances are good."""
    inside = folder / "job"
    inside.mkdir()
    (inside / "link").symlink_to(folder)
    entries, edits = what if isinstance(what, tuple) else (what, [])
    content = damage(json.dumps(entries).encode(), edits)
    (inside / "job.json").write_bytes(content)
    found = []
    came = outcome(lambda: found.append(Job.load(inside)))
    if came == VALID:
        for path in found[0].files().values():
            assert Path(path).resolve().is_relative_to(inside.resolve()), path
        json.dumps(found[0].to_dict(), allow_nan=False)
    return came


texts = st.floats().map(repr) | st.integers(-(10**12), 10**12).map(str) | st.text(max_size=20) | st.text(min_size=700)


@st.composite
def assignments(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A preset, and settings or tolerances of it with any value."""
    preset = draw(st.sampled_from(sorted(protocol.presets())))
    known = [item.name for item in dataclasses.fields(protocol.preset(preset).settings)]
    changes = {}
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from([*known, *known, *known, ""])) or draw(st.text(max_size=8))
        default = getattr(protocol.preset(preset).settings, name, None)
        good = st.floats(0, 3) if isinstance(default, float) else st.integers(1, 60)
        if isinstance(default, tuple):
            good = st.lists(good, min_size=len(default), max_size=len(default))
        changes[name] = draw(st.one_of(good, good, good.map(str), texts, json_values, st.lists(odd, max_size=4)))
    return preset, changes


def check_settings(what: Any, folder: Path) -> str:
    """Settings that are taken are of their type and in their range."""
    preset, changes = what
    found = []
    came = outcome(lambda: found.append(protocol.preset(preset).settings.override(changes)))
    if came == VALID:
        for item in dataclasses.fields(found[0]):
            value = getattr(found[0], item.name)
            for part in value if isinstance(value, tuple) else (value,):
                assert type(part) is type(item.default[0] if isinstance(item.default, tuple) else item.default)
                low, high = item.metadata["low"], item.metadata["high"]
                assert low is None or part >= low
                assert high is None or part <= high
        json.dumps(found[0].to_dict(), allow_nan=False)
    return came


JOBS = [
    Family("job file", job_entries() | damaged(job_entries()), check_job, 1200),
    Family("settings", assignments(), check_settings, 1000),
]

# ------------------------------------------------------------------------------------------- streams

REQUEST = "request"
EXAMPLES = {
    "progress": {
        "stage": "6 mm",
        "step": 3,
        "steps": 9,
        "loss": 0.5,
        "terms": {"NCC": 0.5},
        "seconds": 1.5,
        "eta": 2.0,
    },
    "heartbeat": {"seconds": 1.0},
    "warning": {"code": "overlap", "message": "Überlappung\u2028klein"},
    "log": {"text": "Zürich\n登録"},
    "preview": {"path": "preview.nrrd"},
}
events = st.builds(
    lambda kind, request: Message(kind, EXAMPLES[kind], request, "job"),
    st.sampled_from(sorted(EXAMPLES)),
    st.sampled_from([REQUEST, REQUEST, "", "stale"]),
)
noise = st.text(max_size=30) | st.binary(max_size=30) | json_values.map(lambda value: json.dumps(value))


@st.composite
def stream(draw: st.DrawFn) -> Any:
    """Lines of events and of noise, and where the pieces in which they arrive are cut."""
    line = st.tuples(st.just("event"), events) | st.tuples(st.just("noise"), noise)
    lines = draw(st.lists(line, max_size=8))
    return lines, draw(st.lists(st.integers(0, 3000), max_size=12)), draw(damaged(st.none()))[1], draw(st.booleans())


def check_stream(what: Any, folder: Path) -> str:
    """However a stream is cut, its events arrive once, in order and whole; damaged, nothing is raised."""
    lines, cuts, edits, spoilt = what
    data, expected, texts = b"", [], 0
    for kind, content in lines:
        if kind == "event":
            data += content.encode().encode() + b"\n"
            expected += [content] * (content.request in (REQUEST, ""))
        else:
            raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
            raw = raw.replace(b"\n", b" ")
            data += raw + b"\n"
            texts += bool(raw.strip())
    reader = Reader(REQUEST)
    if spoilt:
        data = damage(data, edits)
    ends = sorted(cut % (len(data) + 1) for cut in cuts)
    for begin, end in zip([0, *ends], [*ends, len(data)], strict=True):
        reader.take(data[begin:end])
    if spoilt:
        assert all(Message.decode(event.encode(), EVENTS) == event for event in reader.events)
    else:
        assert reader.events == expected
        assert len(reader.lines) == texts
    return VALID


def check_line(what: str, folder: Path) -> str:
    """A line is a message or raises ValueError; a message survives encoding."""
    for kinds in (EVENTS, COMMANDS):
        try:
            message = Message.decode(what, kinds)
        except ValueError:
            continue
        assert Message.decode(message.encode(), kinds) == message
        return VALID
    return "refused"


@st.composite
def message_line(draw: st.DrawFn) -> str:
    kinds = draw(st.sampled_from([EVENTS, COMMANDS]))
    kind = draw(st.sampled_from(sorted(kinds) * 2 + ["other"]))
    texts = {name: name for name in ("folder", "path", "code", "message", "hint", "text")}
    known = {**EXAMPLES.get(kind, {}), **texts, "metrics": {}, "versions": {}, "devices": [], "alpha": 0.5}
    data: dict[str, Any] = {"version": 1, "kind": kind, "request": "r", "job": "j"}
    data |= {name: known.get(name, 0) for name in kinds.get(kind, ())}
    for _ in range(draw(st.integers(0, 2))):
        data[draw(st.sampled_from([*sorted(data), "other"]))] = draw(json_values)
    line = json.dumps(data)
    return draw(st.sampled_from([line, line, line, line[:-1], line + line, draw(st.text(max_size=20)), "[" * 2000]))


def check_command(what: bytes, folder: Path) -> str:
    """Whatever the worker is told, it answers with an event of words, or nothing, and lives."""
    out = io.BytesIO()
    made = worker.Worker(io.BytesIO(), out)
    with mock.patch.object(os, "_exit", side_effect=SystemExit):
        try:
            made._obey(what)
        except SystemExit:
            return "shutdown"
        while not made._queue.empty():
            message, before = made._queue.get(), Path.cwd()
            os.chdir(folder)  # what is relative lies there
            try:
                made._evaluate(message) if message.kind == "alpha" else made._work(message)
            finally:
                os.chdir(before)
    answers = [Message.decode(line.decode(), EVENTS) for line in out.getvalue().splitlines()]
    for answer in answers:
        if answer.kind == "error":
            check_sentence(UserError(**{name: answer.data[name] for name in ("code", "message", "hint")}))
            return answer.data["code"]
    return VALID


command_lines = st.one_of(
    st.binary(max_size=40),
    message_line().map(lambda line: line.encode("utf-8", "surrogatepass")),
    st.builds(
        lambda kind, data: json.dumps({"version": 1, "kind": kind, "request": "r", "job": "", **data}).encode(),
        st.sampled_from(["register", "alpha"]),
        st.fixed_dictionaries({
            "folder": paths | scalars, "alpha": scalars, "path": paths | scalars, "spacing": scalars,
            "resample": scalars,
        }),
    ),
)  # fmt: skip
STREAMS = [
    Family("event stream", stream(), check_stream, 1200),
    Family("message line", message_line(), check_line, 800),
    Family("command to the worker", command_lines, check_command, 600),
]

# ---------------------------------------------------------------------------------- models and results


@cache
def model_files() -> tuple[dict[str, Any], bytes]:
    """A small result's `model.json` and weights."""
    import tempfile

    from inrreg.fields import Siren

    grid = Grid((6, 6, 6), np.zeros(3), np.eye(3) * 5.0)
    frame = Frame.covering(grid)
    network = Siren(8, 1, 10.0, generator=torch.Generator().manual_seed(0))
    field = Lattice([network], LatticeGeometry.covering(grid, frame, 20.0)).freeze()
    with tempfile.TemporaryDirectory() as folder:
        Deformation(field, frame, grid).save(Path(folder))
        return protocol.read_json(Path(folder) / "model.json"), (Path(folder) / "model.safetensors").read_bytes()


@st.composite
def model_change(draw: st.DrawFn) -> Any:
    """Where in `model.json` what is put, and what is done to the weights."""
    place = [draw(st.integers(0, 20)) for _ in range(draw(st.integers(1, 4)))]
    edits = draw(st.just([]) | st.just([]) | damaged(st.none()).map(lambda pair: pair[1]))
    value = draw(json_values | st.sampled_from([0, -1, 1e9, 1 << 40, [], {}, None, "x", [1e30] * 3, math.nan]))
    return place, value, edits


def check_model(what: Any, folder: Path) -> str:
    """A model that is loaded maps points to finite ones."""
    place, value, edits = what
    description, weights = model_files()
    description = json.loads(json.dumps(description))
    at: Any = description
    for depth, number in enumerate(place):
        keys = sorted(at) if isinstance(at, dict) else range(len(at))
        key = keys[number % len(keys)]
        if depth == len(place) - 1 or not isinstance(at[key], (dict, list)) or not at[key]:
            at[key] = value
            break
        at = at[key]
    (folder / "model.json").write_text(json.dumps(description))
    (folder / "model.safetensors").write_bytes(damage(weights, edits))
    found = []
    came = outcome(lambda: found.append(Deformation.load(folder)))
    if came == VALID:
        assert np.isfinite(found[0].map(np.array([[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]]))).all()
    return came


def check_grid(what: Any, folder: Path) -> str:
    """The panel's reader of results: an array of the header's shape, or a sentence."""
    vectors, edits = what
    path = folder / "displacement.nrrd"
    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray(rng.normal(size=(3, 4, 5, 3)).astype(np.float32), isVector=True)
    sitk.WriteImage(image if vectors else sitk.VectorIndexSelectionCast(image, 0), str(path), vectors)
    path.write_bytes(damage(path.read_bytes(), edits))
    found = []
    came = outcome(lambda: found.append(nrrd.read(path)))
    if came == VALID:
        array, matrix = found[0]
        assert array.ndim in (3, 4)
        assert array.nbytes <= 2000 * path.stat().st_size
        assert matrix.shape == (4, 4)
    return came


RESULTS = [
    Family("model", model_change(), check_model, 700),
    Family("result as the panel reads it", damaged(st.booleans()), check_grid, 700),
]

# -------------------------------------------------------------------------------------- registrations

QUICK = {
    "fast": {"steps": [2], "image_spacing": [8], "node_spacing": [10], "width": 8, "rank": 4},
    "idir-light": {"steps": 2, "points": 100, "regularized": 0.2, "width": 8, "hidden": 1},
    "dual-light": {"points": 100, "width": 8},
}


def rarely(strategy: st.SearchStrategy) -> st.SearchStrategy:
    """Something now and then, else None."""
    return st.integers(0, 4).flatmap(lambda number: strategy if number == 4 else st.none())


@st.composite
def registration(draw: st.DrawFn) -> dict[str, Any]:
    """Two images, of any size, spacing, type and place that can be, with and without the rest of a job."""
    spacing = st.tuples(*[st.sampled_from([0.3, 1.0, 4.0])] * 3)
    near = st.tuples(*[st.floats(-2, 2)] * 3)
    far = scattered(st.sampled_from([-1e3, 30.0, 1e6]), st.floats(-2, 2))
    size = st.tuples(*[st.sampled_from([4, 5, 9, 14])] * 3)
    kinds = {"size": size, "spacing": spacing, "type": st.sampled_from(TYPES), "axes": turns}
    one = picture(**kinds, origin=near)
    other = picture(**kinds, origin=near | near | far)
    return {
        "images": (draw(one), draw(other)),
        "mask": draw(rarely(labelled | st.sampled_from(["auto", "lungs"]))),
        "labels": draw(rarely(labelled)),
        "prealign": draw(st.sampled_from(["none", "none", "rigid", "affine"])),
        "initial": draw(rarely(transform_text())),
        "preset": draw(st.sampled_from(["fast", "fast", "idir-light"])),
        "ensemble": draw(st.sampled_from([1, 1, 2])),
    }


def check_registration(what: dict[str, Any], folder: Path) -> str:
    """A registration ends in a complete result whose figures are JSON and whose field is finite, or in a sentence that
    leaves nothing behind."""
    given = {
        name: str(write_picture(each, folder / name))
        for name, each in zip(("fixed", "moving"), what["images"], strict=True)
    }
    if what["mask"] is not None:
        given["fixed_mask"] = (
            what["mask"] if isinstance(what["mask"], str) else str(write_picture(what["mask"], folder / "mask"))
        )
    if what["labels"] is not None:
        given["fixed_labels"] = given["moving_labels"] = str(write_picture(what["labels"], folder / "labels"))
    if what["initial"] is not None:
        (folder / "initial.tfm").write_text(what["initial"])
        given["initial_transform"] = str(folder / "initial.tfm")
    changes = {"prealign": what["prealign"], "preset": what["preset"], "ensemble": what["ensemble"]}
    job = Job(**given, **changes, overrides=QUICK[what["preset"]], threads=1)
    output = folder / "out" / "result"
    came = outcome(lambda: register(job, output))
    if came == VALID:
        tasks.check_result(output)
        metrics = protocol.read_json(output / "metrics.json")
        figures = [value for value in metrics["similarity"].values() if not isinstance(value, str)]
        assert figures
        assert np.isfinite(figures).all()
    else:
        assert not (folder / "out").exists()
    return came


REGISTRATIONS = [Family("registration", registration(), check_registration, 120)]

FAMILIES = {
    family.name: family
    for family in [*IMAGES, *MASKS, *LANDMARKS, *TRANSFORMS, *JOBS, *STREAMS, *RESULTS, *REGISTRATIONS]
}
"""All of them by name."""
