"""Ways to look at a result: each shows what it says, and the views are afterwards as they were."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import snapshot
from standin import canvas

MODES = ("blend", "flicker", "checkerboard", "difference", "grid", "jacobian", "play")


@pytest.fixture
def views(user, slicer, pair):
    user.choose(*pair, steps=2)
    user.register()
    user.window.show_volumes(pair[0], None)
    user.slicer.app.processEvents()
    return user.panel.sections[1]


def click(user, views, mode):
    getattr(views.ui, f"{mode}Button").click()
    user.wait(lambda: views.views._task is None)
    user.slicer.app.processEvents()


def red(slicer):
    """The composite node of the red view."""
    return slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()


def test_there_is_nothing_to_look_at_before_a_result(user, pair):
    user.choose(*pair)
    assert not user.panel.sections[1].ui.viewsSection.visible


def test_every_way_and_back(user, slicer, views, pair):
    before = snapshot(slicer)
    transform = user.ui.transformSelector.currentNode().GetTransformFromParent()
    for mode in MODES:
        click(user, views, mode)
        assert [name for name in MODES if getattr(views.ui, f"{name}Button").checked] == [mode]
        for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            assert node.GetBackgroundVolumeID() in (pair[0].GetID(), pair[1].GetID())
            assert node.GetForegroundVolumeID() not in (None, "", node.GetBackgroundVolumeID())
            assert node.GetLinkedControl()
        if canvas.opengl():
            user.screenshot(f"views-{mode}")
        if mode in ("flicker", "play"):
            scales = set()
            user.wait(lambda scales=scales: scales.add(transform.GetDisplacementScale()) or len(scales) > 1)
        getattr(views.ui, f"{mode}Button").click()
        assert snapshot(slicer) == before, mode
    assert transform.GetDisplacementScale() == 1


def test_one_way_after_another_and_back_at_once(user, slicer, views):
    before = snapshot(slicer)
    for mode in MODES:
        click(user, views, mode)
    views.ui.checkerboardButton.click()
    # Before its volume is there.
    views.ui.restoreButton.click()
    assert snapshot(slicer) == before


def test_empty_views_are_empty_afterwards(user, slicer, views):
    user.window.show_volumes(None)
    before = snapshot(slicer)
    node = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    field = node.GetFieldOfView()
    click(user, views, "blend")
    assert node.GetFieldOfView() != field
    views.ui.restoreButton.click()
    assert node.GetFieldOfView() == pytest.approx(field)
    assert snapshot(slicer) == before


def test_registering_again_and_removing_leave_no_trace(user, slicer, views, pair):
    click(user, views, "jacobian")
    user.register()
    assert red(slicer).GetForegroundVolumeID() is None
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLColorLegendDisplayNode") == 0
    click(user, views, "checkerboard")
    slicer.mrmlScene.RemoveNode(pair[1])
    assert not slicer.util.getNodes("Checkerboard")
    assert not views.ui.viewsSection.visible


def test_closing_the_scene_while_it_plays(user, slicer, views):
    click(user, views, "play")
    slicer.mrmlScene.Clear(0)
    user.wait(lambda: views.views.mode == "")


def test_the_determinant_of_a_known_map():
    from INRRegistrationLib import looks

    rng = np.random.default_rng(1)
    matrix, stretch = np.eye(4), np.array([[1.2, 0.1, 0], [0, 0.9, 0.05], [0.1, 0, 1.1]])
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix[:3, :3] = turn * [2.0, 3.0, 4.0]
    matrix[:3, 3] = [5, -6, 7]
    k, j, i = np.indices((5, 6, 7))
    points = np.stack([i, j, k], -1) @ matrix[:3, :3].T + matrix[:3, 3]
    field = (points @ (stretch - np.eye(3)).T).astype(np.float32)
    np.testing.assert_allclose(looks.log_determinant(field, matrix), np.log2(np.linalg.det(stretch)), atol=1e-4)
    folded = (points @ np.diag([-2.0, 0, 0])).astype(np.float32)
    assert (looks.log_determinant(folded, matrix) == looks.FOLDED).all()


def test_a_checkerboard_keeps_every_other_square():
    from INRRegistrationLib import looks

    image = np.full((16, 32, 32), 7, np.uint8)
    board, threshold = looks.checkerboard(image, np.array([1.0, 1.0, 2.0]))
    kept = board > threshold
    assert 0.4 < kept.mean() < 0.6
    assert (board[kept] == 7).all()
    assert kept[0, 0, 4] != kept[0, 0, 3] == kept[0, 0, 0]
