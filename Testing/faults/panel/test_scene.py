"""The scene changes under a registration, or what it writes to is not what it was."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from inrreg.protocol import UserError


@pytest.fixture
def slow_loading(user, monkeypatch):
    """Long enough to do something between the result and the scene."""
    from INRRegistrationLib.run import Run

    read = Run._read
    monkeypatch.setattr(Run, "_read", lambda *given: (time.sleep(0.3), read(*given))[1])


def reach(user, stage):
    """Click, and wait until the registration is at that stage."""
    user.click()
    if stage == "step":
        user.wait(lambda: user.ui.progressBar.value > 0)
    else:
        user.wait(lambda: user.panel.run.state == stage)


@pytest.mark.parametrize("stage", ["writing", "step", "loading"])
def test_the_scene_is_closed(user, slicer, pair, left, slow_loading, stage):
    user.choose(*pair, steps=3 if stage == "loading" else 10_000)
    reach(user, stage)
    slicer.mrmlScene.Clear(0)
    user.wait_for_end()
    assert not user.error
    left.check_jobs()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLGridTransformNode") == 0


@pytest.mark.parametrize("stage", ["writing", "step", "loading"])
def test_cancelled(user, pair, left, slow_loading, stage):
    user.choose(*pair, steps=3 if stage == "loading" else 10_000)
    left.remember()
    reach(user, stage)
    user.click()
    user.wait_for_end()
    assert "Cancelled" in user.ui.statusLabel.text
    left.check_nothing_happened()


@pytest.mark.parametrize("stage", ["writing", "loading"])
def test_a_volume_is_deleted(user, slicer, pair, left, slow_loading, stage):
    user.choose(*pair, steps=3)
    reach(user, stage)
    slicer.mrmlScene.RemoveNode(pair[1])
    left.remember()
    user.wait_for_end()
    assert "was deleted while it was registered" in user.error
    left.check_nothing_happened()


def test_a_volume_is_renamed(user, pair):
    user.choose(*pair, steps=30)
    reach(user, "step")
    pair[1].SetName("Another name")
    user.wait_for_end()
    assert not user.error
    assert "Another name is under the transform Another name to Fixed" in user.ui.statusLabel.text


@pytest.mark.parametrize("way", ["edited", "replaced"])
@pytest.mark.parametrize("which", [0, 1])
def test_voxels_change(user, slicer, pair, which, way):
    import vtk

    user.choose(*pair, steps=30)
    reach(user, "step")
    if way == "edited":
        slicer.util.arrayFromVolume(pair[which])[:] = 0
        slicer.util.arrayFromVolumeModified(pair[which])
    else:
        image = vtk.vtkImageData()
        image.DeepCopy(pair[which].GetImageData())
        pair[which].SetAndObserveImageData(image)
    user.wait_for_end()
    assert not user.error
    assert f"{pair[which].GetName()}&#x27; was changed while it was registered" in user.ui.errorLabel.text
    assert pair[1].GetParentTransformNode() is not None
    user.register()
    assert "was changed" not in user.ui.errorLabel.text


def test_a_mask_is_edited(user, slicer, pair):
    from Testing.module.test_geometry import make_segmentation

    segmentation = make_segmentation(slicer, pair[0], {"Liver": (10, 12, 13)})
    user.choose(*pair, steps=30)
    user.ui.fixedMaskSelector.setCurrentNode(segmentation)
    user.register()
    assert "was changed" not in user.ui.errorLabel.text
    reach(user, "step")
    name = segmentation.GetSegmentation().GetNthSegmentID(0)
    voxels = slicer.util.arrayFromSegmentInternalBinaryLabelmap(segmentation, name)
    voxels[:] = 1
    segmentation.GetSegmentation().GetSegment(name).GetRepresentation(
        "Binary labelmap"
    ).GetPointData().GetScalars().Modified()
    user.wait_for_end()
    assert "was changed while it was registered" in user.ui.errorLabel.text


@pytest.mark.parametrize("way", ["transform", "origin"])
def test_a_volume_is_moved(user, slicer, pair, left, way):
    user.choose(*pair, steps=30)
    reach(user, "step")
    if way == "transform":
        above = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "P")
        above.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.eye(4) + 20 * np.eye(4, k=3)))
        pair[1].SetAndObserveTransformNodeID(above.GetID())
    else:
        pair[0].SetOrigin(0, 0, 0)
    left.remember()
    user.wait_for_end()
    assert "was moved while it was registered" in user.error
    left.check_nothing_happened()


def test_two_jobs_at_once(user, slicer, pair):
    """A script's while the panel's runs, and the other way round."""
    from INRRegistration import INRRegistrationLogic

    user.choose(*pair, steps=10_000)
    reach(user, "step")
    with pytest.raises(UserError, match="already running"):
        INRRegistrationLogic().register(*pair, preset="fake")
    user.click()
    user.wait_for_end()
    run = INRRegistrationLogic().register(*pair, preset="fake", wait=False)
    user.click()
    assert "already running" in user.error
    user.wait(lambda: not run.active)
    assert run.state == "done"
    user.set_setting("steps", 3)
    user.register()


@pytest.mark.parametrize("which", ["transformSelector", "volumeSelector"])
def test_an_output_is_deleted(user, slicer, pair, which):
    user.choose(*pair, steps=5)
    user.register()
    user.set_setting("steps", 30)
    reach(user, "step")
    slicer.mrmlScene.RemoveNode(getattr(user.ui, which).currentNode())
    user.wait_for_end()
    assert not user.error
    assert getattr(user.ui, which).currentNode() is not None


def test_outputs_under_a_transform(user, slicer, pair):
    """They go where the result belongs; the transform above them stays what it was."""
    user.choose(*pair, steps=5)
    transform = user.register()
    volume, point = user.ui.volumeSelector.currentNode(), transform.GetTransformFromParent().TransformPoint(0, 0, 50)
    voxels = slicer.util.arrayFromVolume(volume).copy()
    above = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Above")
    above.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.eye(4) + 20 * np.eye(4, k=3)))
    pair[1].SetAndObserveTransformNodeID(None)
    for node in (transform, volume):
        node.SetAndObserveTransformNodeID(above.GetID())
    assert user.register() is transform
    assert transform.GetParentTransformNode() is None
    assert volume.GetParentTransformNode() is None
    assert pair[1].GetParentTransformNode() is transform
    assert transform.GetTransformFromParent().TransformPoint(0, 0, 50) == pytest.approx(point)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(volume), voxels)


def test_reload_while_the_result_is_loaded(own_modules, user, slicer, pair, left, slow_loading):
    user.choose(*pair, steps=3)
    reach(user, "loading")
    worker = user.process.process_id
    slicer.util.reloadScriptedModule("INRRegistration")
    user.wait(lambda: not Path(f"/proc/{worker}").exists(), timeout=3)
    time.sleep(0.4)
    slicer.app.processEvents()
    left.check_jobs()
    assert pair[1].GetParentTransformNode() is None
    assert user.ui.applyButton.text == "Register"
