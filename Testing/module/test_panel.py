"""The panel with the real worker process over a fake engine: what a user does, and what can go wrong."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from conftest import snapshot

REGIONS = ("sliding", "rigid", "exclude")


def node_names(slicer):
    scene = slicer.mrmlScene
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}


def test_the_button_says_what_is_missing(user, slicer, pair):
    fixed, moving = pair
    assert not user.ui.applyButton.enabled
    assert "Choose a fixed volume" in user.ui.statusLabel.text
    user.screenshot("idle")
    user.ui.fixedSelector.setCurrentNode(fixed)
    assert "Choose a moving volume" in user.ui.statusLabel.text
    user.ui.movingSelector.setCurrentNode(fixed)
    assert "are the same" in user.ui.statusLabel.text
    user.choose(fixed, moving)
    assert user.ui.statusLabel.text == ""
    assert user.ui.applyButton.enabled
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
    user.ui.movingSelector.setCurrentNode(empty)
    assert "'Empty' holds no image" in user.ui.statusLabel.text


def test_register(user, slicer, pair):
    fixed, moving = pair
    user.choose(fixed, moving, steps=30)
    user.ui.previewCheckBox.setChecked(False)
    user.window.show_volumes(fixed, moving)
    before = node_names(slicer)
    user.click()
    assert user.ui.applyButton.text == "Cancel"
    assert not user.ui.inputsSection.enabled
    user.wait(lambda: user.ui.progressBar.value > 100)
    assert "Coarse: step" in user.ui.statusLabel.text
    assert "(lower is better)" in user.ui.statusLabel.text
    assert node_names(slicer) == before
    seen = user.ui.progressBar.value
    user.wait(lambda: user.ui.progressBar.value > seen)
    user.screenshot("running-fake")
    user.wait_for_end()
    transform, volume = user.ui.transformSelector.currentNode(), user.ui.volumeSelector.currentNode()
    assert moving.GetParentTransformNode() is transform
    assert transform.GetClassName() == "vtkMRMLGridTransformNode"
    assert transform.GetNodeReference("INRRegistration.Fixed") is fixed
    assert transform.GetNodeReference("INRRegistration.Moving") is moving
    assert transform.GetName() == "Moving to Fixed"
    assert transform.GetTransformFromParent().IsA("vtkOrientedGridTransform")
    display = volume.GetDisplayNodeID()
    model = transform.GetNodeReferenceID("INRRegistration.Model")
    assert node_names(slicer) - before == {transform.GetID(), volume.GetID(), display, model}
    assert "Done in" in user.ui.statusLabel.text
    assert "Warning: The images overlap" in user.ui.logText.plainText
    assert "The images overlap by 60 % only." in user.ui.errorLabel.text
    user.screenshot("done-with-warning")
    assert user.ui.applyButton.text == "Register"


def test_the_result_is_the_engines(user, slicer, pair):
    fixed, moving = pair
    user.choose(fixed, moving)
    transform = user.register()
    result = Path(transform.GetAttribute("INRRegistration.Result"))
    user.wait(lambda: [entry.name for entry in result.parent.iterdir()] == ["result"])
    field = SimpleITK.ReadImage(str(result / "displacement.nrrd"), SimpleITK.sitkVectorFloat64)
    known = SimpleITK.DisplacementFieldTransform(field)
    lps = np.diag([-1.0, -1.0, 1.0])
    rng = np.random.default_rng(0)
    for point in rng.uniform([-60, -50, 10], [60, 60, 100], (50, 3)):
        there = transform.GetTransformFromParent().TransformPoint(point)
        np.testing.assert_allclose(there, lps @ known.TransformPoint(lps @ point), atol=1e-4)
    grid = image_of(slicer, fixed)
    expected = SimpleITK.Resample(image_of(slicer, moving), grid, known, SimpleITK.sitkLinear, 0)
    volume = user.ui.volumeSelector.currentNode()
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(volume), SimpleITK.GetArrayFromImage(expected))
    assert volume.GetOrigin() == fixed.GetOrigin()
    assert volume.GetSpacing() == fixed.GetSpacing()


def image_of(slicer, node):
    """A volume node as SimpleITK sees it; for volumes without rotation."""
    image = SimpleITK.GetImageFromArray(slicer.util.arrayFromVolume(node))
    x, y, z = node.GetOrigin()
    image.SetOrigin((-x, -y, z))
    image.SetSpacing(node.GetSpacing())
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    return image


def test_register_again_replaces_the_result(user, slicer, pair):
    user.choose(*pair)
    first = user.register()
    nodes = node_names(slicer)
    result = Path(first.GetAttribute("INRRegistration.Result"))
    user.set_setting("bump", "1, 1, 1")
    second = user.register()
    assert second is first
    user.wait(lambda: not result.exists())
    assert Path(second.GetAttribute("INRRegistration.Result")).is_dir()
    assert node_names(slicer) == nodes
    assert pair[1].GetParentTransformNode() is first
    assert first.GetParentTransformNode() is None


def test_another_pair_does_not_overwrite_the_result(user, slicer, pair):
    user.choose(*pair)
    first = user.register()
    user.choose(pair[1], pair[0])
    assert user.ui.transformSelector.currentNode() is None
    user.choose(*pair)
    second = user.register()
    assert second is not first
    assert pair[1].GetParentTransformNode() is second
    assert second.GetParentTransformNode() is None


def test_cancel_leaves_the_scene_as_it_was(user, slicer, pair):
    user.choose(*pair, steps=10000)
    before = snapshot(slicer)
    user.click()
    user.wait(lambda: user.ui.progressBar.value > 0)
    start = time.monotonic()
    user.click()
    user.wait_for_end()
    assert time.monotonic() - start < 1
    assert "Cancelled" in user.ui.statusLabel.text
    user.screenshot("cancelled")
    assert snapshot(slicer) == before
    worker = user.process.process_id
    user.set_setting("steps", 5)
    user.register()
    assert user.process.process_id == worker


def test_cancel_before_the_worker_is_ready(user, slicer, pair):
    user.choose(*pair)
    user.click()
    user.click()
    user.wait_for_end()
    assert "Cancelled" in user.ui.statusLabel.text
    user.register()


def test_cancel_ends_a_worker_that_hangs(user, slicer, pair):
    user.choose(*pair, behaviour="hang")
    user.click()
    beats = []
    user.process.event.connect(lambda message: beats.append(message.kind))
    user.wait(lambda: "heartbeat" in beats)
    worker = user.process.process_id
    user.click()
    assert user.ui.applyButton.text == "Cancelling…"
    user.wait_for_end(timeout=8)
    user.wait(lambda: not Path(f"/proc/{worker}").exists(), timeout=2)
    user.set_setting("behaviour", "register")
    user.register()


def test_a_silent_worker_is_told(user, pair, monkeypatch):
    from INRRegistrationLib import process

    monkeypatch.setattr(process, "SILENCE", 300)
    user.choose(*pair, behaviour="hang")
    user.click()
    user.wait(lambda: "has not answered" in user.ui.statusLabel.text)
    user.wait(lambda: "Preparing… 1 s" in user.ui.statusLabel.text)
    user.panel.run.abort()


@pytest.mark.parametrize(
    ("behaviour", "words", "hint"),
    [
        ("user-error", "The images hardly overlap", "Align them first"),
        ("memory", "too little free memory", "crop or resample"),
        ("gpu-memory", "graphics card has too little", "Choose the CPU"),
        ("internal", "failed unexpectedly", "report"),
        ("incomplete", "lacks model.json", "disk full"),
        ("exit", "ended unexpectedly", "Register again"),
    ],
)
def test_errors_are_told_in_words(user, slicer, pair, behaviour, words, hint):
    user.choose(*pair, behaviour=behaviour)
    before = snapshot(slicer)
    user.click()
    user.wait_for_end()
    assert words in user.error
    assert hint in user.error
    user.screenshot(f"error-{behaviour}")
    assert snapshot(slicer) == before
    user.set_setting("behaviour", "register")
    user.register()


def test_error_without_torch_in_the_worker(user, slicer, pair, fake_engine):
    fake_engine.append("--no-torch")
    user.choose(*pair)
    user.click()
    user.wait_for_end()
    assert "PyTorch is not installed, or cannot be loaded" in user.error
    assert not user.process.running
    user.screenshot("error-torch")
    fake_engine.pop()
    user.register()


def test_error_when_the_worker_cannot_start(user, slicer, pair, fake_engine):
    fake_engine[0] = "/nowhere/python"
    user.choose(*pair)
    user.click()
    user.wait_for_end()
    assert "could not start (/nowhere/python)" in user.error
    user.screenshot("error-start")


def test_error_when_the_disk_is_full(user, slicer, pair, monkeypatch):
    from INRRegistrationLib import nrrd

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nrrd, "write", full)
    user.choose(*pair)
    user.click()
    user.wait_for_end()
    assert "No space left" in user.error
    assert "temporary folder full" in user.error


def test_a_job_file_that_another_program_holds_does_not_cost_the_result(user, slicer, pair, monkeypatch):
    def held(path, missing_ok=False):
        raise PermissionError(13, "The file is in use", str(path))

    monkeypatch.setattr(Path, "unlink", held)
    user.choose(*pair)
    transform = user.register()
    assert transform is pair[1].GetParentTransformNode()
    assert user.ui.applyButton.text == "Register"
    assert user.ui.applyButton.enabled


def test_another_mask_has_segments_of_its_own(user, slicer, pair):
    first, second = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name) for name in "AB")
    user.choose(*pair)
    user.ui.fixedMaskSelector.setCurrentNode(first)
    user.panel.parameters.fixed_mask_segments = ["spleen"]
    user.ui.fixedMaskSelector.setCurrentNode(second)
    assert user.panel.parameters.fixed_mask is second
    assert user.panel.parameters.fixed_mask_segments is None


def test_a_selector_that_repeats_itself_keeps_the_outputs(user, slicer, pair):
    user.choose(*pair)
    transform = user.register()
    user.ui.fixedSelector.currentNodeChanged.emit(pair[0])
    assert user.panel.parameters.output_transform is transform


def test_a_removed_output_is_not_replaced_by_another(user, slicer, pair):
    scene = slicer.mrmlScene
    transforms = [scene.AddNewNodeByClass("vtkMRMLGridTransformNode", name) for name in "ABC"]
    user.choose(*pair)
    user.ui.transformSelector.setCurrentNode(transforms[1])
    parameters, seen = user.panel.parameters, set()
    parameters.node.AddObserver("ModifiedEvent", lambda *_: seen.add(parameters.output_transform))
    scene.RemoveNode(transforms[1])
    assert seen == {None}
    assert user.ui.transformSelector.currentNode() is None
    assert (parameters.fixed, parameters.moving) == pair


def test_removing_a_volume_forgets_its_outputs(user, slicer, pair):
    user.choose(*pair)
    user.register()
    slicer.mrmlScene.RemoveNode(pair[0])
    parameters = user.panel.parameters
    assert (parameters.fixed, parameters.output_transform, parameters.output_volume) == (None, None, None)
    assert "Choose a fixed volume" in user.ui.statusLabel.text


def test_a_volume_deleted_in_mid_run(user, slicer, pair):
    user.choose(*pair, steps=20)
    user.click()
    user.wait(lambda: user.ui.progressBar.value > 0)
    slicer.mrmlScene.RemoveNode(pair[1])
    user.wait_for_end()
    assert "was deleted while it was registered" in user.error


def test_a_volume_moved_in_mid_run(user, slicer, pair):
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "P")
    pair[1].SetAndObserveTransformNodeID(parent.GetID())
    user.choose(*pair)
    user.click()
    user.wait(lambda: user.ui.progressBar.value > 0)
    matrix = slicer.util.vtkMatrixFromArray(np.diag([1.0, 1, 1, 1]) + np.eye(4, k=3) * 80)
    parent.SetMatrixTransformToParent(matrix)
    user.wait_for_end()
    assert "was moved while it was registered" in user.error
    assert pair[1].GetParentTransformNode() is parent
    assert parent.GetParentTransformNode() is None


def test_scene_close_in_mid_run(user, slicer, pair):
    user.choose(*pair, steps=10000)
    user.click()
    user.wait(lambda: user.ui.progressBar.value > 0)
    slicer.mrmlScene.Clear(0)
    user.wait_for_end()
    assert "Choose a fixed volume" in user.ui.statusLabel.text
    assert not user.process.running
    from INRRegistrationLib.selftest import make_pair

    user.choose(*make_pair(), steps=3)
    user.register()


def test_reload_in_mid_run(user, slicer, pair):
    user.choose(*pair, steps=10000)
    user.click()
    user.wait(lambda: user.ui.progressBar.value > 0)
    worker = user.process.process_id
    slicer.util.reloadScriptedModule("INRRegistration")
    user.wait(lambda: not Path(f"/proc/{worker}").exists(), timeout=2)
    assert user.ui.fixedSelector.currentNode() is pair[0]
    assert user.ui.applyButton.text == "Register"
    user.set_setting("steps", 3)
    user.register()


def test_exit_in_mid_run_leaves_nothing(slicer, fake_engine, pair):
    from conftest import User

    user = User(slicer)
    user.choose(*pair, steps=10000)
    user.click()
    user.wait(lambda: user.ui.progressBar.value > 0)
    worker = user.process.process_id
    user.leave()
    assert not Path(f"/proc/{worker}").exists()
    assert not list(Path(slicer.app.temporaryPath).glob("INRRegistration-*"))


def test_parameters_live_in_the_scene(user, slicer, pair):
    user.choose(*pair, steps=7)
    user.ui.seedSpinBox.setValue(5)
    user.ui.resampleCheckBox.setChecked(False)
    user.ui.prealignSelector.setCurrentIndex(1)
    slicer.util.reloadScriptedModule("INRRegistration")
    assert user.ui.seedSpinBox.value == 5
    assert user.ui.prealignSelector.currentText == "Rigid"
    assert not user.ui.volumeSelector.enabled
    from INRRegistrationLib.parameters import Parameters
    from INRRegistrationLib.request import Request

    request = Request.of(Parameters.of_scene())
    assert (request.seed, request.prealign, request.overrides) == (5, "rigid", {"steps": 7})
    Parameters.of_scene().seed = 9
    assert user.ui.seedSpinBox.value == 9


def test_a_prior_goes_with_the_job_of_a_preset_that_takes_one(user, slicer, pair, tmp_path):
    from inrreg.protocol import Job
    from INRRegistrationLib.parameters import Parameters
    from INRRegistrationLib.request import Request

    user.choose(*pair)
    assert not user.ui.priorEdit.enabled
    parameters = Parameters.of_scene()
    parameters.preset = "reindir"
    assert user.ui.priorEdit.enabled
    user.ui.priorEdit.setCurrentPath(str(tmp_path / "prior"))
    assert f"There is no prior {tmp_path / 'prior'}" in user.ui.statusLabel.text
    (tmp_path / "prior").write_bytes(b"learned")
    slicer.util.reloadScriptedModule("INRRegistration")
    assert user.ui.priorEdit.currentPath == str(tmp_path / "prior")
    assert user.ui.applyButton.enabled
    for preset, expected in (("reindir", b"learned"), ("fake", None)):
        parameters.preset = preset
        (folder := tmp_path / preset).mkdir()
        Request.of(parameters).gather(folder, "job")()
        job = Job.load(folder)
        assert (Path(job.prior).read_bytes() if job.prior else None) == expected


def test_parameters_and_result_come_back_with_the_scene(user, slicer, pair, tmp_path):
    user.choose(*pair, steps=7)
    user.ui.seedSpinBox.setValue(5)
    transform = user.register()
    name, volume = transform.GetName(), pair[1].GetName()
    scene = slicer.mrmlScene
    for node in (*pair, user.ui.volumeSelector.currentNode(), transform):
        node.AddDefaultStorageNode()
        suffix = "h5" if node is transform else "nrrd"
        storage = node.GetStorageNode()
        storage.SetFileName(str(tmp_path / f"{node.GetID()}.{suffix}"))
        assert storage.WriteData(node)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit()
    scene.Clear(0)
    assert user.ui.fixedSelector.currentNode() is None
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Import()
    assert user.ui.seedSpinBox.value == 5
    assert user.ui.movingSelector.currentNode().GetName() == volume
    again = user.ui.transformSelector.currentNode()
    assert again.GetName() == name
    assert user.ui.movingSelector.currentNode().GetParentTransformNode() is again
    user.register()
    assert again.GetParentTransformNode() is None
    assert user.ui.transformSelector.currentNode() is again


def test_a_wrong_setting_names_itself(user, pair):
    user.choose(*pair, steps="many")
    assert not user.ui.applyButton.enabled
    assert "'steps' needs a value of type int" in user.ui.statusLabel.text
    user.set_setting("steps", -3)
    assert "from 1 to 100000" in user.ui.statusLabel.text
    user.set_setting("steps", 5)
    assert user.ui.applyButton.enabled


def test_outputs_that_would_overwrite_inputs_are_refused(user, slicer, pair):
    fixed, moving = pair
    grid = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Above")
    fixed.SetAndObserveTransformNodeID(grid.GetID())
    user.choose(fixed, moving)
    user.ui.transformSelector.setCurrentNode(grid)
    assert "The fixed volume is under 'Above'" in user.ui.statusLabel.text
    fixed.SetAndObserveTransformNodeID(None)
    moving.SetAndObserveTransformNodeID(grid.GetID())
    user.ui.transformSelector.setCurrentNode(None)
    user.ui.transformSelector.setCurrentNode(grid)
    assert "The moving volume is under 'Above'" in user.ui.statusLabel.text
    user.ui.transformSelector.setCurrentNode(None)
    user.ui.volumeSelector.setCurrentNode(fixed)
    assert "overwrite an input" in user.ui.statusLabel.text


def test_the_devices_come_from_the_worker(user):
    assert user.ui.deviceSelector.count == 2
    user.ui.advancedSection.collapsed = False
    user.wait(lambda: user.process.devices)
    assert user.ui.deviceSelector.count == 2
    assert user.ui.deviceSelector.itemText(1) == "CPU"
    user.screenshot("advanced")


def test_no_stop_of_the_event_loop_over_50_ms(user, pair):
    user.choose(*pair)
    user.register()
    worst, wall = user.check_no_long_stop(user.register)
    print(f"\nlongest stop of the event loop, fake engine: {worst:.1f} ms (by the clock {wall:.1f} ms)")


def test_ending_a_worker_that_hangs_does_not_stop_the_event_loop(user, slicer, pair):
    """It takes half a second and more to end it: the panel goes on meanwhile."""

    workers = []

    def hang():
        from INRRegistrationLib.selftest import make_pair

        user.choose(*make_pair(), behaviour="deaf")
        user.click()
        beats = []
        user.process.event.connect(lambda message: beats.append(message.kind))
        user.wait(lambda: "heartbeat" in beats)
        workers.append(user.process.process_id)

    def abort():
        user.panel.run.abort()
        assert user.panel.run is None
        user.wait(lambda: not Path(f"/proc/{workers[-1]}").exists(), timeout=3)

    user.check_no_long_stop(abort, hang)


def test_a_worker_stuck_before_its_hello_is_replaced_on_cancel(user, pair, fake_engine):
    known = list(fake_engine)
    fake_engine[:] = [known[0], "-c", "import time; time.sleep(100)"]
    user.choose(*pair)
    user.click()
    user.wait(lambda: user.panel.run.state == "running")
    stuck = user.process.process_id
    user.click()
    user.wait_for_end()
    assert "Cancelled" in user.ui.statusLabel.text
    fake_engine[:] = known
    user.register()
    user.wait(lambda: not Path(f"/proc/{stuck}").exists(), timeout=3)


def test_a_warm_worker_that_was_killed_is_started_again(user, pair):
    import os
    import signal

    user.choose(*pair)
    user.register()
    worker = user.process.process_id
    os.kill(worker, signal.SIGKILL)
    time.sleep(0.2)  # without an event: Qt has not heard of it
    user.register()
    assert user.process.process_id not in (0, worker)


def test_a_result_that_cannot_be_shown_changes_nothing(user, slicer, pair, monkeypatch):
    """Neither nodes that are left behind nor an overwritten output: all or nothing."""
    from INRRegistrationLib import hierarchy

    user.choose(*pair)
    known = hierarchy._put_below
    placed = []

    def fail(child, parent, undo):
        known(child, parent, undo)
        placed.append(child)
        if child is pair[1]:
            raise RuntimeError("in the middle")

    monkeypatch.setattr(hierarchy, "_put_below", fail)
    nodes, before = node_names(slicer), snapshot(slicer)
    user.click()
    user.wait_for_end()
    assert placed
    assert "in the middle" in user.error
    assert node_names(slicer) == nodes
    assert snapshot(slicer) == before
    # Into outputs that exist: they stay what they were.
    monkeypatch.setattr(hierarchy, "_put_below", known)
    transform = user.register()
    volume = user.ui.volumeSelector.currentNode()
    result = transform.GetAttribute("INRRegistration.Result")
    voxels, moved = (
        slicer.util.arrayFromVolume(volume).copy(),
        transform.GetTransformFromParent().TransformPoint(0, 0, 50),
    )
    user.set_setting("bump", "12, 1, 1")
    monkeypatch.setattr(hierarchy, "_put_below", fail)
    nodes = node_names(slicer)
    user.click()
    user.wait_for_end()
    assert "in the middle" in user.error
    assert node_names(slicer) == nodes
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(volume), voxels)
    assert transform.GetTransformFromParent().TransformPoint(0, 0, 50) == moved
    assert transform.GetAttribute("INRRegistration.Result") == result
    assert Path(result).is_dir()
    assert pair[1].GetParentTransformNode() is transform


def test_a_mask_of_the_moving_volume_counts_alike_when_registering_again(user, slicer, pair, monkeypatch):
    """Drawn on the moving volume before it was moved: it goes with it, and the same mask reaches the engine."""
    from INRRegistrationLib import run

    inside = np.zeros((24, 32, 36), np.uint8)
    inside[6:14, 6:20, 8:24] = 1
    mask = slicer.util.addVolumeFromArray(inside, nodeClassName="vtkMRMLLabelMapVolumeNode")
    mask.CopyOrientation(pair[1])
    seen = []
    tidy = run.remove_files

    def look(folder):
        seen.append(SimpleITK.ReadImage(str(folder / "moving_mask.nrrd")))
        tidy(folder)

    monkeypatch.setattr(run, "remove_files", look)
    user.choose(*pair)
    user.ui.movingMaskSelector.setCurrentNode(mask)
    transform = user.register()
    assert mask.GetParentTransformNode() is transform
    user.register()
    first, second = (SimpleITK.GetArrayFromImage(image) for image in seen)
    np.testing.assert_array_equal(first, second)
    assert seen[0].GetOrigin() == seen[1].GetOrigin()


def test_a_copy_of_a_result_keeps_its_files(user, slicer, pair):
    user.choose(*pair)
    transform = user.register()
    copy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Copy")
    copy.Copy(transform)
    result = Path(copy.GetAttribute("INRRegistration.Result"))
    user.register()
    assert result.is_dir()
    assert Path(transform.GetAttribute("INRRegistration.Result")) != result
    slicer.mrmlScene.RemoveNode(copy)


def test_what_came_of_it_stays_until_something_is_changed(user, pair):
    user.choose(*pair)
    user.register()
    for _ in range(2):
        assert "Done in" in user.ui.statusLabel.text
        assert "with care" in user.ui.errorLabel.text
        assert user.ui.errorLabel.visible
        user.widget.enter()
    user.ui.seedSpinBox.setValue(3)
    assert user.ui.statusLabel.text == ""
    assert not user.ui.errorLabel.visible


def test_no_segment_is_not_all_segments(user, slicer, pair):
    from test_geometry import make_segmentation

    user.choose(*pair)
    segmentation = make_segmentation(slicer, pair[0], {"Liver": (10, 12, 13), "Spleen": (24, 15, 16)})
    user.ui.moreSection.collapsed = False
    user.ui.fixedMaskSelector.setCurrentNode(segmentation)
    assert user.ui.applyButton.enabled
    button = user.ui.fixedSegmentsButton
    for action in button.menu().actions():
        action.setChecked(False)
    assert button.text == "0 of 2 segments"
    assert not user.ui.applyButton.enabled
    assert "No segment of the fixed mask" in user.ui.statusLabel.text
    button.menu().actions()[1].setChecked(True)
    assert button.text == "1 of 2 segments"
    assert user.ui.applyButton.enabled
    button.menu().actions()[0].setChecked(True)
    assert button.text == "All segments"


def test_regions_that_slide_stay_rigid_or_are_left_out_reach_the_engine(user, slicer, pair, monkeypatch):
    from test_geometry import make_segmentation

    from inrreg.protocol import read_json
    from INRRegistrationLib import run

    seen, tidy = {}, run.remove_files

    def look(folder):
        job = read_json(folder / "job.json")
        seen.update({name: SimpleITK.ReadImage(str(folder / job[name])) for name in REGIONS if job[name]})
        tidy(folder)

    monkeypatch.setattr(run, "remove_files", look)
    user.choose(*pair)
    assert user.ui.moreSection.collapsed
    blocks = {"Left": (8, 12, 8), "Right": (28, 12, 8), "Rib": (18, 20, 16)}
    segmentation = make_segmentation(slicer, pair[0], blocks)
    user.ui.moreSection.collapsed = False
    selectors = [getattr(user.ui, f"{name}Selector") for name in REGIONS]
    buttons = [getattr(user.ui, f"{name}SegmentsButton") for name in REGIONS]
    assert not any(button.isVisibleTo(user.ui.moreSection) for button in buttons)
    for selector in selectors:
        selector.setCurrentNode(segmentation)
    chosen = ((0, 1), (1, 2), (2,))
    for button, wanted in zip(buttons, chosen, strict=True):
        for number, action in enumerate(button.menu().actions()):
            action.setChecked(number in wanted)
    assert [button.text for button in buttons] == [f"{len(wanted)} of 3 segments" for wanted in chosen]
    slicer.app.processEvents()
    user.screenshot("regions")
    user.register()
    expected = {
        "sliding": {"Left": 1, "Right": 1},
        "rigid": {"Right": 1, "Rib": 2},  # each on its own
        "exclude": {"Rib": 1},
    }
    grid = image_of(slicer, pair[0])
    for name, values in expected.items():
        on_fixed = SimpleITK.Resample(seen[name], grid, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)
        assert {title: on_fixed[index] for title, index in blocks.items() if on_fixed[index]} == values
    # They live in the scene: a panel made anew shows them, and what is removed is forgotten.
    slicer.util.reloadScriptedModule("INRRegistration")
    assert user.ui.rigidSelector.currentNode() is segmentation
    assert user.ui.rigidSegmentsButton.text == "2 of 3 segments"
    for action in user.ui.excludeSegmentsButton.menu().actions():
        action.setChecked(False)
    assert "No segment of the region that is left out" in user.ui.statusLabel.text
    slicer.mrmlScene.RemoveNode(segmentation)
    assert user.ui.slidingSelector.currentNode() is None
    assert user.ui.applyButton.enabled
    seen.clear()
    user.register()
    assert not seen


def test_a_device_that_is_not_there_is_named(user, pair):
    user.choose(*pair)
    user.process.devices = []  # nobody has asked yet
    user.panel.parameters.device = "cuda:7"
    assert user.ui.deviceSelector.currentText == "cuda:7"
    user.register()
    assert user.ui.deviceSelector.currentText == "cuda:7 (not present)"
    assert user.panel.parameters.device == "cuda:7"


def test_reload_leaves_no_connection_behind(user, slicer, pair, monkeypatch):
    from INRRegistrationLib.logic import Registrations

    quits = []
    monkeypatch.setattr(Registrations, "quit", lambda self, *_: quits.append(self))
    user.choose(*pair)
    user.register()
    slicer.app.aboutToQuit.emit()
    assert len(quits) == 1
    slicer.util.reloadScriptedModule("INRRegistration")
    slicer.app.aboutToQuit.emit()
    assert len(quits) == 1
    user.panel.registrations.new_folder()
    slicer.app.aboutToQuit.emit()
    assert len(quits) == 2


def test_a_model_is_unpacked_only_to_be_used(user, slicer, pair):
    """A scene opened elsewhere: that the panel asks what can be done costs no disk, and no time."""
    from INRRegistrationLib import results

    user.choose(*pair)
    transform = user.register()
    parts = results.parts_of(transform)
    gone = Path(transform.GetAttribute(results.RESULT))
    shutil.rmtree(gone.parent)
    user.panel.enter()
    sections = {section.file: section.ui for section in user.panel.sections}
    assert sections["Evaluation.ui"].evaluateButton.enabled
    assert sections["Transforms.ui"].exportButton.enabled
    assert results.parts_of(transform) == parts
    assert transform.GetAttribute(results.RESULT) == str(gone)
    assert not gone.exists()
    assert (results.folder_of(transform) / "model.json").is_file()
    assert transform.GetAttribute(results.RESULT) != str(gone)
