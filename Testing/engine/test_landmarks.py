"""Landmark files: every format gives the same LPS millimetres, and damaged ones a clear sentence."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from inrreg.landmarks import Points, pair, read_points, write_points
from inrreg.protocol import UserError

POSITIONS = np.array([[1.5, -2.0, 3.25], [0.1, 1e-17, -1e5], [np.pi, 4.0, 5.0]])


def refused(path, **options) -> UserError:
    with pytest.raises(UserError) as caught:
        read_points(path, **options)
    assert caught.value.code == "points"
    return caught.value


def test_csv_keeps_extra_columns_in_any_order_and_case(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text('region,Z, X ,y,note\ninside,3,1,2,"a, b"\n\noutside,6,4,5,\n', encoding="utf-8-sig")
    points = read_points(path)
    np.testing.assert_array_equal(points.positions, [[1, 2, 3], [4, 5, 6]])
    assert points.positions.dtype == np.float64
    assert points.columns == {"region": ["inside", "outside"], "note": ["a, b", ""]}
    assert points.labels == ()
    assert len(points) == 2


@pytest.mark.parametrize("name", ["points.csv", "points.mrk.json", "points.fcsv", "POINTS.CSV"])
def test_roundtrip_is_exact(tmp_path, name):
    points = Points(POSITIONS, labels=("tip", "größe, 2", 'the "third"'))
    write_points(tmp_path / name, points)
    read = read_points(tmp_path / name)
    np.testing.assert_array_equal(read.positions, POSITIONS)
    assert read.labels == points.labels
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_csv_roundtrip_keeps_columns(tmp_path):
    points = Points(POSITIONS, {"region": ["a", "b", "c"], "label": ["1", "2", "3"]}, ("1", "2", "3"))
    write_points(tmp_path / "points.csv", points)
    read = read_points(tmp_path / "points.csv")
    assert read.columns == points.columns
    assert read.labels == points.labels


def markups(tmp_path, *markup_entries):
    path = tmp_path / "points.mrk.json"
    path.write_text(json.dumps({"markups": list(markup_entries)}))
    return path


@pytest.mark.parametrize(("system", "sign"), [("LPS", 1), ("RAS", -1), ("1", 1), ("0", -1), (None, 1)])
def test_markups_coordinate_system(tmp_path, system, sign):
    markup = {"controlPoints": [{"position": [1, 2, 3]}]}
    if system is not None:
        markup["coordinateSystem"] = system
    np.testing.assert_array_equal(read_points(markups(tmp_path, markup)).positions, [[sign, 2 * sign, 3]])


def test_markups_coordinate_system_of_one_point(tmp_path):
    control_points = [{"label": "a", "position": [1, 2, 3]}, {"position": [1, 2, 3], "coordinateSystem": "LPS"}]
    points = read_points(markups(tmp_path, {"coordinateSystem": "RAS", "controlPoints": control_points}))
    np.testing.assert_array_equal(points.positions, [[-1, -2, 3], [1, 2, 3]])
    assert points.labels == ("a", "")


def test_markups_without_position_are_left_out(tmp_path):
    control_points = [
        {"position": [1, 2, 3], "positionStatus": "defined"},
        {"position": None, "positionStatus": "undefined"},
    ]
    assert len(read_points(markups(tmp_path, {"controlPoints": control_points}))) == 1


@pytest.mark.parametrize(
    ("header", "sign"),
    [
        ("# CoordinateSystem = LPS", 1),
        ("# CoordinateSystem = RAS", -1),
        ("# CoordinateSystem = 1", 1),
        ("# CoordinateSystem = 0", -1),
        ("# Markups fiducial file version = 4.4", -1),
    ],
)
def test_fcsv_coordinate_system(tmp_path, header, sign):
    path = tmp_path / "points.fcsv"
    path.write_text(
        f"{header}\n# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        "vtkMRMLMarkupsFiducialNode_0,1,2,3,0,0,0,1,1,1,0,F-1,,\n"
    )
    points = read_points(path)
    np.testing.assert_array_equal(points.positions, [[sign, 2 * sign, 3]])
    assert points.labels == ("F-1",)


def oblique_image() -> sitk.Image:
    image = sitk.Image(20, 30, 40, sitk.sitkUInt8)
    image.SetSpacing((0.5, 2.0, 3.0))
    image.SetOrigin((-10.0, 20.0, 30.0))
    image.SetDirection((0.0, -0.6, 0.8, 1.0, 0.0, 0.0, 0.0, 0.8, 0.6))
    return image


def test_dirlab_indices_start_at_one(tmp_path):
    path = tmp_path / "case1_300_T00_xyz.txt"
    path.write_text("  1\t1   1\n5 6 7\r\n\n2.5 1 1\n")
    image = oblique_image()
    points = read_points(path, image=image)
    np.testing.assert_allclose(points.positions[0], image.GetOrigin())
    np.testing.assert_allclose(points.positions[1], image.TransformIndexToPhysicalPoint((4, 5, 6)))
    np.testing.assert_allclose(points.positions[2], image.TransformContinuousIndexToPhysicalPoint((1.5, 0, 0)))


def test_dirlab_needs_its_image(tmp_path):
    path = tmp_path / "points.txt"
    path.write_text("1 1 1\n")
    assert "image" in refused(path).message


def test_missing_file(tmp_path):
    assert "does not exist" in refused(tmp_path / "points.csv").message


def test_folder_instead_of_file(tmp_path):
    (tmp_path / "points.csv").mkdir()
    assert "cannot be read" in refused(tmp_path / "points.csv").message


def test_unknown_format(tmp_path):
    error = refused(tmp_path / "points.xlsx")
    assert ".csv" in error.hint


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", ""),
        ("a.csv", "x,y,z\n"),
        ("a.csv", "x,y\n1,2\n"),
        ("a.csv", "1,2,3\n4,5,6\n"),
        ("a.csv", "x,y,z,X\n1,2,3,4\n"),
        ("a.csv", "x,y,z\n1,2\n"),
        ("a.csv", "x,y,z\n1,2,three\n"),
        ("a.csv", "x,y,z\n1,2,\n"),
        ("a.csv", "x,y,z\n1,2,nan\n"),
        ("a.csv", "x,y,z\n1,2,inf\n"),
        ("a.mrk.json", ""),
        ("a.mrk.json", "[]"),
        ("a.mrk.json", "{}"),
        ("a.mrk.json", '{"markups": []}'),
        ("a.mrk.json", '{"markups": [3]}'),
        ("a.mrk.json", '{"markups": [{"controlPoints": []}]}'),
        ("a.mrk.json", '{"markups": [{"controlPoints": [{"label": "a"}]}]}'),
        ("a.mrk.json", '{"markups": [{"controlPoints": [{"position": [1, 2]}]}]}'),
        ("a.mrk.json", '{"markups": [{"controlPoints": [{"position": [1, 2, NaN]}]}]}'),
        ("a.mrk.json", '{"markups": [{"controlPoints": [{"position": [1, 2, [3]]}]}]}'),
        ("a.mrk.json", '{"markups": [{"coordinateSystem": "IJK", "controlPoints": [{"position": [1, 2, 3]}]}]}'),
        ("a.fcsv", "# CoordinateSystem = LPS\n"),
        ("a.fcsv", "# CoordinateSystem = IJK\nf,1,2,3\n"),
        ("a.fcsv", "f,1,2\n"),
        ("a.fcsv", "f,1,2,x\n"),
        ("a.fcsv", "# columns = id,label\nf,1\n"),
        ("a.txt", ""),
        ("a.txt", "1 2\n"),
        ("a.txt", "1 2 3 4\n"),
        ("a.txt", "1 2 nan\n"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    error = refused(path, image=oblique_image())
    assert str(path) in error.message
    assert error.message.endswith(".")


def test_a_file_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "points.csv"
    path.write_bytes("x,y,z,größe\n1,2,3,4\n".encode("latin-1"))
    assert "cannot be read" in refused(path).message


def test_dirlab_is_not_written(tmp_path):
    with pytest.raises(UserError, match=r"\.txt"):
        write_points(tmp_path / "points.txt", Points(POSITIONS))


def test_writing_into_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write_points(tmp_path / "none" / "points.csv", Points(POSITIONS))


@pytest.fixture
def mrml():
    """MRML's own classes, from slicer-core where that is installed."""
    return pytest.importorskip("slicer", reason="slicer-core is not installed")


STORAGE_NODES = {
    "points.mrk.json": "vtkMRMLMarkupsJsonStorageNode",
    "points.fcsv": "vtkMRMLMarkupsFiducialStorageNode",
}


@pytest.mark.parametrize("name", STORAGE_NODES)
def test_slicer_reads_what_is_written(tmp_path, mrml, name):
    write_points(tmp_path / name, Points(POSITIONS, labels=("tip", "a, b", "c")))
    node = mrml.vtkMRMLScene().AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    storage = getattr(mrml, STORAGE_NODES[name])()
    storage.SetFileName(str(tmp_path / name))
    assert storage.ReadData(node)
    ras = np.array([node.GetNthControlPointPosition(i) for i in range(node.GetNumberOfControlPoints())])
    np.testing.assert_allclose(ras * [-1, -1, 1], POSITIONS)
    assert node.GetNthControlPointLabel(1) == "a, b"


@pytest.mark.parametrize("name", STORAGE_NODES)
@pytest.mark.parametrize("system", ["RAS", "LPS"])
def test_what_slicer_writes_is_read(tmp_path, mrml, name, system):
    node = mrml.vtkMRMLScene().AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    for x, y, z in POSITIONS:
        node.AddControlPoint(-x, -y, z, "a, b")
    storage = getattr(mrml, STORAGE_NODES[name])()
    storage.SetFileName(str(tmp_path / name))
    storage.SetCoordinateSystem({"RAS": 0, "LPS": 1}[system])
    assert storage.WriteData(node)
    points = read_points(tmp_path / name)
    np.testing.assert_allclose(points.positions, POSITIONS, atol=1e-6)
    assert points.labels == ("a, b",) * 3


# ------------------------------------------------------------------------------------------- pairs


def listed(*labels: str, start: float = 0.0) -> Points:
    """A point for each label, at different places."""
    return Points(start + np.arange(3.0 * len(labels)).reshape(-1, 3), labels=labels)


def test_pairs_are_matched_by_label_whatever_the_order():
    pairs = pair(listed("a", "b", "c"), listed("c", "x", "a", start=100))
    assert pairs.matched_by == "label"
    assert pairs.names == ("a", "c")
    np.testing.assert_array_equal(pairs.fixed, [[0, 1, 2], [6, 7, 8]])
    np.testing.assert_array_equal(pairs.moving, [[106, 107, 108], [100, 101, 102]])
    assert pairs.missing == {"fixed": ("b",), "moving": ("x",)}


@pytest.mark.parametrize(
    ("fixed", "moving"),
    [
        (("F-1", "F-2"), ("M-1", "M-2")),  # Slicer's own, after the lists' names
        (("a", "a"), ("a", "b")),  # not unique
        (("a", ""), ("a", "b")),  # incomplete
        ((), ("a", "b")),
    ],
)
def test_pairs_are_matched_by_order_where_labels_do_not_tell(fixed, moving):
    one, other = Points(POSITIONS[:2], labels=fixed), Points(POSITIONS[1:], labels=moving)
    pairs = pair(one, other)
    assert pairs.matched_by == "order"
    assert pairs.missing == {"fixed": (), "moving": ()}
    assert pairs.names == (fixed or ("1", "2"))
    np.testing.assert_array_equal(pairs.moving, POSITIONS[1:])


def test_pairs_by_order_need_equal_numbers():
    with pytest.raises(UserError, match="2 fixed and 3 moving landmarks") as caught:
        pair(listed("a", "b"), listed("x", "y", "z"))
    assert caught.value.code == "points"
