"""The panel with the real worker and engine: a small generated pair always, the evaluation data where present."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from conftest import DATA, snapshot
from host import application

QUICK = {"steps": "30, 20, 10", "width": 64}
LIVER = DATA / "liver" / "subject18"


@pytest.fixture
def liver(slicer):
    if not LIVER.is_dir():
        pytest.skip(f"evaluation data not found: {LIVER}")
    return [application.load_volume(LIVER / f"{name}.nrrd") for name in ("fixed", "moving_a")]


def landmark_error(transform):
    """Mean distance in mm between fixed landmarks mapped by a transform, None for none, and moving ones."""
    points = []
    for name in ("fixed", "moving_a"):
        with (LIVER / f"{name}_landmarks.csv").open() as file:
            rows = csv.DictReader(file)
            # Files are LPS, Slicer is RAS.
            points.append(np.array([[-float(row["x"]), -float(row["y"]), float(row["z"])] for row in rows]))
    if transform is not None:
        points[0] = np.array([transform.GetTransformFromParent().TransformPoint(point) for point in points[0]])
    return np.linalg.norm(points[0] - points[1], axis=1).mean()


def test_a_generated_pair(real_user, slicer):
    from INRRegistration import INRRegistrationLogic
    from INRRegistrationLib import selftest

    selftest.check_registration(INRRegistrationLogic())


def test_real_images(real_user, slicer, liver):
    user, (fixed, moving) = real_user, liver
    user.window.show_volumes(fixed, moving)
    user.choose(fixed, moving, "fast", **QUICK)
    user.ui.threadsSpinBox.setValue(1)
    user.screenshot("ready")
    cold = time_to_first_progress(user)
    user.wait(lambda: user.ui.progressBar.value > 300, timeout=60)
    seen = user.ui.progressBar.value
    user.wait(lambda: user.ui.progressBar.value > seen, timeout=60)
    user.screenshot("running")
    user.wait_for_end(timeout=120)
    assert not user.error, user.error
    first = user.ui.transformSelector.currentNode()
    user.screenshot("done")
    assert moving.GetParentTransformNode() is first
    before, after = landmark_error(None), landmark_error(first)
    check_volume(user, slicer, LIVER / "fixed.nrrd", LIVER / "moving_a.nrrd")

    # Again, warm, on what is now under a transform: the same again, not registered upon.
    # Drawing the views is Slicer's own work; what is measured is ours.
    user.window.show_volumes(None)
    user.gaps.start()
    warm = time_to_first_progress(user)
    user.wait_for_end(timeout=120)
    gap = user.gaps.stop()
    second = user.ui.transformSelector.currentNode()
    assert second is first
    assert first.GetParentTransformNode() is None
    again = landmark_error(second)
    print(
        f"\nclick to first progress: cold {cold:.2f} s, warm {warm:.2f} s; "
        f"longest stop of the event loop {gap:.1f} ms (by the clock {user.gaps.wall:.1f} ms); "
        f"landmarks {before:.1f} mm before, {after:.2f} mm after, {again:.2f} mm after registering again"
    )
    assert after < before / 2
    assert abs(again - after) < 0.5
    assert gap < 50
    assert cold < 8


def time_to_first_progress(user):
    steps = []
    start = time.perf_counter()
    user.click()
    user.panel.run.progress.connect(lambda data: steps.append(time.perf_counter() - start))
    user.wait(lambda: steps, timeout=60)
    return steps[0]


def check_volume(user, slicer, fixed, moving):
    """The output volume is what SimpleITK makes of the files and displacement.nrrd."""
    result = Path(user.ui.transformSelector.currentNode().GetAttribute("INRRegistration.Result"))
    field = SimpleITK.ReadImage(str(result / "displacement.nrrd"), SimpleITK.sitkVectorFloat64)
    expected = SimpleITK.Resample(
        SimpleITK.ReadImage(str(moving)),
        SimpleITK.ReadImage(str(fixed)),
        SimpleITK.DisplacementFieldTransform(field),
        SimpleITK.sitkLinear,
        0,
    )
    voxels = slicer.util.arrayFromVolume(user.ui.volumeSelector.currentNode())
    np.testing.assert_array_equal(voxels, SimpleITK.GetArrayFromImage(expected))


def test_moving_under_a_transform(real_user, slicer, liver):
    """moving -> P -> T: landmarks pass through both, and P stays as it was."""
    user, (fixed, moving) = real_user, liver
    p = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "P")
    turned = np.array([[0.996, -0.087, 0, 4], [0.087, 0.996, 0, -6], [0, 0, 1, 3], [0, 0, 0, 1.0]])
    turned[:3, :3] = np.linalg.qr(turned[:3, :3])[0] @ np.diag([-1, -1, 1])
    if np.linalg.det(turned[:3, :3]) < 0 or turned[0, 0] < 0:
        turned[:3, :3] *= np.sign(np.diag(turned[:3, :3]))
    p.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(turned))
    moving.SetAndObserveTransformNodeID(p.GetID())
    user.choose(fixed, moving, "fast", **QUICK)
    transform = user.register(timeout=120)
    assert moving.GetParentTransformNode() is p
    assert p.GetParentTransformNode() is transform
    np.testing.assert_allclose(slicer.util.arrayFromTransformMatrix(p), turned)
    whole = slicer.vtkMRMLTransformNode()
    back = slicer.vtkMRMLTransformNode.GetTransformBetweenNodes
    import vtk

    general = vtk.vtkGeneralTransform()
    back(None, p, general)
    whole.SetAndObserveTransformFromParent(general)
    assert landmark_error(whole) < landmark_error(None) / 2


def test_cancel_within_a_second(real_user, slicer, liver):
    user, (fixed, moving) = real_user, liver
    user.choose(fixed, moving, "fast")
    before = snapshot(slicer)
    worst = 0.0
    for share in (0, 100, 600):
        user.click()
        user.wait(lambda share=share: user.ui.progressBar.maximum and user.ui.progressBar.value > share, timeout=60)
        start = time.perf_counter()
        user.click()
        user.wait_for_end()
        worst = max(worst, time.perf_counter() - start)
        assert "Cancelled" in user.ui.statusLabel.text
        assert snapshot(slicer) == before
    print(f"\ncancel answered after at most {worst:.2f} s")
    assert worst < 1
