"""Directions and frames: a point goes where the saved field says, in this engine, in ITK and in Slicer's MRML.

A deformation of known weights is saved; what is measured is that every reader moves points and images the same way,
on oblique, left-handed and anisotropic grids, inside the fixed image, where the field fades, and beyond.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from inrreg.cli import app
from inrreg.deformation import Deformation, load_transform
from inrreg.evaluation import jacobian
from inrreg.fields import Field, Lattice, LatticeGeometry, Siren
from inrreg.geometry import Frame, Grid
from inrreg.images import read_labels, read_mask
from inrreg.landmarks import Points, read_points, write_points
from inrreg.optimization import Run
from inrreg.phantom import thorax
from inrreg.prealignment import prealign
from inrreg.protocol import Job, read_json
from inrreg.registration import register, storable
from inrreg.transforms import (
    Affine,
    Chain,
    DisplacementGrid,
    PointMap,
    SitkTransform,
    invert,
    numerical_jacobian,
    read_transform,
)
from inrreg.warping import warp

SLACK = 2.0
"""The stated interpolation error is the largest of 2000 random points; no other may exceed this multiple of it."""


# -------------------------------------------------------------------------------------------- the cases


def rotation(*degrees: float) -> np.ndarray:
    """A rotation (3, 3) about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        part = np.eye(3)
        part[i, i] = part[j, j] = np.cos(angle)
        part[j, i], part[i, j] = np.sin(angle), -np.sin(angle)
        matrix = part @ matrix
    return matrix


def grid(size: tuple[int, int, int], spacing: tuple[float, ...], direction: np.ndarray, centre: list[float]) -> Grid:
    """A grid around a centre in LPS mm."""
    matrix = direction * np.array(spacing)
    return Grid(size, np.array(centre) - matrix @ ((np.array(size) - 1) / 2), matrix)


def rigid(degrees: tuple[float, float, float], shift: list[float], centre: np.ndarray) -> Affine:
    """A rotation about a centre, then a shift."""
    matrix = rotation(*degrees)
    return Affine(matrix, centre - matrix @ centre + np.array(shift))


def network(seed: int, width: int = 32, omega: float = 4.0) -> Siren:
    return Siren(width, 2, omega, generator=torch.Generator().manual_seed(seed))


def field(kind: str, over: Grid, largest: float, seed: int = 0) -> tuple[Field, Frame]:
    """A smooth random field whose largest displacement over the grid is that many mm."""
    frame, siren = Frame.covering(over), network(seed)
    made = Lattice([siren], LatticeGeometry.covering(over, frame, 24.0)) if kind == "lattice" else siren
    points = over.resampled(10.0).points().reshape(-1, 3)
    u = made.dense(torch.as_tensor(frame.normalize(points), dtype=torch.float32)) * frame.scale
    with torch.no_grad():
        for part in (siren.layers[-1].weight, siren.layers[-1].bias):
            part.mul_(largest / u.norm(dim=1).max())
    return made.requires_grad_(False), frame


def smooth_grid(over: Grid, largest: float, seed: int) -> DisplacementGrid:
    """A smooth displacement field with its own spacing, over a wider box."""
    rng = np.random.default_rng(seed)
    wide = grid((14, 15, 13), tuple(over.extent * 1.6 / 12), over.direction, over.centre.tolist())
    waves, phases = rng.normal(size=(3, 3)) * 0.02, rng.uniform(0, 6, 3)
    return DisplacementGrid(largest / 2 * np.sin(wide.points() @ waves + phases), wide)


def nonlinear(over: Grid) -> SitkTransform:
    """A composite that only SimpleITK knows: a rotation and then a displacement field."""
    part = smooth_grid(over, 8.0, 5)
    turn = rigid((0, 0, 6), [4, -3, 5], over.centre).to_sitk()
    bend = sitk.DisplacementFieldTransform(part.grid.image(part.vectors))
    return SitkTransform(sitk.CompositeTransform([bend, turn]))  # the last one added is applied first


OBLIQUE, LEFT = rotation(20, -15, 35), rotation(10, 25, -40) @ np.diag([1.0, 1.0, -1.0])
SAGITTAL = np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]])
assert np.linalg.det(LEFT) < 0

CASES = ("oblique", "left-handed", "anisotropic", "composite")


@dataclass(frozen=True)
class Case:
    deformation: Deformation
    folder: Path
    moving: sitk.Image
    steepest: float
    """Largest slope of the moving image's values, a mm."""


def deformation(name: str) -> tuple[Deformation, Grid]:
    """The deformation of a case and the moving image's grid."""
    if name == "oblique":
        fixed = grid((30, 34, 22), (4.0, 4.0, 6.0), OBLIQUE, [120, -80, 400])
        return Deformation(*field("lattice", fixed, 20.0), fixed), grid(
            (40, 30, 28), (3, 5, 4), LEFT, fixed.centre.tolist()
        )
    if name == "left-handed":
        fixed = grid((28, 30, 26), (4.5, 4.0, 5.0), LEFT, [-300, 50, -700])
        stretched = Affine(np.diag([1.05, 0.96, 1.0]), fixed.centre * [-0.05, 0.04, 0])
        before = rigid((4, -7, 10), [25, -18, 12], fixed.centre).after(stretched)
        moving = grid((36, 32, 30), (4, 4, 4), OBLIQUE, before.map(fixed.centre[None])[0].tolist())
        return Deformation(*field("siren", fixed, 12.0, 1), fixed, (before,)), moving
    if name == "anisotropic":
        fixed = grid((60, 58, 12), (2.0, 2.0, 9.0), SAGITTAL, [10, 20, 30])
        before = smooth_grid(fixed, 14.0, 2)
        return Deformation(*field("lattice", fixed, 10.0, 2), fixed, (before,)), grid(
            (70, 14, 66), (1.8, 8, 2), np.diag([-1.0, -1, 1]), [12, 15, 30]
        )
    fixed = grid((26, 30, 24), (5.0, 4.0, 5.0), LEFT @ OBLIQUE, [60, 500, -20])
    aligned = rigid((-5, 3, 8), [-10, 15, 6], fixed.centre)
    before = aligned, storable(nonlinear(fixed), fixed, aligned)
    centre = Chain(before).map(fixed.centre[None])[0]
    return Deformation(*field("siren", fixed, 10.0, 3), fixed, before), grid(
        (34, 33, 29), (4, 4.2, 4.4), np.eye(3), centre.tolist()
    )


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A deformation, saved and loaded again, and a moving image of smooth values."""
    torch.set_num_threads(1)
    made, over = deformation(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    made.save(folder)
    loaded = Deformation.load(folder)
    points = anywhere(made, 500)
    assert np.abs(loaded.map(points) - made.map(points)).max() < 1e-3
    waves = np.random.default_rng(4).normal(size=(3, 4)) * 0.04
    values = 100 * np.sin(over.points() @ waves).sum(-1) + 500
    return Case(loaded, folder, over.image(values), 100 * np.linalg.norm(waves, axis=0).sum())


def within(over: Grid, count: int, seed: int = 0) -> np.ndarray:
    """Random points of a grid's box."""
    return over.to_world(np.random.default_rng(seed).random((count, 3)) * (np.array(over.size) - 1))


def anywhere(of: Deformation, count: int) -> np.ndarray:
    """Random points: a third in the fixed image, a third in the padded grid, a third reaching beyond."""
    padded = of.padded_grid
    beyond = grid((2, 2, 2), tuple(padded.extent * 1.5), padded.direction, padded.centre.tolist())
    return np.concatenate([within(part, count // 3, n) for n, part in enumerate((of.grid, padded, beyond))])


def deviation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.linalg.norm(first - second, axis=1).max())


def in_itk(folder: Path) -> sitk.Transform:
    return sitk.DisplacementFieldTransform(
        sitk.Cast(sitk.ReadImage(str(folder / "displacement.nrrd")), sitk.sitkVectorFloat64)
    )


def cli(*arguments: object) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


# ------------------------------------------------------------------------------------ ITK's resampling


def test_points_go_where_itk_takes_them(case: Case) -> None:
    points, made = anywhere(case.deformation, 3000), case.deformation
    itk = SitkTransform(in_itk(case.folder))
    assert made.interpolation_error <= 0.15  # where the fixed image is coarse, more than the 0.1 aimed at
    assert deviation(made.map(points), itk.map(points)) <= SLACK * made.interpolation_error + 1e-3
    assert deviation(load_transform(case.folder / "displacement.nrrd").map(points), itk.map(points)) < 1e-9
    moved = np.linalg.norm(made.map(within(made.grid, 1000)) - within(made.grid, 1000), axis=1)
    assert moved.max() > 9  # or all of this would say nothing


@pytest.mark.parametrize("onto", ["fixed", "beyond", "other"])
def test_warp_equals_itk(case: Case, onto: str) -> None:
    made = case.deformation
    padded = made.padded_grid
    reference = {
        "fixed": made.grid,
        "beyond": grid((37, 35, 33), tuple(padded.extent * 1.4 / 33), padded.direction, padded.centre.tolist()),
        "other": grid((32, 30, 34), (4.3, 5.1, 3.7), rotation(-30, 12, 50), (made.grid.centre + 15).tolist()),
    }[onto]
    ours = sitk.GetArrayFromImage(warp(case.moving, made, reference)).ravel()
    blank = reference.image(np.zeros(reference.size[::-1]))
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(case.moving, blank, in_itk(case.folder), sitk.sitkLinear, 0.0)
    ).ravel()
    points = reference.points().reshape(-1, 3)
    over = Grid.of(case.moving)
    index = over.to_index(made.map(points))
    # A point that an error of interpolation could carry over the moving image's border is left out.
    rim = SLACK * made.interpolation_error / over.spacing.min() + 1e-3
    end = np.array(over.size) - 0.5
    clear = ((index > -0.5 + rim) & (index < end - rim)).all(1) | ((index < -0.5 - rim) | (index > end + rim)).any(1)
    assert clear.mean() > 0.9
    assert (ours[clear] != 0).sum() > 500
    bound = case.steepest * (SLACK * made.interpolation_error + 1e-3)
    assert np.abs(ours - theirs)[clear].max() <= bound
    if onto == "beyond":
        outside = clear & (
            np.abs((points - padded.centre) @ padded.direction) > padded.extent / 2 + padded.spacing
        ).any(1)
        still = sitk.GetArrayFromImage(sitk.Resample(case.moving, blank, sitk.Transform(), sitk.sitkLinear, 0.0))
        assert outside.sum() > 1000
        assert np.abs(ours - still.ravel())[outside].max() < 1e-6


def test_command_warps_as_itk_does(case: Case, tmp_path: Path) -> None:
    made = case.deformation
    sitk.WriteImage(case.moving, str(tmp_path / "moving.nrrd"))
    sitk.WriteImage(made.grid.image(np.zeros(made.grid.size[::-1], np.uint8)), str(tmp_path / "fixed.nrrd"))
    files = ["--moving", tmp_path / "moving.nrrd", "--reference", tmp_path / "fixed.nrrd"]
    cli("warp", "--transform", case.folder, *files, "--output", tmp_path / "model.nrrd")
    cli("warp", "--transform", case.folder / "displacement.nrrd", *files, "--output", tmp_path / "field.nrrd")
    model, sampled = (sitk.ReadImage(str(tmp_path / f"{name}.nrrd")) for name in ("model", "field"))
    fixed = sitk.ReadImage(str(tmp_path / "fixed.nrrd"))
    itk = sitk.GetArrayFromImage(sitk.Resample(case.moving, fixed, in_itk(case.folder), sitk.sitkLinear, 0.0))
    assert Grid.of(model).size == made.grid.size
    assert np.allclose(Grid.of(model).matrix, made.grid.matrix)
    assert np.allclose(sitk.GetArrayFromImage(sampled), itk, atol=1e-6)
    both = (sitk.GetArrayFromImage(model) != 0) & (itk != 0)
    assert both.mean() > 0.3
    bound = case.steepest * (SLACK * made.interpolation_error + 1e-3)
    assert np.abs(sitk.GetArrayFromImage(model) - itk)[both].max() <= bound


# ------------------------------------------------------------------------------------- Slicer's MRML

MRML = """
import sys, numpy as np, slicer
field, points, linear = sys.argv[1:4]
scene = slicer.vtkMRMLScene()
node, storage = slicer.vtkMRMLGridTransformNode(), slicer.vtkMRMLTransformStorageNode()
scene.AddNode(node)
scene.AddNode(storage)
storage.SetFileName(field)
assert storage.ReadData(node) == 1
read = [node.GetTransformFromParentAs("vtkOrientedGridTransform", False, False),
        node.GetTransformToParentAs("vtkOrientedGridTransform", False, False)]
print(*(bool(part and part.GetDisplacementGrid()) for part in read))
for part in read:
    if part and part.GetDisplacementGrid() and linear == "linear":
        part.SetInterpolationModeToLinear()
flip = np.array([-1.0, -1.0, 1.0])  # LPS and RAS
there = node.GetTransformFromParent()
moved = [flip * there.TransformPoint(point) for point in flip * np.load(points)]
np.save(points, moved)
"""

needs_mrml = pytest.mark.skipif(importlib.util.find_spec("slicer") is None, reason="the slicer-core wheel is absent")


def in_mrml(path: Path, points: np.ndarray, folder: Path, interpolation: str = "linear") -> tuple[np.ndarray, str]:
    """Where MRML's *from parent* takes LPS points, and which of from and to parent it read the file as."""
    np.save(folder / "points.npy", points)
    command = [sys.executable, "-c", MRML, str(path), str(folder / "points.npy"), interpolation]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return np.load(folder / "points.npy"), answer.stdout.strip().splitlines()[-1]


@needs_mrml
def test_mrml_moves_points_as_we_do(case: Case, tmp_path: Path) -> None:
    made, points = case.deformation, anywhere(case.deformation, 900)
    moved, read_as = in_mrml(case.folder / "displacement.nrrd", points, tmp_path)
    assert read_as == "True False"  # from parent, as `resampling` asks
    assert deviation(moved, made.map(points)) <= SLACK * made.interpolation_error + 1e-3
    # Slicer interpolates what it reads from a file with cubics: that must not overshoot into the fixed image.
    inside = within(made.grid, 900)
    cubic, _ = in_mrml(case.folder / "displacement.nrrd", inside, tmp_path, "cubic")
    assert deviation(cubic, made.map(inside)) <= 0.3


@needs_mrml
@pytest.mark.parametrize("kind", ["resampling", "modeling"])
def test_mrml_and_we_read_the_type_of_a_field_alike(kind: str, tmp_path: Path) -> None:
    over = grid((20, 18, 16), (5, 5, 6), OBLIQUE, [30, -40, 50])
    part = smooth_grid(over, 8.0, 7)
    image = part.grid.image(part.vectors)
    image.SetMetaData("displacement field type", kind)
    sitk.WriteImage(image, str(tmp_path / "field.nrrd"))
    points = within(over, 200)
    moved, read_as = in_mrml(tmp_path / "field.nrrd", points, tmp_path)
    ours = read_transform(tmp_path / "field.nrrd")
    assert read_as == ("True False" if kind == "resampling" else "False True")
    assert deviation(ours.map(points), moved) < (1e-4 if kind == "resampling" else 0.05)  # VTK inverts to 0.01
    if kind == "modeling":
        assert deviation(part.map(ours.map(points)), points) < 1e-3
    else:
        assert deviation(part.map(points), ours.map(points)) < 1e-9


# -------------------------------------------------------------------------------- points, there and back


@pytest.mark.parametrize("ending", ["csv", "mrk.json", "fcsv"])
def test_landmarks_return_by_the_inverse(case: Case, ending: str, tmp_path: Path) -> None:
    start = within(case.deformation.grid, 200, 9)
    paths = [tmp_path / f"{name}.{ending}" for name in ("start", "there", "back")]
    write_points(paths[0], Points(start))
    cli("points", "--transform", case.folder, "--input", paths[0], "--output", paths[1])
    cli("points", "--transform", case.folder, "--input", paths[1], "--output", paths[2], "--inverse")
    there, back = (read_points(path).positions for path in paths[1:])
    assert deviation(there, case.deformation.map(start)) < 1e-3
    assert deviation(there, start) > 5
    assert deviation(back, start) < 0.1


def test_inverse_finds_the_points_that_large_alignments_move_away() -> None:
    fixed = grid((30, 28, 26), (5, 5, 5), OBLIQUE, [0, 0, 0])
    for angle, shift in ((10, [400, -250, 300]), (178, [0, 0, 30]), (90, [0, 100, 0])):
        made = Deformation(*field("siren", fixed, 10.0), fixed, (rigid((0, 0, angle), shift, fixed.centre),))
        points = within(grid((2, 2, 2), tuple(fixed.extent * 0.8), OBLIQUE, [0, 0, 0]), 300)
        assert deviation(invert(made, made.map(points)), points) < 0.1


def test_inverse_of_the_exported_field(case: Case) -> None:
    exported = load_transform(case.folder / "displacement.nrrd")
    points = within(case.deformation.grid, 500, 3)
    assert deviation(invert(exported, exported.map(points)), points) < 0.1


# ------------------------------------------------------------------------------- beyond the fixed image


def determinants(image: sitk.Image) -> np.ndarray:
    """Jacobian determinants of a displacement field at the corners of all its cells."""
    over = Grid.of(image)
    local = sitk.GetArrayFromImage(image).astype(float) @ over.direction
    slopes = [np.diff(local, axis=2 - axis) / over.spacing[axis] for axis in range(3)]
    cells = np.array(local.shape[:3]) - 1
    result = []
    for corner in np.ndindex(2, 2, 2):
        cut = [
            slope[tuple(slice(None) if a == 2 - axis else slice(corner[a], corner[a] + cells[a]) for a in range(3))]
            for axis, slope in enumerate(slopes)
        ]
        result.append(np.linalg.det(np.stack(cut, -1) + np.eye(3)))
    return np.array(result)


BEFORE = {
    "nothing": ((0, 0, 0), [0, 0, 0], 18.0),
    "a shift towards a corner": ((0, 0, 0), [25, 25, 25], 0.0),
    "a shift out of one face": ((0, 0, 0), [0, -60, 0], 10.0),
    "60 mm and 15 degrees": ((0, 0, 15), [60, 0, 0], 12.0),
    "60 mm and 15 degrees, aslant": ((9, -9, 9), [35, -35, 35], 12.0),
}


@pytest.mark.parametrize("name", BEFORE)
def test_exported_field_ends_at_zero_and_folds_nowhere(name: str, tmp_path: Path) -> None:
    degrees, shift, largest = BEFORE[name]
    fixed = grid((34, 30, 26), (5.0, 5.0, 6.0), LEFT, [80, -40, 300])
    before = (rigid(degrees, shift, fixed.centre),) if any(shift) else ()
    made = Deformation(*field("siren", fixed, largest), fixed, before)
    made.save(tmp_path)
    for file in tmp_path.glob("d*.nrrd"):
        image = sitk.ReadImage(str(file))
        array = sitk.GetArrayFromImage(image)
        for axis in range(3):
            assert not np.take(array, [0, -1], axis).any()
        assert determinants(image).min() > 0.05
        assert image.GetMetaData("displacement field type") == "resampling"
    assert made.fade > 0.05
    points = within(made.padded_grid, 5000)
    assert np.linalg.det(numerical_jacobian(made, points, step=1e-3)).min() > 0.02


def test_a_motion_too_large_to_fade_keeps_the_export_small() -> None:
    fixed = grid((60, 60, 50), (1.5, 1.5, 1.5), np.eye(3), [0, 0, 0])
    made = Deformation(*field("siren", fixed, 15.0), fixed, (Affine(np.eye(3), np.array([700.0, 900, -800])),))
    assert made.fade <= 0
    assert np.prod(made.padded_grid.size) < 2e7
    points = within(fixed, 100)
    assert deviation(invert(made, made.map(points)), points) < 0.1


def test_the_export_of_a_large_image_leaves_room_for_its_fade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inrreg.deformation.TOLERANCE", 1e-4)  # a field so rough that no grid were too fine
    fixed = grid((512, 512, 400), (0.5, 0.5, 0.5), np.eye(3), [0, 0, 0])
    made = Deformation(*field("siren", fixed, 15.0), fixed)
    assert made.fade > 0.05
    assert np.prod(made.padded_grid.size) < 2e7
    assert made.interpolation_error < 0.1


def test_jacobian_beyond_the_fixed_image_is_that_of_the_fade(case: Case) -> None:
    made = case.deformation
    wide = grid((20, 20, 20), tuple(made.padded_grid.extent * 1.2 / 19), OBLIQUE, made.grid.centre.tolist())
    figures = jacobian(made, wide, None)["whole"]
    assert figures["min"] > 0
    assert figures["max"] < 5


# ----------------------------------------------------------------- prealignment and initial transforms


@pytest.fixture(scope="module")
def anatomy() -> sitk.Image:
    return thorax((48, 40, 48), (6.0, 6.0, 6.0), seed=3, noise=5.0).fixed


def pulled_back(moving: sitk.Image, transform: PointMap) -> sitk.Image:
    """The image that `transform` takes to `moving`, on a grid of its own."""
    fixed = grid((52, 42, 46), (5.5, 5.5, 6.0), rotation(0, 4, -8), [5, -4, 3])
    return warp(moving, transform, fixed)


KNOWN = {
    "rigid": rigid((4, -3, 9), [14, -9, 11], np.zeros(3)),
    "affine": Affine(rotation(3, 2, -6) @ np.diag([1.06, 0.95, 1.03]), np.array([-8.0, 12, 9])),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_prealignment_finds_a_known_transform_and_is_kept_apart(kind: str, anatomy: sitk.Image, tmp_path: Path) -> None:
    fixed = pulled_back(anatomy, KNOWN[kind])
    files = {"fixed": str(tmp_path / "fixed.nrrd"), "moving": str(tmp_path / "moving.nrrd")}
    sitk.WriteImage(fixed, files["fixed"])
    sitk.WriteImage(anatomy, files["moving"])
    quick = {"steps": (1,), "image_spacing": (24,), "node_spacing": (60,), "width": 8, "start": 1e-6}
    register(Job(**files, prealign=kind, overrides=quick, threads=1), tmp_path / "result")
    made = Deformation.load(tmp_path / "result")
    assert len(made.before) == 1
    body = within(grid((2, 2, 2), (160, 130, 180), np.eye(3), [0, 0, 0]), 500)
    assert deviation(made.before[0].map(body), KNOWN[kind].map(body)) < 1.0
    saved = sitk.ReadTransform(str(tmp_path / "result" / "before_1.tfm"))
    assert deviation(SitkTransform(saved).map(body), made.before[0].map(body)) < 1e-6
    apart = load_transform(tmp_path / "result" / "deformable.nrrd")
    assert deviation(apart.map(body), made.deform(body)) < 0.3
    assert deviation(made.map(body), made.before[0].map(made.deform(body))) < 1e-6


def test_prealignment_comes_before_the_initial_transform(anatomy: sitk.Image) -> None:
    initial, wanted = rigid((0, 0, 20), [0, 30, 0], np.zeros(3)), rigid((0, 7, 0), [15, 0, -5], np.zeros(3))
    fixed = pulled_back(anatomy, Chain((wanted, initial)))
    found = prealign("rigid", fixed, anatomy, None, None, initial, Run())
    body = within(grid((2, 2, 2), (160, 130, 180), np.eye(3), [0, 0, 0]), 500)
    assert deviation(found.map(body), wanted.map(body)) < 1.0
    assert deviation(Chain((found, initial)).map(body), initial.map(wanted.map(body))) < 1.0
    assert deviation(initial.map(wanted.map(body)), wanted.map(initial.map(body))) > 5  # the order matters


@pytest.mark.parametrize("kind", ["affine", "field", "composite", "result"])
def test_initial_transform_is_part_of_the_result(kind: str, anatomy: sitk.Image, tmp_path: Path) -> None:
    fixed = Grid.of(anatomy)
    if kind == "affine":
        initial, path = KNOWN["affine"], tmp_path / "initial.tfm"
        sitk.WriteTransform(initial.to_sitk(), str(path))
    elif kind == "field":
        initial, path = smooth_grid(fixed, 12.0, 1), tmp_path / "initial.nrrd"
        sitk.WriteImage(initial.grid.image(initial.vectors), str(path))
    elif kind == "composite":
        initial, path = nonlinear(fixed), tmp_path / "initial.h5"
        sitk.WriteTransform(initial.transform, str(path))
    else:
        turned = rigid((0, 0, 5), [6, 0, 0], fixed.centre)
        initial, path = Deformation(*field("lattice", fixed, 10.0), fixed, (turned,)), tmp_path / "earlier"
        path.mkdir()
        initial.save(path)
    files = {"fixed": str(tmp_path / "fixed.nrrd"), "moving": str(tmp_path / "moving.nrrd")}
    sitk.WriteImage(anatomy, files["fixed"])
    sitk.WriteImage(warp(anatomy, Affine(np.eye(3), np.array([5.0, 0, 0])), fixed), files["moving"])
    quick = {"steps": (1,), "image_spacing": (24,), "node_spacing": (60,), "width": 8, "start": 1e-6}
    register(Job(**files, initial_transform=str(path), overrides=quick, threads=1), tmp_path / "result")
    made = Deformation.load(tmp_path / "result")
    points = within(fixed, 300)
    assert deviation(made.map(points), initial.map(made.deform(points))) < 0.15
    assert deviation(made.deform(points), points) < 1.5
    assert len(made.before) == 1


def test_an_initial_transform_holds_where_the_prealignment_leads() -> None:
    fixed = grid((20, 20, 20), (6, 6, 6), OBLIQUE, [0, 0, 0])
    aligned, initial = rigid((0, 0, 30), [300, -200, 100], fixed.centre), nonlinear(fixed)
    stored = storable(initial, fixed, aligned)
    points = aligned.map(within(fixed, 300))
    assert deviation(stored.map(points), initial.map(points)) < 0.1


# --------------------------------------------------------------------------- masks and labels elsewhere


def ball(over: Grid, centre: np.ndarray, radius: float) -> np.ndarray:
    return np.linalg.norm(over.points() - centre, axis=-1) < radius


def test_masks_and_labels_of_another_grid_are_resampled(tmp_path: Path) -> None:
    own = grid((70, 60, 40), (1.5, 1.5, 2.5), LEFT, [20, 30, -40])
    onto = grid((40, 36, 30), (3, 3, 4), OBLIQUE, [26, 24, -36])
    centres = onto.centre + np.array([[0, 0, 0], [22, 10, -8]])
    array = np.where(ball(own, centres[0], 14), 7, 0) + np.where(ball(own, centres[1], 9), 300, 0)
    sitk.WriteImage(own.image(array.astype(np.int16)), str(tmp_path / "labels.nrrd"))
    reference = onto.image(np.zeros(onto.size[::-1], np.int16))
    labels = sitk.GetArrayFromImage(read_labels(tmp_path / "labels.nrrd", "labels", reference))
    mask = read_mask(tmp_path / "labels.nrrd", "mask", reference)
    assert np.array_equal(sitk.GetArrayFromImage(mask) > 0, labels > 0)
    assert Grid.of(mask).size == onto.size
    half = np.linalg.norm(own.spacing) / 2
    for centre, radius, value in ((centres[0], 14, 7), (centres[1], 9, 300)):
        assert (labels[ball(onto, centre, radius - half)] == value).all()
        assert not (labels == value)[~ball(onto, centre, radius + half)].any()
        assert (labels == value).sum() > 20


def test_labels_are_warped_without_new_values(case: Case) -> None:
    made, over = case.deformation, Grid.of(case.moving)
    centre = made.map(made.grid.centre[None])[0]
    array = np.where(ball(over, centre, 30), 5, 0) + np.where(ball(over, centre, 12), 250, 0)
    warped = warp(over.image(array.astype(np.int16)), made, made.grid, labels=True)
    values = sitk.GetArrayFromImage(warped).ravel()
    distance = np.linalg.norm(made.map(made.grid.points().reshape(-1, 3)) - centre, axis=1)
    half = np.linalg.norm(over.spacing) / 2 + 1e-3
    assert warped.GetPixelID() == sitk.sitkInt16
    assert (values[distance < 12 - half] == 255).all()
    assert (values[(distance > 12 + half) & (distance < 30 - half)] == 5).all()
    assert (values[distance > 30 + half] == 0).all()


# --------------------------------------------------------------------------- what the figures are, to read


def test_model_states_its_interpolation_error(case: Case) -> None:
    stated = read_json(case.folder / "model.json")["interpolation_error"]
    exported, points = load_transform(case.folder / "displacement.nrrd"), within(case.deformation.grid, 5000, 5)
    found = np.linalg.norm(exported.map(points) - case.deformation.map(points), axis=1)
    assert np.quantile(found, 0.99) <= stated + 1e-4
    assert found.max() <= SLACK * stated + 1e-4
