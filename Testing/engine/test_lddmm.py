"""INR-LDDMM: the result's sequence, its inverse, the fit from coarse to fine, the energy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from inrreg import protocol
from inrreg.deformation import Deformation
from inrreg.fields import Flow, LatticeGeometry, TimedSeparable, VelocityLattice
from inrreg.geometry import Frame, Grid
from inrreg.lddmm import Coarse, Paths
from inrreg.phantom import thorax
from inrreg.protocol import Job
from inrreg.registration import register
from inrreg.regularization import velocity_energy
from inrreg.transforms import DisplacementGrid

QUICK = {
    "steps": (20, 15),
    "fit_steps": 5,
    "image_spacing": (14, 10),
    "node_spacing": (40, 30),
    "path_spacing": (20, 15),
}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, files = tmp_path_factory.mktemp("pair"), {}
    pair = thorax((32, 27, 32), (9.0, 9.0, 9.0), seed=2, amplitude=12.0, landmarks=20)
    for name in ("fixed", "moving"):
        files[name] = str(folder / f"{name}.nrrd")
        sitk.WriteImage(getattr(pair, name), files[name])
    register(Job(**files, preset="lddmm-light", overrides=QUICK, threads=1), folder / "result")
    return folder / "result"


def field_of(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_the_course_begins_where_the_image_lies_and_ends_in_the_result(result: Path) -> None:
    course = protocol.read_json(result / "time.json")["fields"]
    times = [each["time"] for each in course]
    assert (times[0], times[-1]) == (0, 1)
    assert times == sorted(times)
    images = [sitk.ReadImage(str(result / each["file"])) for each in course]
    assert len({(image.GetSize(), image.GetOrigin(), image.GetSpacing()) for image in images}) == 1
    sizes = [np.linalg.norm(sitk.GetArrayFromImage(image), axis=-1).max() for image in images]
    assert sizes[0] < 1e-4
    assert sizes == sorted(sizes)
    deformation, grid = Deformation.load(result), Grid.of(images[-1])
    nodes = grid.points().reshape(-1, 3)
    within = deformation.contains(nodes)
    end = sitk.GetArrayFromImage(images[-1]).reshape(-1, 3)[within]
    assert np.abs(deformation.map(nodes[within]) - nodes[within] - end).max() < 0.01


def test_nothing_folds_and_points_come_back(result: Path) -> None:
    metrics = protocol.read_json(result / "metrics.json")
    assert metrics["jacobian"]["whole"]["min"] > 0
    assert metrics["inverse"]["p99"] < 0.01


def test_a_result_is_replaced_by_another(result: Path) -> None:
    job = protocol.read_json(result / "job.json")
    register(Job.from_dict(job), result)
    assert (result / "time_00.nrrd").exists()


def flow(geometry: LatticeGeometry, steps: int = 4) -> Flow:
    network = TimedSeparable(16, 2, 12.0, 8, 0.2, generator=torch.Generator().manual_seed(1))
    return Flow(VelocityLattice(network, geometry), steps)


def test_the_fit_brings_a_finer_lattice_to_what_the_coarse_one_said() -> None:
    grid = Grid((20, 20, 20), np.zeros(3), 5.0 * np.eye(3))
    frame = Frame.covering(grid)
    coarse, fine = (LatticeGeometry.covering(grid, frame, spacing) for spacing in (30.0, 12.0))
    target, field = Coarse(flow(coarse), coarse, fine), flow(fine)
    optimizer = torch.optim.Adam(field.parameters(), lr=3e-3)
    distances = []
    for _ in range(40):
        optimizer.zero_grad()
        field.hold()
        loss = target.distance(field, 1.0, 0.01)
        loss.backward()
        optimizer.step()
        distances.append(float(loss.detach()))
    assert distances[-1] < 0.2 * distances[0]


def test_points_carried_far_apart_tell_the_rest_of_a_smooth_flow() -> None:
    grid = Grid((20, 18, 16), np.zeros(3), 5.0 * np.eye(3))
    frame = Frame.covering(grid)
    field = flow(LatticeGeometry.covering(grid, frame, 40.0))
    samples = torch.as_tensor(frame.normalize(grid.points()), dtype=torch.float32)
    paths = Paths(samples, 10.0 / frame.scale)
    with torch.no_grad():
        exact = field.value(samples.reshape(-1, 3)).reshape(samples.shape)
        assert len(paths.points) < 0.2 * samples[..., 0].numel()
        assert (paths.displacement(field) - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize(("size", "finer"), [(0.004, False), (0.03, True), (0.06, True)])
def test_the_exported_inverse_is_as_fine_as_there_and_back_needs(size: float, finer: bool) -> None:
    grid = Grid((20, 18, 16), np.zeros(3), 3.0 * np.eye(3))
    frame = Frame.covering(grid)
    network = TimedSeparable(16, 2, 12.0, 8, size, generator=torch.Generator().manual_seed(1))
    field = Flow(VelocityLattice(network, LatticeGeometry.covering(grid, frame, 12.0)), 16).freeze()
    made = Deformation(field, frame, grid)
    there, back = (DisplacementGrid.of(image) for image in (made.displacement_field(), made.inverse_field()))
    points = grid.to_world(np.random.default_rng(3).random((4000, 3)) * (np.array(grid.size) - 1))
    apart = np.linalg.norm(back.map(there.map(points)) - points, axis=1)
    assert np.percentile(apart, 99) < 0.3
    assert (math.prod(back.grid.size) > 2 * math.prod(there.grid.size)) == finer
    ends = [each.to_world(np.array(each.size) - 1) for each in (there.grid, back.grid)]
    assert np.allclose(*ends)
    assert np.allclose(there.grid.origin, back.grid.origin)


def test_the_energy_is_that_of_the_operator() -> None:
    velocity, curved = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[0.0, 4.0, -2.0]])
    assert velocity_energy(velocity, curved, 2.0, 0.5) == pytest.approx(0.5 * (4 + 4 + 1))
