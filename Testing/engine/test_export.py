"""Exported files: every reader moves points as the model does, within the error that was stated; and so does ours."""

from __future__ import annotations

import gzip
import importlib.util
import json
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from test_directions import LEFT, OBLIQUE, cli, deviation, field, grid, in_mrml, needs_mrml, network, rigid, within

from inrreg.deformation import Deformation, load_transform
from inrreg.dicom import Series
from inrreg.export import FORMATS, export
from inrreg.fields import Dual
from inrreg.geometry import Frame, Grid
from inrreg.images import write_image
from inrreg.phantom import thorax
from inrreg.protocol import Job, UserError
from inrreg.registration import register
from inrreg.transforms import Affine, Chain, SitkTransform, numerical_jacobian, read_transform
from inrreg.volume_change import volume_change
from inrreg.warping import warp

FIELDS = [ending for ending in FORMATS if ending != ".dcm"]


@pytest.fixture(scope="module")
def made() -> Deformation:
    """A deformation over an oblique, left-handed grid, after a rigid prealignment."""
    torch.set_num_threads(1)
    fixed = grid((28, 30, 26), (4.5, 4.0, 5.0), LEFT, [-300, 50, -700])
    return Deformation(*field("siren", fixed, 12.0, 1), fixed, (rigid((4, -7, 10), [12, -9, 6], fixed.centre),))


@pytest.fixture(scope="module")
def files(made: Deformation, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """One file of each format, and what was said of it."""
    folder = tmp_path_factory.mktemp("export")
    return {ending: (folder / f"t{ending}", export(made, folder / f"t{ending}")) for ending in FIELDS}


def in_itk(path: Path) -> SitkTransform:
    """A transform file as SimpleITK reads it."""
    if path.suffix in (".h5", ".tfm"):
        return SitkTransform(sitk.ReadTransform(str(path)))
    image = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
    return SitkTransform(sitk.DisplacementFieldTransform(image))


# --------------------------------------------------------------------------------------- other readers


@pytest.mark.parametrize("ending", FIELDS)
def test_itk_and_we_move_points_as_the_model_does(ending: str, made: Deformation, files: dict) -> None:
    path, figures = files[ending]
    points = within(made.grid, 100, 5)
    assert 0 < figures["interpolation_error"] <= figures["limit"] == 0.5
    assert deviation(points, made.map(points)) > 10
    for reader in (in_itk(path), load_transform(path)):
        assert deviation(reader.map(points), made.map(points)) <= figures["interpolation_error"] + 1e-4
    wide = within(made.padded_grid, 1000, 6)
    assert deviation(load_transform(path).map(wide), made.map(wide)) < 0.2


@needs_mrml
@pytest.mark.parametrize("ending", FIELDS)
def test_mrml_moves_points_as_the_model_does(ending: str, made: Deformation, files: dict, tmp_path: Path) -> None:
    path, figures = files[ending]
    points = within(made.grid, 100, 7)
    moved, _ = in_mrml(path, points, tmp_path)
    assert deviation(moved, made.map(points)) <= figures["interpolation_error"] + 1e-3


@pytest.mark.skipif(importlib.util.find_spec("ants") is None, reason="antspyx is absent")
@pytest.mark.parametrize("ending", [".h5", ".tfm", ".nii.gz"])
def test_ants_moves_points_as_the_model_does(ending: str, made: Deformation, files: dict) -> None:
    import ants
    import pandas

    path, figures = files[ending]
    points = within(made.grid, 100, 8)
    moved = ants.apply_transforms_to_points(3, pandas.DataFrame(points, columns=list("xyz")), [str(path)])
    assert deviation(moved[list("xyz")].to_numpy(), made.map(points)) <= figures["interpolation_error"] + 1e-3


def test_nifti_vectors_are_as_ants_writes_them(made: Deformation, files: dict, tmp_path: Path) -> None:
    path, figures = files[".nii.gz"]
    content = bytearray(gzip.decompress(path.read_bytes()))
    size = struct.unpack_from("<8h", content, 40)
    assert size[:6] == (5, *made.padded_grid.size, 1, 3)[:6]
    assert struct.unpack_from("<h", content, 68) == (1007,)
    start = int(struct.unpack_from("<f", content, 108)[0])
    lps = np.frombuffer(content, "<f4", offset=start).reshape(3, *size[3:0:-1])
    assert np.abs(lps.transpose(1, 2, 3, 0) - sitk.GetArrayFromImage(made.displacement_field())).max() < 1e-4
    assert np.abs(lps[:2]).max() > 5
    # what others write as displacement vectors, 1006, holds RAS
    ras = (lps * np.array([-1, -1, 1], "<f4").reshape(3, 1, 1, 1)).tobytes()
    struct.pack_into("<h", content, 68, 1006)
    (tmp_path / "other.nii").write_bytes(bytes(content[:start]) + ras)
    points = within(made.grid, 100, 5)
    moved = load_transform(tmp_path / "other.nii").map(points)
    assert deviation(moved, made.map(points)) <= figures["interpolation_error"] + 1e-4


# ------------------------------------------------------------------------- spacing, parts, the inverse


def test_spacing_is_kept_and_its_error_stated(made: Deformation, tmp_path: Path) -> None:
    errors = []
    for spacing in (4.0, 15.0):
        figures = export(made, tmp_path / "t.nrrd", spacing=spacing)
        assert (np.array(figures["spacing"]) <= spacing).all()
        points = within(made.grid, 100, 3)
        away = deviation(load_transform(tmp_path / "t.nrrd").map(points), made.map(points))
        assert away <= figures["interpolation_error"] + 1e-4
        errors.append(figures["interpolation_error"])
    assert errors[0] < 0.05 < errors[1] < 1
    with pytest.raises(UserError, match=r"million vectors"):
        export(made, tmp_path / "t.nrrd", spacing=0.05)
    with pytest.raises(UserError, match=r"not possible"):
        export(made, tmp_path / "t.nrrd", spacing=-1.0)


def test_default_spacing_becomes_finer_where_the_voxels_are_too_coarse(tmp_path: Path) -> None:
    fixed = grid((9, 9, 9), (16.0, 16.0, 16.0), OBLIQUE, [0, 0, 0])
    frame, rough = Frame.covering(fixed), network(3, omega=9.0)
    with torch.no_grad():
        rough.layers[-1].weight.mul_(0.3)
    bent = Deformation(rough.requires_grad_(False), frame, fixed)
    assert bent.interpolation_error > 0.5
    figures = export(bent, tmp_path / "t.nrrd")
    assert figures["interpolation_error"] <= 0.5
    assert max(figures["spacing"]) <= 8.0


def test_inverse_returns_points(made: Deformation, tmp_path: Path) -> None:
    figures = export(made, tmp_path / "t.h5", inverse=True, spacing=4.0)
    error = figures["return_error"]
    assert error["mean"] < error["p99"] < 0.5
    points = within(made.grid, 100, 4)
    back = in_itk(tmp_path / "t.h5").map(made.map(points))
    assert deviation(back, points) <= error["max"] + 1e-3


@pytest.mark.parametrize("sheared", [False, True])
def test_files_may_be_in_other_coordinates(made: Deformation, tmp_path: Path, sheared: bool) -> None:
    """Those of a scene that turns, scales or shears both images alike, or of images that lie apart in it."""
    scene = rigid((20, -35, 50), [100, -60, 40], made.grid.centre)
    if sheared:
        scene = scene.after(Affine(np.array([[1.2, 0.1, 0], [0, 0.9, 0.2], [0, 0, 1]])))
    apart = rigid((0, 5, -4), [30, 20, -10], made.grid.centre)
    for number, around in enumerate([(scene.inverse(), scene), (scene.inverse(), apart)]):
        points = scene.map(within(made.grid, 200, 3))
        there = around[1].map(made.map(around[0].map(points)))
        figures = export(made, tmp_path / f"{number}.h5", around=around)
        assert figures["interpolation_error"] <= figures["limit"] <= 0.5
        assert deviation(in_itk(tmp_path / f"{number}.h5").map(points), there) <= figures["interpolation_error"] + 1e-3
        figures = export(made, tmp_path / f"back{number}.nrrd", around=around, inverse=True)
        assert figures["return_error"]["p99"] < 0.5
        assert (
            deviation(in_itk(tmp_path / f"back{number}.nrrd").map(there), points) < figures["return_error"]["max"] + 0.1
        )
    export(made, tmp_path / "part.tfm", around=(scene.inverse(), scene), part="initial")
    expected = scene.map(made.before[0].map(scene.inverse().map(points)))
    assert deviation(in_itk(tmp_path / "part.tfm").map(points), expected) < 1e-6


def test_parts_compose_to_the_whole(made: Deformation, tmp_path: Path) -> None:
    initial = Affine(np.diag([1.1, 1.0, 0.95]), np.array([20.0, -10, 5]))
    both = Deformation(made.field, made.frame, made.grid, (*made.before, initial))
    points = within(made.grid, 200, 2)
    for ending in (".tfm", ".nrrd"):
        read = []
        for part in ("deformable", "prealignment", "initial"):
            export(both, tmp_path / f"{part}{ending}", part=part, prealigned=True)
            read.append(in_itk(tmp_path / f"{part}{ending}"))
        assert deviation(Chain(tuple(read)).map(points), both.map(points)) < 0.15
    export(both, tmp_path / "back.tfm", part="prealignment", prealigned=True, inverse=True)
    assert deviation(in_itk(tmp_path / "back.tfm").map(made.before[0].map(points)), points) < 1e-6
    figures = export(both, tmp_path / "back.nrrd", part="initial", prealigned=True, inverse=True)
    assert figures["return_error"]["max"] < 1e-3
    for part, text in (("prealignment", "without prealignment"), ("fine", "no fine"), ("half", "no part")):
        with pytest.raises(UserError, match=text):
            export(made, tmp_path / "t.nrrd", part=part)
    assert export(made, tmp_path / "t.tfm", part="initial")["interpolation_error"] == 0


def test_coarse_and_fine_fields_add_to_the_deformable_one(made: Deformation, tmp_path: Path) -> None:
    dual = Dual(24, 2, 4.0, 8.0, 0.1, generator=torch.Generator().manual_seed(0))
    dual.activate_fine(0.5)
    whole = Deformation(dual.freeze(), made.frame, made.grid, made.before)
    points, moved = within(made.grid, 200, 2), []
    for part in ("coarse", "fine", "deformable"):
        export(whole, tmp_path / "t.nrrd", part=part)
        moved.append(in_itk(tmp_path / "t.nrrd").map(points) - points)
    assert min(np.abs(part).max() for part in moved) > 0.5
    assert deviation(moved[0] + moved[1], moved[2]) < 0.3
    assert dual.c_fine.item() != 0  # the result itself is untouched


# -------------------------------------------------------------------------------------------- DICOM


def write_series(folder: Path, over: Grid, **changes: str) -> Path:
    """The headers of a CT series over a grid, one file a slice."""
    import pydicom

    folder.mkdir()
    common = {
        "PatientName": "Doe^Jane",
        "PatientID": "17",
        "PatientBirthDate": "19700101",
        "PatientSex": "F",
        "StudyInstanceUID": pydicom.uid.generate_uid(),
        "StudyDate": "20240101",
        "StudyTime": "120000",
        "StudyID": "1",
        "ReferringPhysicianName": "",
        "AccessionNumber": "",
        "SeriesInstanceUID": pydicom.uid.generate_uid(),
        "FrameOfReferenceUID": pydicom.uid.generate_uid(),
        **changes,
    }
    for k in range(over.size[2]):
        data = pydicom.Dataset()
        for tag, value in common.items():
            setattr(data, tag, value)
        data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", pydicom.uid.generate_uid()
        data.Columns, data.Rows = over.size[:2]
        data.PixelSpacing = [over.spacing[1], over.spacing[0]]
        data.ImageOrientationPatient = [round(float(value), 8) for value in over.direction.T[:2].ravel()]
        data.ImagePositionPatient = [round(float(value), 6) for value in over.to_world(np.array([0, 0, k]))]
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return folder


def by_the_standard(path: Path, points: np.ndarray) -> np.ndarray:
    """PS3.3 C.20.3.1.1, written down point by point: from the Registered RCS to the Source RCS, LPS mm."""
    import pydicom

    data = pydicom.dcmread(path)
    (item,) = [item for item in data.DeformableRegistrationSequence if "DeformableRegistrationGridSequence" in item]
    box = item.DeformableRegistrationGridSequence[0]
    before, after = (
        np.array(sequence[0].FrameOfReferenceTransformationMatrix, float).reshape(4, 4)
        for sequence in (item.PreDeformationMatrixRegistrationSequence, item.PostDeformationMatrixRegistrationSequence)
    )
    columns, rows, planes = box.GridDimensions
    vectors = struct.unpack(f"<{3 * columns * rows * planes}f", box.VectorGridData)
    row, column = np.array(box.ImageOrientationPatient[:3], float), np.array(box.ImageOrientationPatient[3:], float)
    axes = np.stack([row, column, np.cross(row, column)])
    moved = []
    for point in points:
        index = axes @ (point - np.array(box.ImagePositionPatient, float)) / np.array(box.GridResolution, float)
        low, offset = np.floor(index).astype(int), np.zeros(3)
        for corner in np.ndindex(2, 2, 2):
            i, j, k = low + corner
            at = 3 * (i + columns * (j + rows * k))
            offset += np.prod(np.where(corner, index - low, 1 - index + low)) * np.array(vectors[at : at + 3])
        moved.append((after @ [*((before @ [*point, 1])[:3] + offset), 1])[:3])
    return np.array(moved)


@pytest.fixture(scope="module")
def registered(made: Deformation, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A result folder and two series, exported both ways by the command."""
    pytest.importorskip("pydicom")
    folder = tmp_path_factory.mktemp("dicom")
    (folder / "result").mkdir()
    made.save(folder / "result")
    write_series(folder / "fixed", made.grid)
    write_series(folder / "moving", grid((20, 22, 18), (5, 5, 6), OBLIQUE, made.grid.centre.tolist()))
    call = ["--transform", folder / "result", "--fixed-dicom", folder / "fixed", "--moving-dicom", folder / "moving"]
    cli("export", *call, "--output", folder / "forward.dcm")
    cli("export", *call, "--output", folder / "back.dcm", "--inverse", "--spacing", 4)
    return folder, folder / "forward.dcm", folder / "back.dcm"


def test_registration_object_reproduces_the_points(registered: tuple, made: Deformation, tmp_path: Path) -> None:
    _, forward, back = registered
    points = within(made.grid, 100, 11)
    assert deviation(by_the_standard(forward, points), made.map(points)) < 0.2
    assert deviation(by_the_standard(back, made.map(points)), points) < 0.5
    assert deviation(load_transform(forward).map(points), by_the_standard(forward, points)) < 1e-4
    np.savetxt(tmp_path / "in.csv", points, delimiter=",", header="x,y,z", comments="")
    cli("points", "--transform", forward, "--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv")
    moved = np.loadtxt(tmp_path / "out.csv", delimiter=",", skiprows=1)
    assert deviation(moved, made.map(points)) < 0.2


def test_registration_object_refers_to_both_series(registered: tuple) -> None:
    import pydicom

    folder, forward, back = registered
    first, second = (pydicom.dcmread(folder / name / "0.dcm") for name in ("fixed", "moving"))
    for path, to, source in ((forward, first, second), (back, second, first)):
        data = pydicom.dcmread(path)
        assert data.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.66.3"
        assert data.FrameOfReferenceUID == to.FrameOfReferenceUID
        assert (data.PatientID, data.StudyInstanceUID) == (to.PatientID, to.StudyInstanceUID)
        items = data.DeformableRegistrationSequence
        assert [item.SourceFrameOfReferenceUID for item in items] == [
            to.FrameOfReferenceUID,
            source.FrameOfReferenceUID,
        ]
        assert ["DeformableRegistrationGridSequence" in item for item in items] == [False, True]
        assert source.SOPInstanceUID in [each.ReferencedSOPInstanceUID for each in items[1].ReferencedImageSequence]
        assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == to.SeriesInstanceUID
        other = data.StudiesContainingOtherReferencedInstancesSequence[0]
        assert other.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is absent")
def test_dciodvfy_finds_no_error(registered: tuple) -> None:
    for path in registered[1:]:
        answer = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        assert "DeformableSpatialRegistration" in answer.stderr + answer.stdout
        assert "Error" not in answer.stderr + answer.stdout
        assert answer.returncode == 0


def test_two_phases_of_one_study_are_told_apart(registered: tuple, made: Deformation, tmp_path: Path) -> None:
    import pydicom

    first = pydicom.dcmread(registered[0] / "fixed" / "0.dcm")
    shared = {tag: first[tag].value for tag in ("StudyInstanceUID", "FrameOfReferenceUID")}
    phase = write_series(tmp_path / "phase", made.grid, **shared)
    pair = Series.read(registered[0] / "fixed", "fixed"), Series.read(phase, "moving")
    export(made, tmp_path / "t.dcm", series=pair)
    data = pydicom.dcmread(tmp_path / "t.dcm")
    named = [
        {each.ReferencedSOPInstanceUID for each in item.ReferencedImageSequence}
        for item in data.DeformableRegistrationSequence
    ]
    assert [len(each) for each in named] == [made.grid.size[2]] * 2
    assert not named[0] & named[1]
    assert len(data.ReferencedSeriesSequence) == 2
    assert "StudiesContainingOtherReferencedInstancesSequence" not in data
    if shutil.which("dciodvfy"):
        answer = subprocess.run(["dciodvfy", str(tmp_path / "t.dcm")], capture_output=True, text=True, check=False)
        assert "Error" not in answer.stderr + answer.stdout


def test_matrices_of_other_writers_are_read(registered: tuple, made: Deformation, tmp_path: Path) -> None:
    import pydicom

    data = pydicom.dcmread(registered[1])
    item = data.DeformableRegistrationSequence[1]
    for name, part in (("Pre", rigid((0, 0, 9), [3, 1, 0], made.grid.centre)), ("Post", Affine(2 * np.eye(3)))):
        sequence = getattr(item, f"{name}DeformationMatrixRegistrationSequence")
        matrix = np.vstack([np.column_stack([part.matrix, part.offset]), [0, 0, 0, 1]])
        sequence[0].FrameOfReferenceTransformationMatrix = [round(float(value), 9) for value in matrix.ravel()]
    data.save_as(tmp_path / "other.dcm")
    points = within(made.grid, 100, 12)
    expected = by_the_standard(tmp_path / "other.dcm", points)
    assert deviation(expected, by_the_standard(registered[1], points)) > 10
    assert deviation(read_transform(tmp_path / "other.dcm").map(points), expected) < 1e-3
    del item.DeformableRegistrationGridSequence
    data.save_as(tmp_path / "none.dcm")
    with pytest.raises(UserError, match="holds 0 deformations"):
        read_transform(tmp_path / "none.dcm")
    with pytest.raises(UserError, match="is no Deformable"):
        read_transform(registered[0] / "fixed" / "0.dcm")


def test_wrong_series_are_refused(registered: tuple, made: Deformation, tmp_path: Path) -> None:
    folder = registered[0]
    away = grid((8, 8, 8), (5, 5, 5), OBLIQUE, [5000, 0, 0])
    bad = {
        "different patients": write_series(tmp_path / "patient", made.grid, PatientID="18"),
        "no single frame": write_series(tmp_path / "frame", made.grid, FrameOfReferenceUID=""),
        "are the same": folder / "fixed",
        "no DICOM image": tmp_path,
    }
    shutil.copytree(folder / "moving", tmp_path / "two")
    shutil.copy(folder / "fixed" / "0.dcm", tmp_path / "two" / "other.dcm")
    bad["2 DICOM series"] = tmp_path / "two"
    call = ["export", "--transform", folder / "result", "--output", tmp_path / "t.dcm"]
    for text, moving in bad.items():
        with pytest.raises(UserError, match=text):
            cli(*call, "--fixed-dicom", folder / "fixed", "--moving-dicom", moving)
    with pytest.raises(UserError, match="lies elsewhere"):
        cli(*call, "--fixed-dicom", write_series(tmp_path / "away", away), "--moving-dicom", folder / "moving")
    with pytest.raises(UserError, match="refers to the DICOM series"):
        cli(*call)
    assert not (tmp_path / "t.dcm").exists()


# ------------------------------------------------------------------------------------ a registration


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a short registration of a phantom, with a mask."""
    folder, body = tmp_path_factory.mktemp("phantom"), thorax((44, 36, 44), (6.5, 6.5, 6.5), seed=2, amplitude=15.0)
    names = ("fixed", "moving", "fixed_mask")
    for name in names:
        sitk.WriteImage(getattr(body, name), str(folder / f"{name}.nrrd"))
    quick = {"steps": (12, 6), "image_spacing": (16, 12), "node_spacing": (40, 30), "width": 32}
    files = {name: str(folder / f"{name}.nrrd") for name in names}
    register(Job(**files, overrides={**quick, "rate": 3e-3}, threads=1), folder / "result")
    return folder / "result"


def test_inverse_of_a_registration_is_exact(result: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cli("export", "--transform", result, "--output", tmp_path / "back.nrrd", "--inverse", "--json")
    figures = json.loads(capsys.readouterr().out)
    for where in ("return_error", "in_mask"):
        assert figures[where]["mean"] < 0.2
        assert figures[where]["p99"] < 6.5 / 2
        assert figures[where]["p99"] < 0.5
    made = Deformation.load(result)
    points = within(made.grid, 500)
    assert deviation(points, made.map(points)) > 3
    away = np.linalg.norm(load_transform(tmp_path / "back.nrrd").map(made.map(points)) - points, axis=1)
    assert np.percentile(away, 99) < 0.5


def test_model_is_exported_alone(result: Path, tmp_path: Path) -> None:
    cli("export", "--transform", result, "--output", tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"model.json", "model.safetensors"}
    points = within(Deformation.load(result).grid, 50)
    assert deviation(load_transform(tmp_path / "model").map(points), load_transform(result).map(points)) == 0
    for more, text in (((), "exists"), (("--inverse",), "as it is")):
        with pytest.raises(UserError, match=text):
            cli("export", "--transform", result, "--output", tmp_path / "model", *more)
    with pytest.raises(UserError, match="ending of a transform"):
        cli("export", "--transform", result, "--output", tmp_path / "t.png")


# ------------------------------------------------------------------------------------------ applying


def test_volume_change_is_that_of_the_whole_map(made: Deformation, tmp_path: Path) -> None:
    scaled = Deformation(made.field, made.frame, made.grid, (Affine(np.diag([1.2, 1.1, 0.9])),))
    over = grid((7, 6, 5), (22, 24, 30), OBLIQUE, made.grid.centre.tolist())
    points = over.points().reshape(-1, 3)
    values = sitk.GetArrayFromImage(volume_change(scaled, over)).ravel()
    expected = np.linalg.det(numerical_jacobian(scaled, points, step=0.5))
    inside = scaled.contains(points, tolerance=-2)
    assert 20 < inside.sum() < len(points)
    assert np.abs(values - expected)[inside].max() < 0.02
    assert abs(np.median(values[inside]) - 1.2 * 1.1 * 0.9) < 0.2
    stretch = volume_change(Affine(np.diag([2.0, 1.0, 1.0])), over)  # twice the volume in the moving image
    assert np.allclose(sitk.GetArrayFromImage(stretch), 2.0, atol=1e-6)


def test_dose_is_interpolated_and_zero_outside() -> None:
    over = grid((10, 10, 10), (4, 4, 4), np.eye(3), [0, 0, 0])
    dose = over.image(np.full(over.size[::-1], 2.0, np.float32) + over.points()[..., 0].astype(np.float32) / 100)
    wide = grid((20, 4, 4), (4, 4, 4), np.eye(3), [0, 0, 0])
    moved = sitk.GetArrayFromImage(warp(dose, Affine(offset=np.array([1.0, 0, 0])), wide))
    x = wide.points()[..., 0]
    inside = np.abs(x + 1) < 18
    assert np.allclose(moved[inside], 2 + (x[inside] + 1) / 100, atol=1e-5)
    assert not moved[np.abs(x + 1) > 21].any()


def test_files_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = sitk.GetImageFromArray(np.arange(64, dtype=np.float32).reshape(4, 4, 4))
    write_image(image, tmp_path / "new" / "two.mhd")  # a header that names its data
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "new" / "two.mhd"))).sum() == 2016
    write_image(image, tmp_path / "one.nrrd")
    before = (tmp_path / "one.nrrd").read_bytes()

    def stop(image: sitk.Image, path: str, **options: Any) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(sitk, "WriteImage", stop)
    with pytest.raises(UserError, match="cannot be written"):
        write_image(image, tmp_path / "one.nrrd")
    assert (tmp_path / "one.nrrd").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "one.nrrd"]
