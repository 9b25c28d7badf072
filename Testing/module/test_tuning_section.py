"""Tuning a conditioned result: the slider, the exact field, what is kept, the chart, and the scene opened again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import vtk

BUMP = np.array([-6.0, 4.0, 3.0])
"""The fake's displacement in the middle, RAS."""


def middle(transform):
    """The displacement in the middle of the fixed volume."""
    fixed = transform.GetNodeReference("INRRegistration.Fixed")
    bounds = [0.0] * 6
    fixed.GetRASBounds(bounds)
    centre = np.array([(low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2], strict=True)])
    return transform.GetTransformFromParent().TransformPoint(centre) - centre


def section(user):
    return user.panel.sections[0]


@pytest.fixture
def tuned(user, slicer, pair):
    user.choose(*pair, "fake-alpha", steps=2)
    transform = user.register()
    user.wait(lambda: section(user).tuner.fields is not None)
    return transform


def factor(alpha):
    return 2 * (1 - alpha) ** 2


def test_only_a_conditioned_result_is_tuned(user, pair):
    user.choose(*pair, steps=2)
    user.register()
    assert not section(user).ui.tuningSection.visible
    user.choose(*pair, "fake-alpha", steps=2)
    user.register()
    user.wait(lambda: section(user).ui.tuningSection.visible)
    user.choose(*pair, steps=2)
    user.register()
    assert not section(user).ui.tuningSection.visible


def test_the_slider_moves_at_once_and_the_exact_field_follows(user, tuned):
    ui, tuner = section(user).ui, section(user).tuner
    unit = middle(tuned) / factor(0.3)
    assert (ui.alphaSpinBox.value, ui.alphaSlider.value) == (0.3, 300)
    assert "landmark error 1.50 mm" in ui.figuresLabel.text
    ui.alphaSlider.setValue(650)
    # Between 0.6 and 0.7 it is interpolated, linearly.
    np.testing.assert_allclose(middle(tuned), unit * (factor(0.6) + factor(0.7)) / 2, atol=1e-3)
    assert not tuner.exact
    assert not ui.pinButton.enabled
    assert "landmark error 4" in ui.figuresLabel.text
    user.wait(lambda: tuner.exact)
    np.testing.assert_allclose(middle(tuned), unit * factor(0.65), atol=1e-3)
    assert tuned.GetAttribute("INRRegistration.Alpha") == "0.65"
    assert ui.pinButton.enabled
    ui.autoButton.click()
    user.wait(lambda: tuner.exact)
    np.testing.assert_allclose(middle(tuned), unit * factor(0.3), atol=1e-3)


def test_the_resampled_volume_follows(user, slicer, tuned):
    """At rest it is what the slices show of the moving volume; until then it is said to be another alpha's."""
    ui, tuner = section(user).ui, section(user).tuner
    volume = user.ui.volumeSelector.currentNode()
    assert volume.GetAttribute("INRRegistration.Alpha") == "0.3"
    before = slicer.util.arrayFromVolume(volume).copy()
    ui.alphaSlider.setValue(0)
    assert "is still that of alpha 0.3" in ui.figuresLabel.text
    user.wait(lambda: tuner.exact and "is still" not in ui.figuresLabel.text)
    after = slicer.util.arrayFromVolume(volume)
    assert (volume.GetAttribute("INRRegistration.Alpha"), after.dtype) == ("0.0", before.dtype)
    moving = tuned.GetNodeReference("INRRegistration.Moving")
    source, shown = slicer.util.arrayFromVolume(moving), tuned.GetTransformFromParent()
    to_ras, to_ijk = (vtk.vtkMatrix4x4() for _ in range(2))
    volume.GetIJKToRASMatrix(to_ras)
    moving.GetRASToIJKMatrix(to_ijk)
    image = SimpleITK.GetImageFromArray(source.astype(float))
    for k, j, i in ((12, 16, 18), (14, 13, 20), (10, 18, 15), (12, 12, 12)):
        at = to_ijk.MultiplyPoint([*shown.TransformPoint(to_ras.MultiplyPoint([i, j, k, 1])[:3]), 1])[:3]
        assert abs(after[k, j, i] - image.EvaluateAtContinuousIndex(at)) <= 0.51
    assert np.abs(after.astype(float) - before).max() > 10
    ui.autoButton.click()
    user.wait(lambda: tuner.exact and volume.GetAttribute("INRRegistration.Alpha") == "0.3")
    np.testing.assert_allclose(slicer.util.arrayFromVolume(volume).astype(float), before, atol=1)


def test_landmarks_chosen_afterwards_judge_every_alpha(user, slicer, pair, monkeypatch):
    from test_evaluation import landmarks, section_of

    from INRRegistrationLib import alphafields

    load = alphafields.load

    def without_error(folder):
        found = load(folder)
        del found.curves["error"]
        return found

    monkeypatch.setattr(alphafields, "load", without_error)
    user.choose(*pair, "fake-alpha", steps=2)
    transform = user.register()
    ui, tuner = section(user).ui, section(user).tuner
    user.wait(lambda: tuner.fields is not None)
    assert "similarity" in ui.figuresLabel.text
    bounds = [0.0] * 6
    pair[0].GetRASBounds(bounds)
    centre = np.array([(low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2], strict=True)])
    spots = centre + np.array([[0, 0, 0], [4, 0, 3], [-5, 6, 0], [30, 0, 0]])
    shown = transform.GetTransformFromParent()
    # The last pair is a wrong one, and guides: it judges nothing.
    moved = [*(shown.TransformPoint(spot) for spot in spots[:3]), spots[3] + 40]
    lists = [landmarks(slicer, name, places) for name, places in (("On fixed", spots), ("On moving", moved))]
    lists[1].SetAndObserveTransformNodeID(pair[1].GetTransformNodeID())
    judging = section_of(user).ui
    judging.fixedLandmarksSelector.setCurrentNode(lists[0])
    judging.movingLandmarksSelector.setCurrentNode(lists[1])
    user.panel.parameters.guides = [lists[0].GetNthControlPointID(3)]
    assert "landmark error 0.0" in ui.figuresLabel.text
    ends = [tuner.fields.figures(alpha)["error"] for alpha in (0.0, 1.0)]
    expected = [abs(factor(alpha) / factor(0.3) - 1) for alpha in (0.0, 1.0)]
    lengths = [np.linalg.norm(end - start) for start, end in zip(spots[:3], moved[:3], strict=True)]
    np.testing.assert_allclose(ends, np.mean(lengths) * np.array(expected), rtol=0.05)
    judging.fixedLandmarksSelector.setCurrentNode(None)
    assert "similarity" in ui.figuresLabel.text


def test_dragging_does_not_stop_the_panel(user, slicer, tuned):
    """Drawing the views is Slicer's own work; what is measured is ours."""
    ui, tuner = section(user).ui, section(user).tuner

    def drag():
        for place in (*range(0, 1000, 20), *range(1000, 0, -20)):
            ui.alphaSlider.setValue(place)
            slicer.app.processEvents()
        user.wait(lambda: tuner.exact)

    worst, wall = user.check_no_long_stop(drag)
    print(f"\nlongest stop of the event loop while dragging: {worst:.1f} ms (by the clock {wall:.1f} ms)")


def test_a_rest_during_another_operation_is_answered_after_it(user, pair, tuned):
    ui, tuner = section(user).ui, section(user).tuner
    user.set_setting("steps", 400)
    ui.alphaSlider.setValue(400)
    user.click()
    user.wait(lambda: user.ui.progressBar.value > 100)
    assert not tuner.exact
    user.click()
    user.wait_for_end()
    user.wait(lambda: tuner.exact)
    assert tuner.alpha == 0.4


def test_alphas_are_kept_and_flipped(user, slicer, tuned):
    part, tuner = section(user), section(user).tuner
    ui, unit = part.ui, middle(tuned) / factor(0.3)
    assert not ui.pinsRow.visible
    for alpha in (0.1, 0.8):
        ui.alphaSpinBox.setValue(alpha)
        user.wait(lambda: tuner.exact)
        ui.pinButton.click()
    first, second = (slicer.mrmlScene.GetNodeByID(each.currentData) for each in part._selectors)
    assert [node.GetName() for node in (first, second)] == [
        f"Moving to Fixed, alpha {alpha}" for alpha in ("0.10", "0.80")
    ]
    ui.alphaSlider.setValue(500)
    for node, alpha in ((first, 0.1), (second, 0.8)):
        np.testing.assert_allclose(middle(node), unit * factor(alpha), atol=1e-3)
        assert node.GetAttribute("INRRegistration.Alpha") == str(alpha)
        assert '"error"' in node.GetAttribute("INRRegistration.Metrics")
        assert node.GetAttribute("INRRegistration.Preset") == "fake-alpha"
    for alpha in (0.8, 0.1, 0.8):
        ui.flipButton.click()
        np.testing.assert_allclose(middle(tuned), unit * factor(alpha), atol=1e-3)
        assert ui.alphaSpinBox.value == alpha
    assert ui.flipButton.shortcut.toString() == "F8"
    assert user.ui.applyButton.shortcut.toString() == "Ctrl+Return"
    slicer.mrmlScene.RemoveNode(first)
    assert not ui.flipButton.enabled
    assert (ui.firstPinSelector.count, ui.secondPinSelector.count) == (1, 1)


def test_the_chart_follows(user, slicer, tuned):
    from INRRegistrationLib import chart

    ui, layout = section(user).ui, slicer.app.layoutManager()
    before = layout.layout
    ui.chartButton.click()
    node = tuned.GetNodeReference(chart.CHART)
    names = [node.GetNthPlotSeriesNode(n).GetName() for n in range(node.GetNumberOfPlotSeriesNodes())]
    assert "Landmark error (1 = 11.3 mm)" in names
    assert {"folds", "Auto", "current alpha"} <= set(names)
    table = tuned.GetNodeReference(chart.ZONE).GetTable()
    rows = [[table.GetValue(row, column).ToDouble() for column in range(2)] for row in range(table.GetNumberOfRows())]
    assert max(alpha for alpha, height in rows if height) == pytest.approx(0.2, abs=0.01)
    assert min(alpha for alpha, height in rows if height) == 0
    ui.alphaSlider.setValue(70)
    column = tuned.GetNodeReference(chart.MARKER).GetTable().GetColumnByName("now")
    user.wait(lambda: column.GetValue(0) == 0.07)
    user.screenshot("chart-fake")
    assert "1.3 % folds" in ui.figuresLabel.text
    ui.chartButton.click()
    assert layout.layout == before


def test_a_worker_that_cannot_leaves_the_coarse_field(user, slicer, tuned):
    """The exact field of a model that is gone; what is shown can be kept all the same."""
    part = section(user)
    from INRRegistrationLib import results

    results.folder_of(tuned).joinpath("model.json").write_text("{")
    part.ui.alphaSlider.setValue(600)
    user.wait(lambda: "Shown coarsely" in part.ui.figuresLabel.text)
    part.ui.pinButton.click()
    np.testing.assert_allclose(middle(tuned), middle(part.tuner.transform), atol=1e-6)
    kept = slicer.util.getNode("Moving to Fixed, alpha 0.60")
    before = middle(kept)
    part.ui.alphaSlider.setValue(900)
    np.testing.assert_allclose(middle(kept), before)


def test_what_was_tuned_is_registered_again_and_removed(user, slicer, tuned, pair):
    """No text of a model stays without a transform that has it."""
    part = section(user)
    part.ui.pinButton.click()
    user.choose(*pair, "fake", steps=2)
    user.register()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLTextNode") == 3  # the pin has its own still
    for node in slicer.util.getNodesByClass("vtkMRMLGridTransformNode"):
        slicer.mrmlScene.RemoveNode(node)
    user.wait(lambda: slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLTextNode") == 0)


REOPEN = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import conftest
from conftest import FAKES, User, application
from inrreg import methods

methods.__path__.append(str(FAKES / "methods"))
slicer = application.start(Path(sys.argv[3]))
from INRRegistrationLib import places
places.Here.command = lambda self: [sys.executable, str(FAKES / "fake_worker.py")]
user = User(slicer)
assert slicer.mrmlScene.ReadFromMRB(sys.argv[2], True)
part = user.panel.sections[0]
user.wait(lambda: part.tuner.fields is not None, 60)
import numpy as np
from test_tuning_section import factor, middle
from INRRegistrationLib import chart, results

transform = user.ui.transformSelector.currentNode()
assert part.ui.alphaSpinBox.value == 0.65, part.ui.alphaSpinBox.value
assert part._selectors[0].count == 2
unit = middle(transform) / factor(0.65)
part.ui.flipButton.click()
np.testing.assert_allclose(middle(transform), unit * factor(0.3), atol=1e-3)
part.ui.flipButton.click()
np.testing.assert_allclose(middle(transform), unit * factor(0.65), atol=1e-3)
node = transform.GetNodeReference(chart.CHART)
assert node.GetNumberOfPlotSeriesNodes() > 5
assert transform.GetNodeReference(chart.TABLE).GetTable().GetNumberOfRows() == 11
part.ui.alphaSlider.setValue(920)
assert not part.tuner.exact
user.wait(lambda: part.tuner.settled, 60)
assert part.tuner.exact, part.ui.figuresLabel.text
np.testing.assert_allclose(middle(transform), unit * factor(0.92), atol=1e-3)
assert results.folder_of(transform).is_relative_to(slicer.app.temporaryPath)
user.leave()
print("tuned on")
"""


def test_a_scene_opened_in_another_process_goes_on(user, slicer, tuned, tmp_path):
    part = section(user)
    part.ui.pinButton.click()
    part.ui.alphaSlider.setValue(650)
    user.wait(lambda: part.tuner.exact)
    part.ui.pinButton.click()
    part.ui.chartButton.click()
    bundle = tmp_path / "scene.mrb"
    assert slicer.mrmlScene.WriteToMRB(str(bundle))
    user.panel.registrations.close()  # the result's folder is gone
    command = [sys.executable, "-c", REOPEN, str(Path(__file__).parent), str(bundle), str(tmp_path / "other Slicer")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert answer.stdout.split("\n")[-2:] == ["tuned on", ""], answer.stderr[-3000:]
