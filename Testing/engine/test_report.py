"""Evaluation with all that it can be given, and the report that shows it: complete, escaped, and on its own."""

from __future__ import annotations

import builtins
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from inrreg.cli import app
from inrreg.deformation import Deformation
from inrreg.evaluation import inverse_consistency, jacobian, landmarks, of_transform, sha256
from inrreg.fields import Ensemble, Siren
from inrreg.geometry import Frame, Grid
from inrreg.guidance import independent
from inrreg.landmarks import Pairs, Points, write_points
from inrreg.pictures import Scene
from inrreg.protocol import Job, UserError, write_json
from inrreg.report import write_report
from inrreg.transforms import Affine, DisplacementGrid
from inrreg.verdict import NOTICE

GRID = Grid((18, 16, 14), np.array([-30.0, -20.0, 5.0]), np.diag([3.0, 3.5, 4.0]))
SHIFT = np.array([2.0, -1.0, 3.0])
EVIL = "<script>alert(1)</script>"


def blobs(shift: np.ndarray) -> np.ndarray:
    points = GRID.points() - shift
    return 200 * np.exp(-((points - GRID.centre) ** 2).sum(-1) / 250) + 20 * np.sin(points / 4).sum(-1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A pair that a shift relates, with everything that can be evaluated; names that no report may show."""
    inside = {"fixed": np.zeros(3), "moving": SHIFT}
    folder, found = tmp_path_factory.mktemp("Doe_John"), {}
    for name, shift in inside.items():
        near = ((GRID.points() - shift - GRID.centre) ** 2).sum(-1)
        images = {
            name: blobs(shift).astype(np.float32),
            f"{name}_mask": (near < 400).astype(np.uint8),
            f"{name}_labels": (near < 150).astype(np.uint8) + (near < 40),
        }
        for key, array in images.items():
            found[key] = str(folder / f"{key}.nrrd")
            sitk.WriteImage(GRID.image(array), found[key])
        marks = Points(GRID.centre + np.array([[0, 0, 0], [4, 5, 6], [-7, 3, 1]]) + shift, labels=("a", EVIL, "c"))
        found[f"{name}_landmarks"] = str(folder / f"{name}.csv")
        write_points(found[f"{name}_landmarks"], marks)
    return found


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.source = path.read_text(encoding="utf-8")
        self.words = re.sub(r'"data:image[^"]*"', "", self.source)
        """The page without its pictures, whose digits may spell anything."""
        self.text = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def pictures(self) -> list[str]:
        return [attributes["src"] for tag, attributes in self.tags if tag == "img"]


def reported(path: Path, files: dict[str, str], job: Job | None = None, extra: dict[str, Any] | None = None) -> Page:
    transform = Affine(offset=SHIFT + np.array([0.5, 0, 0]))
    metrics = of_transform(transform, job, files)
    write_report(path, {**metrics, **(extra or {})}, transform, job, files)
    return Page(path)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, files: dict[str, str]) -> Page:
    """The report on everything, by a user who types scripts wherever there is something to type."""
    job = Job(**files, label_names={"1": EVIL})
    extra = {"settings": {EVIL: EVIL, "steps": [EVIL, 1]}, "device": EVIL, "preset": EVIL, "versions": {EVIL: EVIL}}
    return reported(tmp_path_factory.mktemp("report") / "report.html", files, job, extra)


def test_report_holds_everything_and_fetches_nothing(page: Page, files: dict[str, str]) -> None:
    assert len(page.pictures()) == 1 + 1 + 3  # histogram, centre, worst landmarks
    assert all(source.startswith("data:image/png;base64,") for source in page.pictures())
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not {"href", "srcset", "action", "background", "poster"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"https?:|//|url\(|@import", page.words)
    assert "default-src 'none'" in page.words
    text = " ".join(page.text.split())
    assert text.count(NOTICE) == 2
    for words in ("Target registration error, mean", "0.50 mm", "Dice coefficient", "label 2", "in the mask"):
        assert words in text
    for path in files.values():
        if "moving_mask" not in path:
            assert hashlib.sha256(Path(path).read_bytes()).hexdigest() in text


def test_report_names_no_file(page: Page, files: dict[str, str]) -> None:
    assert "Doe" not in page.words
    assert str(Path(files["fixed"]).parent) not in page.words


def test_what_a_user_types_is_escaped(page: Page) -> None:
    assert "<script" not in page.words
    assert page.text.count(EVIL) >= 9
    assert any(EVIL in attributes.get("alt", "") for _, attributes in page.tags)


def test_report_of_little(tmp_path: Path, files: dict[str, str]) -> None:
    """A transform file with landmarks alone: no images, no run that is known."""
    marks = {name: path for name, path in files.items() if "landmarks" in name}
    page = reported(tmp_path / "report.html", marks)
    assert len(page.pictures()) == 1
    assert "not assessed" in page.text


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named(
    package: str, tmp_path: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=rf"{package}.*inrreg\[report\]") as caught:
        reported(tmp_path / "report.html", files)
    assert caught.value.code == "package"
    assert not list(tmp_path.glob("report*"))


def test_evaluate_writes_a_report(tmp_path: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    field = DisplacementGrid(np.zeros((*GRID.size[::-1], 3)) + SHIFT, GRID)
    image = GRID.image(field.vectors)
    sitk.WriteImage(image, str(tmp_path / "field.nrrd"))
    arguments = ["evaluate", "--transform", str(tmp_path / "field.nrrd"), "--json"]
    given = [name for name in files if name not in ("moving", "moving_mask")]  # without pictures, which take time
    arguments += [text for name in given for text in (f"--{name.replace('_', '-')}", files[name])]
    arguments += ["--tolerance", "tre_mean=0.001", "--report", str(tmp_path / "r" / "report.html")]
    app(arguments, standalone_mode=False)
    said = capsys.readouterr()
    assert "no pictures" in said.err
    metrics = json.loads(said.out)
    checks = {check["key"]: check for check in metrics["verdict"]["checks"]}
    assert checks["tre_mean"]["tolerance"] == 0.001
    assert metrics["landmarks"]["after"]["max"] < 1e-6
    assert metrics["labels"]["before"]["1"]["dice"] < metrics["labels"]["after"]["1"]["dice"]
    assert len(Page(tmp_path / "r" / "report.html").pictures()) == 1


def test_demo_writes_a_report_and_a_picture(
    tmp_path: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"steps": (2,), "image_spacing": (8,), "node_spacing": (20,), "window": 1, "width": 16}
    job = Job(files["fixed"], files["moving"], fixed_mask=files["fixed_mask"], overrides=small, threads=1)
    monkeypatch.setattr("inrreg.demo.write_phantom", lambda folder, quick: job)
    app(["demo", "--output", str(tmp_path)], standalone_mode=False)
    assert NOTICE in capsys.readouterr().out.replace("\n", " ")
    assert (tmp_path / "overview.png").is_file()
    page = Page(tmp_path / "report.html")
    assert len(page.pictures()) == 1
    assert "Through the centre of the fixed mask" in page.text
    for words in ("fast", "image spacing", "versions", "SHA-256", "not assessed"):
        assert words in page.text.replace("_", " ")


# ----------------------------------------------------------------------------------------- figures


def test_missing_landmarks_are_named_and_the_worst_come_first(tmp_path: Path) -> None:
    fixed = np.arange(15.0).reshape(5, 3)
    write_points(tmp_path / "f.csv", Points(fixed, labels=("a", "b", "c", "d", "e")))
    order = [3, 1, 0, 2]
    error = np.array([[1.0, 0, 0], [5, 0, 0], [0, 3, 0], [0, 0, 4]])
    write_points(tmp_path / "m.csv", Points(fixed[order] + error, labels=("d", "b", "a", "c")))
    result = landmarks(Affine(offset=[0, 0, 4.0]), str(tmp_path / "f.csv"), str(tmp_path / "m.csv"), None, None)
    assert result["missing"] == {"fixed": ("e",), "moving": ()}
    assert result["names"] == ["a", "b", "c", "d"]
    assert result["errors_before"] == [3.0, 5.0, 4.0, 1.0]
    assert result["errors"] == pytest.approx([5.0, np.sqrt(41), 0.0, np.sqrt(17)])
    assert [mark["name"] for mark in result["worst"]] == ["b", "a", "d", "c"]
    assert result["worst"][0]["fixed"] == [3.0, 4.0, 5.0]


def test_both_conventions_on_dirlab_files(tmp_path: Path) -> None:
    """One-based voxel indices. The map shifts by 0.4 of a voxel along x: snapped that is nothing, or, by 0.6, one."""
    image = GRID.image(np.zeros(GRID.size[::-1], np.float32))
    (tmp_path / "f.txt").write_text("1 1 1\n5 6 7\n")
    (tmp_path / "m.txt").write_text("1 1 1\n6 6 7\n")
    paths = str(tmp_path / "f.txt"), str(tmp_path / "m.txt")
    for share, continuous, snapped in ((0.4, (1.2, 1.8), (0, 3)), (0.6, (1.8, 1.2), (3, 0))):
        result = landmarks(Affine(offset=[3.0 * share, 0, 0]), *paths, image, image)
        assert result["errors"] == pytest.approx(continuous)
        assert result["after_snapped"]["mean"] == pytest.approx(np.mean(snapped))
    assert result["worst"][0]["fixed"] == pytest.approx(GRID.origin.tolist())


def test_landmarks_that_guided_judge_nothing(tmp_path: Path, files: dict[str, str]) -> None:
    fixed = np.array([[0.0, 0, 0], [10, 0, 0], [20, 0, 0], [30, 0, 0]])
    pairs = Pairs(fixed, fixed + 5, ("a", "b", "c", "d"), "order", {"fixed": (), "moving": ()})
    guides = Pairs(np.array([[0.3, 0, 0], [90, 0, 0]]), np.array([[80.0, 0, 0], [15, 5, 5]]), ("", ""), "order", {})
    assert independent(pairs, guides).names == ("c", "d")  # one near a guide in the fixed, one in the moving image
    assert independent(pairs, None) is pairs
    # of a result: its metrics tell where the guides were
    (tmp_path / "result").mkdir()
    ends = {name: [(GRID.centre + shift).tolist()] for name, shift in (("fixed", np.zeros(3)), ("moving", SHIFT))}
    write_json(tmp_path / "result" / "metrics.json", {"guidance": ends, "seconds": 3.0, "labels": "of another day"})
    metrics = of_transform(Affine(), None, files, result=tmp_path / "result")
    assert metrics["landmarks"]["guided"] == 1
    assert metrics["landmarks"]["names"] == [EVIL, "c"]
    assert metrics["seconds"] == 3.0
    assert set(metrics["labels"]) == {"before", "after"}


def test_uncertainty_of_a_result_is_summarized_in_the_mask(files: dict[str, str]) -> None:
    members = [Siren(16, 2, 8.0, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 3)]
    sure, unsure = (
        Deformation(field.freeze(), Frame.covering(GRID), GRID) for field in (members[0], Ensemble(members))
    )
    k, j, i = np.nonzero(sitk.GetArrayFromImage(sitk.ReadImage(files["fixed_mask"])))
    expected = unsure.uncertainty(GRID.to_world(np.stack([i, j, k], -1)))
    found = of_transform(unsure, None, files)["uncertainty"]
    assert (found["median"], found["max"]) == pytest.approx((np.median(expected), expected.max()))
    assert found["count"] == len(k)
    assert "uncertainty" not in of_transform(sure, None, files)


def test_pictures_ask_a_deformation_at_few_points(files: dict[str, str]) -> None:
    """And show it as it is: positions to a tenth of a millimetre, the volume change to a hundredth."""
    asked = []

    class Waves:
        def map(self, points: np.ndarray) -> np.ndarray:
            asked.append(len(points))
            return points + 4 * np.sin(points / 25)

    scene = Scene(sitk.ReadImage(files["fixed"]), sitk.ReadImage(files["moving"]), Waves())
    cut = scene.cut("coronal", GRID.centre)
    points = cut.points
    np.testing.assert_allclose(cut.mapped, points + 4 * np.sin(points / 25), atol=0.1)
    np.testing.assert_allclose(cut.determinant, (1 + 4 / 25 * np.cos(points / 25)).prod(-1), atol=0.01)
    assert sum(asked) < points[..., 0].size / 3


def test_inverse_consistency_knows_a_fold_from_a_smooth_map() -> None:
    everywhere = np.ones(GRID.size[::-1], bool)

    class Wave:
        """x -> x + amplitude sin(x / 4): folds from an amplitude of 4 mm on."""

        def __init__(self, amplitude: float) -> None:
            self.amplitude = amplitude

        def map(self, points: np.ndarray) -> np.ndarray:
            return points + self.amplitude * np.sin(points / 4) * [1, 0, 0]

    smooth, folded = (inverse_consistency(Wave(amplitude), GRID, everywhere) for amplitude in (3.0, 12.0))
    assert smooth["max"] < 1e-2
    assert smooth["count"] > 1000
    assert folded["p99"] > 1.0


def test_extremes_of_the_whole_field_are_no_milder_than_the_masks() -> None:
    """Of a large image, whose points are thinned: most of a small structure's lie between them."""
    grid = Grid((80, 80, 40), np.zeros(3), np.eye(3))
    mask = np.zeros(grid.size[::-1], bool)
    mask[18:23, 38:43, 38:43] = True
    centre = np.array([41.0, 39.0, 21.0])

    class Dent:
        def map(self, points: np.ndarray) -> np.ndarray:
            away = points - centre
            return points - 0.9 * away * np.exp(-4 * (away**2).sum(-1, keepdims=True))

    rows = jacobian(Dent(), grid, mask)
    assert rows["mask"]["min"] < 0.1
    assert rows["whole"]["min"] <= rows["mask"]["min"]
    assert rows["whole"]["max"] >= rows["mask"]["max"]


def test_hash_of_a_header_counts_its_voxels(tmp_path: Path) -> None:
    digests = set()
    for value in (1, 2):
        sitk.WriteImage(GRID.image(np.full(GRID.size[::-1], value, np.uint8)), str(tmp_path / "image.mhd"))
        digests.add(sha256(tmp_path / "image.mhd"))
    assert len(digests) == 2
    assert sha256(tmp_path / "image.raw") == hashlib.sha256((tmp_path / "image.raw").read_bytes()).hexdigest()
