"""Judging a result in the panel: figures, checks, landmarks, report, and what of it is in the scene."""

from __future__ import annotations

import numpy as np
import pytest
import vtk

SPOTS = ((0, 0, 50), (20, -10, 40), (-20, 15, 60), (10, 20, 70))
"""Where landmarks lie in the generated pair, RAS mm."""


def landmarks(slicer, name, positions, labels=None):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    node.CreateDefaultDisplayNodes()
    for number, position in enumerate(positions):
        node.AddControlPoint(vtk.vtkVector3d(*position), labels[number] if labels else f"L{number + 1}")
    return node


@pytest.fixture
def marked(user, slicer, pair):
    """A registered pair with landmarks on both sides; the panel's section is open."""
    user.choose(*pair, steps=2)
    user.register()
    return choose_landmarks(user, slicer)


def choose_landmarks(user, slicer):
    section = section_of(user)
    lists = [landmarks(slicer, name, SPOTS) for name in ("On fixed", "On moving")]
    lists[1].SetAndObserveTransformNodeID(user.ui.movingSelector.currentNode().GetTransformNodeID())
    section.ui.evaluationSection.collapsed = False
    section.ui.fixedLandmarksSelector.setCurrentNode(lists[0])
    section.ui.movingLandmarksSelector.setCurrentNode(lists[1])
    return section, lists


def section_of(user):
    return next(entry for entry in user.panel.sections if entry.file == "Evaluation.ui")


def evaluate(user, section, timeout=20.0):
    assert section.ui.evaluateButton.enabled, section.ui.evaluateButton.toolTip
    section.ui.evaluateButton.click()
    user.wait_for_end(timeout)
    assert not user.error, user.error


def column(table, number):
    return [table.item(row, number).text() for row in range(table.rowCount)]


def test_the_button_says_what_is_missing(user, slicer, pair):
    section = section_of(user)
    assert not section.ui.evaluateButton.enabled
    assert "Register first" in section.ui.evaluateButton.toolTip
    user.choose(*pair, steps=2)
    user.register()
    assert section.ui.evaluateButton.enabled
    section.ui.fixedLandmarksSelector.setCurrentNode(landmarks(slicer, "A", SPOTS))
    assert "needed for both" in section.ui.evaluateButton.toolTip
    section.ui.movingLandmarksSelector.setCurrentNode(landmarks(slicer, "B", SPOTS[:2], ["x", "y"]))
    assert "'A' has 4 landmarks and 'B' 2" in section.ui.matchLabel.text
    assert "'A' has 4 landmarks" in section.ui.evaluateButton.toolTip


def test_evaluate(user, slicer, marked):
    section, _ = marked
    evaluate(user, section)
    assert "2.50 mm" in section.ui.summaryLabel.text
    marks, checks = section.ui.landmarksTable, section.ui.checksTable
    assert column(marks, 1) == ["L1", "L2", "L3", "L4"]
    assert column(marks, 3) == ["4.00", "3.50", "3.00", "2.50"]
    assert column(checks, 3) == ["met", "met", "not assessed", "not assessed", "met", "met"]
    transform = user.ui.transformSelector.currentNode()
    names = {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLTableNode")}
    assert f"{transform.GetName()}: landmark errors" in names
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    folder = tree.GetItemByName(f"Evaluation of {transform.GetName()}")
    assert tree.GetNumberOfItemChildren(folder) == 7
    user.screenshot("evaluation")


def test_evaluating_again_replaces(user, slicer, marked):
    section, _ = marked
    evaluate(user, section)
    before = sorted(node_ids(slicer))
    evaluate(user, section)
    assert sorted(node_ids(slicer)) == before


def node_ids(slicer):
    scene = slicer.mrmlScene
    return [scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())]


def test_any_node_may_be_deleted(user, slicer, marked):
    from INRRegistrationLib import evaluation_nodes

    section, lists = marked
    evaluate(user, section)
    transform = user.ui.transformSelector.currentNode()
    roles = [role for role in evaluation_nodes.TITLES if evaluation_nodes.node(transform, role)]
    for role in (*roles, "ErrorChartBefore", "JacobianColours"):
        slicer.mrmlScene.RemoveNode(evaluation_nodes.node(transform, role))
    user.slicer.app.processEvents()
    evaluate(user, section)
    assert [role for role in evaluation_nodes.TITLES if evaluation_nodes.node(transform, role)] == roles
    slicer.mrmlScene.RemoveNode(lists[1])
    assert section.ui.movingLandmarksSelector.currentNode() is None
    slicer.mrmlScene.RemoveNode(transform)
    user.wait(lambda: not section.ui.summaryLabel.visible)
    assert not section.ui.evaluateButton.enabled


def test_registering_anew_takes_the_figures_away(user, slicer, marked):
    section, _ = marked
    evaluate(user, section)
    user.register()
    assert not section.ui.summaryLabel.visible
    assert column(section.ui.landmarksTable, 3) == ["-"] * 4


def test_click_a_landmark(user, slicer, marked):
    section, _ = marked
    user.window.show_volumes(user.ui.fixedSelector.currentNode())
    section.ui.landmarksTable.cellClicked.emit(2, 1)
    for name in ("Red", "Green", "Yellow"):
        matrix = slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode().GetSliceToRAS()
        np.testing.assert_allclose([matrix.GetElement(row, 3) for row in range(3)], SPOTS[2], atol=1e-6)


def test_tolerances_are_edited_in_place(user, slicer, marked):
    from INRRegistrationLib import evaluation_nodes

    section, _ = marked
    table = section.ui.checksTable
    assert column(table, 2)[:3] == ["<= 3 mm", "<= 5 mm", ">= 0.8"]
    evaluate(user, section)
    for text, state in (("<= 2,4 mm", "not met"), ("2.6", "met"), ("much", "met")):
        table.item(0, 2).setText(text)
        user.slicer.app.processEvents()
        assert (table.item(0, 3).text(), column(table, 3)[1]) == (state, "met")
    assert column(table, 2)[0] == "<= 2.6 mm"
    assert user.panel.parameters.tolerances == {"tre_mean": 2.6}
    checks = evaluation_nodes.node(user.ui.transformSelector.currentNode(), "Checks")
    assert checks.GetCellText(0, 3) == "at most 2.60 mm"
    table.item(0, 2).setText("")
    user.slicer.app.processEvents()
    assert column(table, 2)[0] == "<= 3 mm"


def test_the_verdict_never_says_safe(user, slicer, marked):
    section, _ = marked
    evaluate(user, section)
    shown = " ".join(text for number in range(4) for text in column(section.ui.checksTable, number))
    assert "safe" not in shown
    assert "For research use" in section.ui.noticeLabel.text


def test_landmarks_without_partner_are_named(user, slicer, pair):
    user.choose(*pair, steps=2)
    user.register()
    section = section_of(user)
    one = landmarks(slicer, "A", SPOTS, ["p", "q", "r", "s"])
    other = landmarks(slicer, "B", SPOTS[:3], ["q", "p", "t"])
    section.ui.fixedLandmarksSelector.setCurrentNode(one)
    section.ui.movingLandmarksSelector.setCurrentNode(other)
    text = section.ui.matchLabel.text
    assert "2 landmark pairs, matched by label" in text
    assert "Only in the fixed list: r, s" in text
    assert "Only in the moving list: t" in text
    # It is not under the result that moves the moving volume: the panel asks.
    assert "'B' counts as placed on the registered image" in section.ui.followLabel.text
    section.ui.followButton.click()
    assert other.GetParentTransformNode() is user.ui.transformSelector.currentNode()
    assert not section.ui.followButton.visible
    other.RemoveNthControlPoint(2)
    user.wait(lambda: "Only in the moving" not in section.ui.matchLabel.text)


def test_structures_by_name(user, slicer, pair):
    from test_geometry import make_segmentation

    user.choose(*pair, steps=2)
    section = section_of(user)
    blocks = {"Liver": (18, 16, 12), "Spleen": (8, 8, 6)}
    one = make_segmentation(slicer, pair[0], {**blocks, "Aorta": (24, 10, 10)})
    other = make_segmentation(slicer, pair[1], blocks)
    section.ui.fixedStructuresSelector.setCurrentNode(one)
    section.ui.movingStructuresSelector.setCurrentNode(other)
    assert "Only in the fixed segmentation: Aorta" in section.ui.matchLabel.text
    user.register()
    assert other.GetParentTransformNode() is user.ui.transformSelector.currentNode()
    evaluate(user, section)
    assert "Dice 0.750 to 0.750 over 2 structures" in section.ui.summaryLabel.text
    table = next(
        node for node in slicer.util.getNodesByClass("vtkMRMLTableNode") if node.GetName().endswith("structures")
    )
    assert [table.GetCellText(row, 0) for row in range(2)] == ["Liver", "Spleen"]
    assert "surface voxel" in table.GetColumnDescription("HD95 (mm) after")


def test_pairs_are_used_as_guides(user, slicer, marked, monkeypatch):
    import qt

    from inrreg.landmarks import read_points
    from INRRegistrationLib import run

    section, _ = marked
    section.ui.landmarksTable.item(1, 0).setCheckState(qt.Qt.Checked)
    assert "1 checked pairs guide the next registration; the other 3 judge it" in section.ui.guideLabel.text
    found = {}
    tidy = run.remove_files

    def look(folder):
        for path in folder.glob("*.mrk.json"):
            found[path.name.partition(".")[0]] = read_points(path)
        tidy(folder)

    monkeypatch.setattr(run, "remove_files", look)
    user.register()
    assert {name: len(points) for name, points in found.items()} == {
        "fixed_landmarks": 4,
        "moving_landmarks": 4,
        "guide_fixed": 1,
        "guide_moving": 1,
    }
    np.testing.assert_allclose(found["guide_fixed"].positions, [[-20, 10, 40]])
    assert found["guide_fixed"].labels == ("L2",)
    section.ui.fixedLandmarksSelector.setCurrentNode(None)
    assert user.panel.parameters.guides == []


def test_report(user, slicer, marked, monkeypatch, tmp_path):
    import qt

    section, _ = marked
    assert not section.ui.openButton.enabled
    path = tmp_path / "Bericht über Lebër"
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *arguments: (str(path), ""))
    section.ui.reportButton.click()
    user.wait_for_end()
    assert not user.error, user.error
    assert path.with_name(path.name + ".html").read_text() == "<p>Report</p>"
    assert str(path) in user.ui.statusLabel.text
    opened = []
    monkeypatch.setattr(qt.QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
    section.ui.openButton.click()
    assert opened == [f"{path}.html"]


def test_all_comes_back_with_the_scene(user, slicer, marked, tmp_path):
    from INRRegistrationLib import evaluation_nodes

    section, lists = marked
    section.ui.checksTable.item(1, 2).setText("4.5")
    user.slicer.app.processEvents()
    evaluate(user, section)
    section.panel.parameters.guides = [lists[0].GetNthControlPointID(2)]
    scene = slicer.mrmlScene
    for node in slicer.util.getNodesByClass("vtkMRMLStorableNode"):
        if node.GetSaveWithScene() and not node.IsA("vtkMRMLColorNode") and not node.IsA("vtkMRMLPlotChartNode"):
            node.AddDefaultStorageNode()
            storage = node.GetStorageNode()
            if storage is not None:
                storage.SetFileName(str(tmp_path / f"{node.GetID()}.{storage.GetDefaultWriteFileExtension()}"))
                assert storage.WriteData(node)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit()
    scene.Clear(0)
    assert section.ui.landmarksTable.rowCount == 0
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Import()
    assert section.ui.fixedLandmarksSelector.currentNode().GetName() == "On fixed"
    assert column(section.ui.checksTable, 2)[1] == "<= 4.5 mm"
    assert column(section.ui.landmarksTable, 3) == ["4.00", "3.50", "3.00", "2.50"]
    assert "1 checked pairs" in section.ui.guideLabel.text
    transform = user.ui.transformSelector.currentNode()
    table = evaluation_nodes.node(transform, "Landmarks")
    assert table.GetNumberOfRows() == 4
    count = len(node_ids(slicer))
    evaluate(user, section)
    assert len(node_ids(slicer)) == count
    assert evaluation_nodes.node(transform, "Landmarks") is table


def test_cancel(user, slicer, marked, monkeypatch):
    section, _ = marked
    before = node_ids(slicer)
    section.ui.evaluateButton.click()
    user.ui.applyButton.click()
    user.wait_for_end()
    assert "Cancelled" in user.ui.statusLabel.text
    assert node_ids(slicer) == before


def test_cancel_while_the_figures_are_shown(user, slicer, marked):
    section, _ = marked
    before = node_ids(slicer)
    section.ui.evaluateButton.click()
    user.wait(lambda: len(node_ids(slicer)) > len(before))
    user.ui.applyButton.click()
    user.wait_for_end()
    assert "Cancelled" in user.ui.statusLabel.text
    assert node_ids(slicer) == before
    assert not section.ui.summaryLabel.visible
    evaluate(user, section)


def test_no_long_stop(user, slicer, marked):
    section, lists = marked
    many = np.random.default_rng(0).uniform((-40, -40, 10), (40, 40, 90), (300, 3))
    for node, selector in zip(lists, ("fixedLandmarksSelector", "movingLandmarksSelector"), strict=True):
        slicer.mrmlScene.RemoveNode(node)
        getattr(section.ui, selector).setCurrentNode(landmarks(slicer, "Many", many))
    user.wait(lambda: section.ui.landmarksTable.rowCount == 300)
    worst, wall = user.check_no_long_stop(lambda: evaluate(user, section))
    print(
        f"\nlongest stop of the event loop while 300 landmarks are evaluated: {worst:.1f} ms ({wall:.1f} by the clock)"
    )


def known_markups(slicer, name, positions, parent=None):
    node = landmarks(slicer, name, positions)
    node.SetAndObserveTransformNodeID(parent.GetID() if parent else None)
    return node


@pytest.mark.parametrize("kind", ["world", "frame", "own", "result", "left behind"])
def test_landmarks_are_exported_where_they_belong(slicer, pair, tmp_path, kind):
    """In the frame's coordinates, LPS: under a shared table, a transform of their own, or our result."""

    from test_geometry import bump, linear, rigid

    import INRRegistrationLib as lib
    from inrreg.landmarks import read_points
    from INRRegistrationLib import hierarchy
    from INRRegistrationLib.pair import Pair

    fixed, moving = pair
    turned, own = rigid(0.4, [10, 20, 30]), rigid(-0.3, [5, 0, -7])
    table, mine = linear(slicer, "Table", turned), linear(slicer, "Own", own)
    spots = np.array(SPOTS, float)
    one, other = landmarks(slicer, "One", spots), landmarks(slicer, "Other", spots)
    expected_fixed = expected_moving = spots
    if kind == "frame":
        for node in (fixed, moving, one):
            node.SetAndObserveTransformNodeID(table.GetID())
        expected_moving = (spots - turned[:3, 3]) @ turned[:3, :3]  # of the world, seen from the table
    elif kind == "own":
        for node in (one, other):
            node.SetAndObserveTransformNodeID(mine.GetID())
        expected_fixed = expected_moving = spots @ own[:3, :3].T + own[:3, 3]
    elif kind in ("result", "left behind"):
        moving.SetAndObserveTransformNodeID(mine.GetID())
        if kind == "result":
            other.SetAndObserveTransformNodeID(mine.GetID())
        from test_geometry import show

        transform = show(lib, bump(slicer, lib, size=20.0).GetTransformFromParent(), fixed, moving)
        inside = transform.GetTransformFromParent()
        if kind == "result":
            expected_moving = spots @ own[:3, :3].T + own[:3, 3]
        else:
            expected_moving = np.array([inside.TransformPoint(spot) for spot in spots])
            assert hierarchy.is_left_behind(other, moving)
    Pair(fixed, moving, fixed_landmarks=one, moving_landmarks=other).files().write(tmp_path)
    for side, expected in (("fixed", expected_fixed), ("moving", expected_moving)):
        found = read_points(tmp_path / f"{side}_landmarks.mrk.json")
        np.testing.assert_allclose(found.positions * [-1, -1, 1], expected, atol=1e-3)
        assert found.labels == ("L1", "L2", "L3", "L4")


def where_it_moves(positions):
    """Where points of the generated pair's fixed volume are in the moving one, RAS mm: a bump of 9 mm against i."""
    positions = np.array(positions, float)
    moved = positions.copy()
    for _ in range(50):  # the moving volume shows at i what the fixed one does at i + bump
        here = moved - [-50, -40, 20]
        moved[:, 0] = positions[:, 0] - 9 * np.exp(-(((here - [54, 48, 36]) ** 2).sum(1)) / 600)
    return moved


def test_the_real_engine(real_user, slicer, pair):
    """Everything that the panel shows of a result, in pictures; and what guiding pairs do."""
    import qt
    from test_geometry import make_segmentation

    from INRRegistrationLib import evaluation_views, selftest

    user, (fixed, moving) = real_user, pair
    rng = np.random.default_rng(3)
    spots = [(4, 8, 56), (14, 8, 56), (-6, 2, 50), *rng.uniform((-30, -20, 35), (35, 35, 75), (9, 3))]
    section = section_of(user)
    user.window.show_volumes(fixed, moving)
    quick = {name: str(value).strip("[]") for name, value in selftest.SETTINGS.items()}
    user.choose(fixed, moving, "ccidir-light", **quick)
    user.ui.threadsSpinBox.setValue(1)
    one, other = landmarks(slicer, "Fixed points", spots), landmarks(slicer, "Moving points", where_it_moves(spots))
    section.ui.fixedLandmarksSelector.setCurrentNode(one)
    section.ui.movingLandmarksSelector.setCurrentNode(other)
    blocks = {"Liver": (18, 16, 12), "Spleen": (8, 8, 6)}
    section.ui.fixedStructuresSelector.setCurrentNode(make_segmentation(slicer, fixed, blocks))
    section.ui.movingStructuresSelector.setCurrentNode(make_segmentation(slicer, moving, blocks))
    user.register(timeout=300)
    assert other.GetParentTransformNode() is moving.GetParentTransformNode()
    evaluate(user, section, timeout=300)
    marks = evaluation_metrics(user)["landmarks"]
    assert marks["before"]["max"] > 6
    assert marks["after"]["mean"] < 2
    user.ui.inputsSection.collapsed = user.ui.outputsSection.collapsed = True
    section.ui.evaluationSection.collapsed = False
    combo = section.ui.showSelector
    roles = [combo.itemData(number) for number in range(combo.count)]
    tables = ["Landmarks", "Structures", "Figures", "Checks"]
    assert roles == ["ErrorChart", "HistogramChart", *tables, "Jacobian", "Uncertainty", ""]
    for number, role in enumerate(roles):
        combo.setCurrentIndex(number)
        section.ui.showButton.click()
        user.screenshot(f"evaluation-{role.lower() or 'images'}")
    section.ui.landmarksTable.cellClicked.emit(0, 1)
    user.screenshot("evaluation-landmark")
    assert evaluation_views.entries(user.ui.transformSelector.currentNode())
    section.ui.landmarksTable.item(0, 0).setCheckState(qt.Qt.Checked)
    guide = section._pairs[0][0]
    user.choose(fixed, moving, "fast", **quick)
    user.register(timeout=300)
    evaluate(user, section, timeout=300)
    again = evaluation_metrics(user)["landmarks"]
    assert (again["guided"], again["after"]["count"]) == (1, len(spots) - 1)
    assert guide not in again["names"]
    assert column(section.ui.landmarksTable, 1)[-1] == guide


def evaluation_metrics(user):
    from INRRegistrationLib import evaluation

    return evaluation.known(user.ui.transformSelector.currentNode())[0]
