"""DIR-Lab's and Learn2Reg's files, generated in exactly their formats with a known truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from inrreg import landmarks as files_of_landmarks
from inrreg.cli import app
from inrreg.datasets import dirlab, learn2reg
from inrreg.evaluation import landmarks
from inrreg.protocol import UserError, read_json, write_json
from inrreg.transforms import Affine

SLICES = 12
NAMES = {
    1: ("Case1Pack/Images/case1_T{}_s.img", "Case1Pack/ExtremePhases/Case1_300_T{}_xyz.txt"),
    6: ("Case6Pack/Images/case6_T{}.img", "Case6Pack/ExtremePhases/case6_dirLab300_T{}_xyz.txt"),
    8: ("Case8Deploy/Images/case8_T{}.img", "Case8Deploy/ExtremePhases/case8_dirLab300_T{}_xyz.txt"),
}


def voxels(size: int) -> np.ndarray:
    """A smooth image as distributed: int16, air is 0."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (SLICES, size, size)), indexing="ij")
    return (1000 * np.exp(-3 * (x**2 + y**2 + z**2)) + 100 * np.sin(9 * x) + 120).astype("<i2")


def write_case(root: Path, image: str, points: str, size: int, phases=("00", "50")) -> np.ndarray:
    """A case whose moving index is 2 i - 60 in x at fixed index i; the fixed indices, zero-based."""
    indices = np.random.default_rng(0).integers([40, 20, 2], [100, size - 20, SLICES - 2], (30, 3))
    for phase, at in zip(phases, (indices, indices * [2, 1, 1] - [60, 0, 0]), strict=True):
        for name in (image, points):
            (root / name.format(phase)).parent.mkdir(parents=True, exist_ok=True)
        voxels(size).tofile(root / image.format(phase))
        # One-based, as distributed.
        (root / points.format(phase)).write_text("\n".join("\t".join(map(str, row)) for row in at + 1) + "\n")
    return indices


@pytest.mark.parametrize("case", NAMES)
def test_names_sizes_and_one_based_landmarks(tmp_path: Path, case: int, monkeypatch: pytest.MonkeyPatch):
    collection = dirlab.COLLECTIONS["4dct"]
    size, spacing = collection.size[case - 1], collection.spacing[case - 1]
    indices = write_case(tmp_path / "root", *NAMES[case], size)
    found = dirlab.cases(tmp_path / "root", "4dct", tmp_path / "images")
    assert list(found) == [case]
    image = sitk.ReadImage(found[case]["fixed"])
    assert image.GetSize() == (size, size, SLICES)
    assert image.GetSpacing() == pytest.approx((spacing, spacing, 2.5))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), voxels(size) - 1024)
    points = files_of_landmarks.read_points(found[case]["fixed_landmarks"], image)
    np.testing.assert_allclose(points.positions, indices * [spacing, spacing, 2.5])
    truth = Affine(np.diag([2.0, 1, 1]), np.array([-60 * spacing, 0, 0]))
    marks = [found[case][f"{side}_landmarks"] for side in ("fixed", "moving")]
    right = landmarks(truth, *marks, image, image)
    assert right["after"]["max"] < 1e-6
    assert right["after_snapped"]["max"] < 1e-6
    # Counted from zero, the truth is wrong by a voxel.
    known = sitk.Image.TransformContinuousIndexToPhysicalPoint
    monkeypatch.setattr(
        sitk.Image,
        "TransformContinuousIndexToPhysicalPoint",
        lambda image, index: known(image, np.add(index, 1).tolist()),
    )
    assert landmarks(truth, *marks, image, image)["after"]["mean"] == pytest.approx(spacing)


def test_copd_is_found_by_its_breath_holds(tmp_path: Path):
    write_case(tmp_path / "root", "copd2/copd2_{}BHCT.img", "copd2/copd2_300_{}BH_xyz_r1.txt", 512, ("i", "e"))
    (found,) = dirlab.cases(tmp_path / "root", "copd", tmp_path / "images").values()
    assert sitk.ReadImage(found["fixed"]).GetSpacing() == pytest.approx((0.645, 0.645, 2.5))
    assert found["fixed_landmarks"].endswith("iBH_xyz_r1.txt")


def test_damaged_and_incomplete_data_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="No complete case"):
        dirlab.cases(tmp_path, "4dct", tmp_path / "images")
    write_case(tmp_path, *NAMES[1], 256)
    with open(tmp_path / NAMES[1][0].format("50"), "ab") as file:
        file.write(b"ab")
    with pytest.raises(UserError, match="does not hold slices of 256 x 256"):
        dirlab.cases(tmp_path, "4dct", tmp_path / "images")


def test_the_table_has_published_and_own_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("distributed")
    monkeypatch.setenv("COLUMNS", "200")
    write_case(tmp_path / "root", *NAMES[1], 256)
    quick = ["steps=1,1", "image_spacing=30,30", "node_spacing=60,60", "width=8", "rank=8"]
    call = ["benchmark", "dirlab", str(tmp_path / "root"), "--output", str(tmp_path / "out"), "--cases", "4dct"]
    call += ["--masks", "none", "--threads", "1", "--no-reports", *(part for text in quick for part in ("--set", text))]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    (row,) = read_json(tmp_path / "out" / "benchmark.json")
    lines = {line.split(",")[0].strip(): line.split()[-2:] for line in done.stdout.splitlines() if line.strip()}
    assert lines["IDIR (2022)"] == ["0.76", "0.76"]
    ours = {line.rsplit("  ", 2)[0].strip(): line.split()[-1] for line in done.stdout.splitlines() if "fast" in line}
    assert ours["fast, continuous"] == f"{row['tre']:.2f}"
    assert ours["fast, snapped"] == f"{row['tre_snapped']:.2f}"
    wrong = CliRunner().invoke(app, [*call[:6], "5dct"])
    assert isinstance(wrong.exception, UserError)


def test_learn2reg_pairs_with_masks_and_landmarks(tmp_path: Path):
    image = sitk.Image(8, 9, 10, sitk.sitkInt16)
    image.SetSpacing((1.5, 1.5, 2))
    image.SetOrigin((3, 4, 5))
    for side in ("0000", "0001"):
        for folder in ("imagesTr", "masksTr"):
            (tmp_path / folder).mkdir(exist_ok=True)
            sitk.WriteImage(image, str(tmp_path / folder / f"Lung_0001_{side}.nii.gz"))
        for folder, point in (("keypointsTr", "0,0,0\n"), ("landmarksTr", "1,2,3\n4,5,6.5\n")):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"Lung_0001_{side}.csv").write_text(point)
    names = {side: f"./imagesTr/Lung_0001_000{n}.nii.gz" for n, side in enumerate(("fixed", "moving"))}
    write_json(tmp_path / "Lung_dataset.json", {"registration_val": [names]})
    (entries,) = learn2reg.cases(tmp_path, tmp_path / "out").values()
    assert set(entries) == {f"{side}{kind}" for side in names for kind in ("", "_mask", "_landmarks")}
    points = files_of_landmarks.read_points(entries["moving_landmarks"])
    np.testing.assert_allclose(points.positions, [[4.5, 7, 11], [9, 11.5, 18]])
    with pytest.raises(UserError, match="no JSON file"):
        learn2reg.cases(tmp_path / "out", tmp_path / "out")
