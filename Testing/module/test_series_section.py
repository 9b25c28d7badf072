"""The section Series: a sequence registered by the real worker and played by Slicer's own sequence logic."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from conftest import snapshot

SETTINGS = {"steps": [12, 10], "image_spacing": [8.0, 6.0], "node_spacing": [16.0, 12.0], "width": 32, "rank": 32}
VALUES = ("0", "30", "60")


def make_sequence(slicer, bumps=(4.0, 0.0, 8.0)):
    """A sequence of small volumes, each displaced by a bump of that many mm, and the volume that shows it."""
    from INRRegistrationLib import results

    rng = np.random.default_rng(1)
    waves, phases = rng.normal(0, 2 * np.pi / 50, (30, 3)), rng.uniform(0, 2 * np.pi, 30)
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "4D CT")
    sequence.SetIndexName("phase")
    sequence.SetIndexUnit("%")
    for bump, value in zip(bumps, VALUES, strict=True):
        k, j, i = np.meshgrid(*[4.0 * np.arange(n) for n in (16, 18, 20)], indexing="ij")
        i = i + bump * np.exp(-((i - 38) ** 2 + (j - 34) ** 2 + (k - 30) ** 2) / 500)
        texture = sum(np.cos(a * i + b * j + c * k + phase) for (a, b, c), phase in zip(waves, phases, strict=True))
        item = slicer.vtkMRMLScalarVolumeNode()
        matrix = np.diag([4.0, 4.0, 4.0, 1.0])
        matrix[:3, 3] = (-50, -40, 20)
        results.fill_volume(item, np.clip(400 + 60 * texture, 0, 1000).astype(np.int16), matrix)
        sequence.SetDataNodeAtValue(item, value)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    shown = browser.GetProxyNode(sequence)
    shown.CreateDefaultDisplayNodes()
    return sequence, shown


@pytest.fixture
def section(real_user):
    real_user.panel.parameters.overrides = {"fast": SETTINGS}
    real_user.panel.parameters.threads = 1
    return real_user.panel.sections[-1]


def start(user, section, sequence, landmarks=None, reference=1):
    section.ui.seriesSection.collapsed = False
    section.ui.sequenceSelector.setCurrentNode(sequence)
    section.ui.seriesLandmarksSelector.setCurrentNode(landmarks)
    section.ui.referenceSelector.setCurrentIndex(reference)
    assert section.ui.registerSeriesButton.enabled, section.ui.registerSeriesButton.toolTip
    section.ui.registerSeriesButton.click()


def test_a_sequence_is_registered_and_plays_with_its_images(slicer, real_user, section):
    sequence, shown = make_sequence(slicer)
    real_user.window.show_volumes(shown)
    above = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "above")
    above.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([1.0, 1.0, 1.0, 1.0]) + np.eye(4, k=3) * 5))
    shown.SetAndObserveTransformNodeID(above.GetID())
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "points")
    for name, place in (("a", (0, -10, 45)), ("b", (-10, -5, 50))):  # under what moves the volumes by 5 mm
        points.AddControlPoint(*place, name)
    start(real_user, section, sequence, points)
    real_user.wait_for_end(300)
    assert not real_user.error, real_user.error
    browser = slicer.modules.sequences.browser
    transform = shown.GetParentTransformNode()
    assert transform.GetParentTransformNode() is above
    assert browser.GetProxyNode(sequence) is shown
    assert browser.GetNumberOfItems() == 3
    seen = []
    for number in range(3):
        section.ui.itemSlider.setValue(number)
        real_user.slicer.app.processEvents()
        assert browser.GetSelectedItemNumber() == number
        seen.append(transform.GetTransformFromParent().TransformPoint(-12, -6, 50)[0] + 12)
    assert seen[1] == 0
    assert seen[0] < 0 or seen[2] < 0  # both bumps draw to one side, the larger one farther
    assert abs(seen[2]) > abs(seen[0]) > 0.3
    assert section.ui.itemLabel.text == "phase 60 % (3 of 3)"
    table = slicer.util.getNode("4D CT trajectories (RAS, mm)").GetTable()
    rows = [[table.GetValue(row, column) for column in range(5)] for row in range(table.GetNumberOfRows())]
    assert [(row[0].ToString(), row[1].ToString()) for row in rows[:3]] == [("a", "0"), ("a", "30"), ("a", "60")]
    np.testing.assert_allclose([value.ToDouble() for value in rows[1][2:]], (-5, -10, 45), atol=1e-4)
    curve = slicer.util.getNode("a, trajectory")
    assert curve.GetParentTransformNode() is above
    assert curve.GetNumberOfControlPoints() == 3
    real_user.screenshot("series")
    # Registering again replaces what there is.
    start(real_user, section, sequence, reference=0)
    real_user.wait_for_end(300)
    assert shown.GetParentTransformNode() is transform
    assert len(slicer.util.getNodesByClass("vtkMRMLSequenceNode")) == 2
    browser.SetSelectedItemNumber(0)
    assert transform.GetTransformFromParent().TransformPoint(-12, -6, 50)[0] == -12


def test_transforms_that_play_do_so_in_a_scene_that_is_opened_again(slicer, user, tmp_path):
    from INRRegistrationLib import hierarchy, results, sequences

    images, shown = make_sequence(slicer)
    with contextlib.ExitStack() as undo:
        made = sequences.new("transforms", "phase", "%", undo)
        for height, value in zip((0.0, 6.0, 12.0), VALUES, strict=True):
            sequences.append(
                made, value, (np.full((4, 4, 4, 3), (0, 0, height), np.float32), np.diag([40.0, 40, 40, 1]))
            )
        transform = results.show_transform(
            results.grid_transform(*sequences.IDENTITY), None, None, shown, {}, undo, "to the reference"
        )
        shown.SetAndObserveTransformNodeID(transform.GetID())
        sequences.show(sequences.browser_of(images, undo), made, transform, undo)
        undo.pop_all()
    bundle = tmp_path / "scene.mrb"
    assert slicer.mrmlScene.WriteToMRB(str(bundle))
    for node in (images, shown, made, transform):
        assert node.GetStorageNode() is not None, node.GetName()
    slicer.mrmlScene.Clear(0)
    assert slicer.mrmlScene.ReadFromMRB(str(bundle), True)
    images, made = (slicer.mrmlScene.GetFirstNodeByName(name) for name in ("4D CT", "transforms"))
    browser = slicer.modules.sequences.logic().GetFirstBrowserNodeForSequenceNode(made)
    shown, transform = (browser.GetProxyNode(sequence) for sequence in (images, made))
    assert shown.GetParentTransformNode() is transform
    heights = []
    for number in range(3):
        browser.SetSelectedItemNumber(number)
        assert browser.GetProxyNode(made) is transform
        heights.append(transform.GetTransformFromParent().TransformPoint(50, 50, 50)[2])
    assert heights == [50, 56, 62]
    # Registering again finds it, and replaces it.
    assert hierarchy.is_earlier_output(transform, shown)
    assert transform.GetNodeReference(sequences.SEQUENCE) is made


def test_a_cancelled_series_leaves_the_scene_as_it_was(slicer, real_user, section):
    sequence, _shown = make_sequence(slicer)
    real_user.panel.parameters.overrides = {"fast": {**SETTINGS, "steps": [2000, 2000], "tolerance": 0.0}}
    section.ui.sequenceSelector.setCurrentNode(sequence)
    before = snapshot(slicer)
    section.ui.registerSeriesButton.click()
    real_user.wait(lambda: "phase 1 of 2" in real_user.ui.statusLabel.text.lower(), 120)
    real_user.click()
    real_user.wait_for_end(60)
    assert "Cancelled" in real_user.ui.statusLabel.text
    assert snapshot(slicer) == before


def test_what_is_no_sequence_of_volumes_is_told(slicer, real_user, section):
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "transforms")
    section.ui.sequenceSelector.setCurrentNode(sequence)
    assert not section.ui.registerSeriesButton.enabled
    assert "fewer than two items" in section.ui.seriesLabel.text
    for value in VALUES:
        sequence.SetDataNodeAtValue(slicer.vtkMRMLLinearTransformNode(), value)
    section.show()
    assert "no sequence of volumes" in section.ui.seriesLabel.text


def test_the_course_of_a_result_plays_and_is_put_away(slicer, user, pair, tmp_path):
    from INRRegistrationLib import nrrd, results

    fixed, moving = pair
    user.choose(fixed, moving)
    transform = user.register()
    section = user.panel.sections[-1]
    assert not section.ui.courseButton.enabled
    folder = results.folder_of(transform)
    entries = []
    for number, time in enumerate((0.0, 0.5, 1.0)):
        vectors = np.full((4, 4, 4, 3), (0, 0, 6 * time), np.float32)
        nrrd.write(folder / f"time_{number:02}.nrrd", vectors, np.diag([40.0, 40, 40, 1]))
        entries.append({"time": time, "file": f"time_{number:02}.nrrd"})
    (folder / "time.json").write_text(json.dumps({"version": 1, "fields": entries}))
    before = snapshot(slicer)
    section.show()
    section.ui.courseButton.click()
    user.wait(lambda: section.course.browser is not None)
    browser = slicer.modules.sequences.browser
    assert browser is section.course.browser
    heights = []
    for number in (2, 1, 0):
        section.ui.itemSlider.setValue(number)
        heights.append(moving.GetParentTransformNode().GetTransformFromParent().TransformPoint(50, 50, 50)[2])
    assert heights == [56, 53, 50]
    assert section.ui.itemLabel.text == "time 0 (1 of 3)"
    section.ui.courseButton.click()
    assert moving.GetParentTransformNode() is transform
    assert snapshot(slicer) == before
    # Whatever else is done puts it away, too.
    section.ui.courseButton.click()
    user.wait(lambda: section.course.browser is not None)
    user.register()
    assert section.course.browser is None
    assert moving.GetParentTransformNode() is transform
