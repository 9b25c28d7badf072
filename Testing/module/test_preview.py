"""What the user sees of a registration while it runs, and that it leaves no trace where nothing came of it."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import snapshot


def shift(moving):
    """How far the middle of the moving volume lies from where it was, in mm."""
    transform = moving.GetParentTransformNode()
    if transform is None:
        return 0.0
    bounds = [0.0] * 6
    moving.GetRASBounds(bounds)
    centre = np.array([(low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2], strict=True)])
    return float(np.linalg.norm(transform.GetTransformFromParent().TransformPoint(centre) - centre))


@pytest.mark.parametrize("again", [False, True], ids=["a new transform", "over an earlier result"])
@pytest.mark.parametrize("way", ["cancel", "failure", "off"])
def test_the_moving_volume_follows_and_goes_back(user, slicer, pair, again, way):
    user.choose(*pair, steps=5)
    for on in (False, True):  # the scene's parameters say so from now on
        user.ui.previewCheckBox.setChecked(on)
    if again:
        user.register()
    user.set_setting("steps", 5000)
    before = snapshot(slicer)
    user.click()
    seen = []
    user.wait(lambda: seen.append(shift(pair[1])) or len({value for value in seen if 0 < value < 3}) > 2)
    if way == "failure":
        user.process._process.kill()
        user.wait_for_end()
        assert "ended unexpectedly" in user.error
    elif way == "cancel":
        user.click()
        user.wait_for_end()
    else:
        user.ui.previewCheckBox.setChecked(False)
        user.wait(lambda: user.ui.progressBar.value > 0)
        assert shift(pair[1]) in (0.0, seen[0])
        user.ui.previewCheckBox.setChecked(True)
        user.panel.run.abort()
        user.wait_for_end()
    assert snapshot(slicer) == before


def test_the_result_takes_the_place_of_the_preview(user, slicer, pair):
    user.choose(*pair, steps=40)
    user.click()
    user.wait(lambda: shift(pair[1]) > 0)
    node = pair[1].GetParentTransformNode()
    user.wait_for_end()
    assert pair[1].GetParentTransformNode() is node is user.ui.transformSelector.currentNode()
    assert shift(pair[1]) > 7
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLGridTransformNode") == 1


def test_where_the_user_puts_the_volume_meanwhile_it_stays(user, slicer, pair):
    user.choose(*pair, steps=5000)
    user.click()
    user.wait(lambda: shift(pair[1]) > 0)
    pair[1].SetAndObserveTransformNodeID(None)
    own = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Mine")
    pair[1].SetAndObserveTransformNodeID(own.GetID())
    user.click()
    user.wait_for_end()
    assert pair[1].GetParentTransformNode() is own


def test_what_the_user_removes_meanwhile_does_not_come_back(user, slicer, pair):
    user.choose(*pair, steps=60)
    user.click()
    user.wait(lambda: shift(pair[1]) > 0)
    slicer.mrmlScene.RemoveNode(pair[1].GetParentTransformNode())
    user.wait_for_end()
    assert not user.error
    assert shift(pair[1]) > 7
