"""Registration from a script, as users of Slicer's Python console do it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from inrreg.protocol import UserError


@pytest.fixture
def logic(slicer, fake_engine):
    from INRRegistration import INRRegistrationLogic
    from INRRegistrationLib.logic import shared

    yield INRRegistrationLogic()
    shared().quit()


def test_blocking(logic, slicer, pair):
    fixed, moving = pair
    transform = logic.register(fixed, moving, preset="fake")
    assert moving.GetParentTransformNode() is transform
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 2


def test_into_chosen_nodes(logic, slicer, pair):
    fixed, moving = pair
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Mine")
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Warped")
    found = logic.register(fixed, moving, preset="fake", output_transform=transform, output_volume=volume)
    assert found is transform
    assert volume.GetImageData().GetDimensions() == fixed.GetImageData().GetDimensions()
    assert volume.GetDisplayNode().GetWindow() == moving.GetDisplayNode().GetWindow()


def test_not_blocking(logic, slicer, pair):
    run = logic.register(*pair, preset="fake", wait=False, resample=True)
    steps, ends = [], []
    run.progress.connect(lambda data: steps.append(data["step"]))
    run.finished.connect(lambda: ends.append(run.state))
    assert run.active
    with pytest.raises(UserError, match="already running"):
        logic.register(*pair, preset="fake")
    while run.active:
        slicer.app.processEvents()
    assert ends == ["done"]
    assert steps[-1] == 20
    assert run.volume.GetName() == "Moving registered"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"preset": "nonsense"}, "no preset 'nonsense'"),
        ({"overrides": {"steps": 0}}, "from 1 to"),
        ({"overrides": {"nonsense": 0}}, "no setting 'nonsense'"),
        ({"prealign": "wild"}, "no prealignment 'wild'"),
        ({"threads": -1}, "cannot be negative"),
        ({"overrides": {"behaviour": "user-error"}}, "hardly overlap"),
        ({"overrides": {"behaviour": "exit"}}, "ended unexpectedly"),
    ],
)
def test_errors_are_raised(logic, slicer, pair, arguments, words):
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    with pytest.raises(UserError, match=words):
        logic.register(*pair, **{"preset": "fake", **arguments})
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes
    logic.register(*pair, preset="fake")


def test_a_click_during_the_installation_starts_nothing(logic, slicer, pair, monkeypatch):
    """The installation asks in a dialog, with an event loop of its own; meanwhile a volume is deleted as well."""
    from INRRegistrationLib import dependencies
    from INRRegistrationLib.logic import shared

    refused = []

    def install(*_):
        with pytest.raises(UserError, match="already running") as caught:
            logic.register(*pair, preset="fake")
        refused.append(caught.value.code)

    monkeypatch.setattr(dependencies, "ensure", install)
    logic.register(*pair, preset="fake")
    assert refused == ["busy"]
    runs = shared().operation
    monkeypatch.setattr(dependencies, "ensure", lambda *_: slicer.mrmlScene.RemoveNode(pair[1]))
    with pytest.raises(UserError, match="'Moving' was deleted"):
        logic.register(*pair, preset="fake")
    assert shared().operation is runs


@pytest.mark.parametrize("kind", ["vtkMRMLLinearTransformNode", "vtkMRMLBSplineTransformNode"])
def test_an_output_that_cannot_hold_a_field_is_refused(logic, slicer, pair, kind):
    node = slicer.mrmlScene.AddNewNodeByClass(kind, "Mine")
    with pytest.raises(UserError, match="'Mine' is no transform that can hold a deformation field"):
        logic.register(*pair, preset="fake", output_transform=node)


def test_jobs_of_a_killed_slicer_are_removed_and_no_others(slicer, tmp_path):
    from INRRegistrationLib import folders

    tmp_path = tmp_path / "temporary"
    tmp_path.mkdir()
    code = (
        "import sys\n"
        "import importlib.util as u; s = u.spec_from_file_location('folders', sys.argv[1]); m = u.module_from_spec(s)\n"
        "s.loader.exec_module(m); f = m.JobsFolder(sys.argv[2]); f.new(); print(f.path, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, folders.__file__, str(tmp_path)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    theirs = Path(other.stdout.readline().strip())
    mine = folders.JobsFolder(tmp_path)
    mine.new()
    (tmp_path / "INRRegistration-without-a-lock").mkdir()
    folders.remove_abandoned(tmp_path)
    assert (theirs / "job-1").is_dir()
    assert (mine.path / "job-1").is_dir()
    other.kill()
    other.wait()
    folders.remove_abandoned(tmp_path)
    assert not theirs.exists()
    assert (mine.path / "job-1").is_dir()
    assert (tmp_path / "INRRegistration-without-a-lock").is_dir()
    mine.remove()
    assert [entry.name for entry in tmp_path.iterdir()] == ["INRRegistration-without-a-lock"]


def test_cancelled_by_a_script(logic, slicer, pair):
    run = logic.register(*pair, preset="fake", overrides={"steps": 10000}, wait=False)
    run.progress.connect(lambda data: run.cancel())
    while run.active:
        slicer.app.processEvents()
    assert run.state == "cancelled"
    assert run.transform is None


def test_a_fixed_volume_under_a_grid(logic, slicer, pair):
    """Its image is resampled, and the output volume stands where that one does."""
    import numpy as np

    from INRRegistrationLib import results

    fixed, moving = pair
    grid = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Warp")
    vectors, matrix = np.full((4, 4, 4, 3), 5.0), np.diag([100.0, 100.0, 100.0, 1.0])
    matrix[:3, 3] = -150
    grid.SetAndObserveTransformFromParent(results.grid_transform(vectors, matrix))
    fixed.SetAndObserveTransformNodeID(grid.GetID())
    run = logic.register(fixed, moving, preset="fake", resample=True, wait=False)
    while run.active:
        slicer.app.processEvents()
    assert run.error is None
    assert run.volume.GetParentTransformNode() is None
    bounds = [0.0] * 6
    run.volume.GetRASBounds(bounds)
    shown = [0.0] * 6
    fixed.GetRASBounds(shown)
    np.testing.assert_allclose(bounds, shown, atol=10)


def test_the_self_test_of_the_module_skips_without_torch(slicer, fake_engine, monkeypatch, caplog):
    from INRRegistration import INRRegistrationTest
    from INRRegistrationLib import dependencies

    monkeypatch.setattr(dependencies, "satisfied", lambda package, version: False)
    INRRegistrationTest().runTest()
    assert "not installed: torch, numpy, SimpleITK, safetensors" in caplog.text
