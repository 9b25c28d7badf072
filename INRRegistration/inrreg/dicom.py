"""DICOM Deformable Spatial Registration objects (PS3.3 A.39.2 and C.20.3): written for a pair of series, and read.

The object's Frame of Reference is the Registered RCS, here that of the fixed image; each item of its sequence has a
Source RCS, here that of the moving image. Unlike a (rigid) Spatial Registration object, which maps source to
registered, a deformable one says for each registered point where to sample in the source (C.20.3.1.1):

    source = M_post (M_pre x + d(x))

with d given at the nodes of a grid in registered coordinates. That is the direction of our maps, and LPS mm both. All
of the deformation is in d; the two matrices are written as identities, which other readers look for.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inrreg.geometry import Grid
from inrreg.protocol import UserError

if TYPE_CHECKING:
    import pydicom

    from inrreg.transforms import PointMap

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.66.3"
_NAME = "Deformable Spatial Registration"
_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber")
_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
_TAGS = (
    *_PATIENT,
    *_STUDY,
    *_GEOMETRY,
    "SpecificCharacterSet",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
)


@dataclass(frozen=True)
class Series:
    """The images of one DICOM series, without their pixels, in the order of their file names."""

    images: tuple[pydicom.Dataset, ...]

    @classmethod
    def read(cls, folder: str | Path, name: str) -> Series:
        """The only image series in a folder; `name` says in errors which one it is.

        Raises `UserError` (code `dicom`) where there is none, or more than one, or no frame of reference.
        """
        return cls.of(sorted(Path(folder).glob("*")), name, f"in {folder}")

    @classmethod
    def of(cls, files: Sequence[str | Path], name: str, where: str, instances: Collection[str] = ()) -> Series:
        """The only image series among files, of it the images with the UIDs in `instances` where there are any.

        `name` and `where` say in errors which one it is. Raises `UserError` as `read`.
        """
        pydicom = _pydicom()
        images: dict[str, list[pydicom.Dataset]] = {}
        for path in files:
            try:
                header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
            except (pydicom.errors.InvalidDicomError, OSError):
                continue
            if instances and header.get("SOPInstanceUID") not in instances:
                continue
            if all(tag in header for tag in ("Rows", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")):
                images.setdefault(header.SeriesInstanceUID, []).append(header)
        if not images:
            raise UserError("dicom", f"There is no DICOM image {where}.", f"Give the folder of the {name} series.")
        if len(images) > 1:
            raise UserError(
                "dicom", f"There are {len(images)} DICOM series {where}.", f"Leave the {name} series alone there."
            )
        (found,) = images.values()
        if len({image.get("FrameOfReferenceUID") for image in found}) != 1 or not found[0].get("FrameOfReferenceUID"):
            raise UserError(
                "dicom",
                f"The {name} series {where} has no single frame of reference.",
                "Without it no registration can refer to it.",
            )
        return cls(tuple(found))

    @property
    def frame_of_reference(self) -> str:
        """The UID of the series' coordinate system."""
        return self.images[0].FrameOfReferenceUID

    def overlaps(self, grid: Grid) -> bool:
        """Whether the boxes of series and grid meet; True where the series does not say its place a slice."""
        if not all(tag in self.images[0] for tag in _GEOMETRY):
            return True
        corners = []
        for image in self.images:
            along, down = np.array(image.ImageOrientationPatient, dtype=float).reshape(2, 3)
            height, width = np.array(image.PixelSpacing, dtype=float)
            for i, j in np.ndindex(2, 2):
                offset = along * width * (image.Columns - 1) * i + down * height * (image.Rows - 1) * j
                corners.append(np.array(image.ImagePositionPatient, dtype=float) + offset)
        ends = grid.to_world(np.array(list(np.ndindex(2, 2, 2))) * (np.array(grid.size) - 1))
        return bool((np.min(corners, 0) <= ends.max(0)).all() and (ends.min(0) <= np.max(corners, 0)).all())


def check_pair(fixed: Series, moving: Series, grid: Grid) -> None:
    """Raise `UserError` (code `dicom`) unless the series can be those of a registration over the fixed `grid`."""
    if fixed.images[0].SeriesInstanceUID == moving.images[0].SeriesInstanceUID:
        raise UserError("dicom", "The fixed and the moving series are the same.", "Give one folder for each.")
    if fixed.images[0].get("PatientID", "") != moving.images[0].get("PatientID", ""):
        raise UserError(
            "dicom", "The two series are of different patients.", "A DICOM object belongs to one; use another format."
        )
    if not fixed.overlaps(grid):
        raise UserError(
            "dicom",
            "The fixed series lies elsewhere than the result's fixed image.",
            "Give the series that the fixed image came from.",
        )


def write_registration(vectors: np.ndarray, grid: Grid, registered: Series, source: Series, path: Path) -> None:
    """Write displacements (k, j, i, 3) LPS mm at a grid's points, from `registered` to `source`. Raises OSError."""
    pydicom = _pydicom()
    if np.linalg.det(grid.matrix) < 0:  # the standard's third axis is the product of the first two
        first = grid.to_world(np.array([0, 0, grid.size[2] - 1]))
        vectors, grid = vectors[::-1], Grid(grid.size, first, grid.matrix * [1, 1, -1])
    header, now = registered.images[0], datetime.now()
    data = pydicom.Dataset()
    for tag in (*_PATIENT, *_STUDY, "PositionReferenceIndicator"):
        setattr(data, tag, header.get(tag, ""))
    for tag in ("SpecificCharacterSet", "PatientIdentityRemoved", "DeidentificationMethod"):
        if tag in header:
            data[tag] = header[tag]
    data.SOPClassUID, data.SOPInstanceUID = SOP_CLASS, pydicom.uid.generate_uid(prefix=None)
    data.Modality, data.SeriesInstanceUID = "REG", pydicom.uid.generate_uid(prefix=None)
    data.SeriesNumber, data.InstanceNumber, data.Laterality = "1", "1", ""
    data.SeriesDescription = "Deformable registration, for research use"
    data.FrameOfReferenceUID = registered.frame_of_reference
    data.Manufacturer = data.ManufacturerModelName = "INRRegistration"
    data.DeviceSerialNumber, data.SoftwareVersions = "none", _version()
    data.ContentDate = data.SeriesDate = data.InstanceCreationDate = now.strftime("%Y%m%d")
    data.ContentTime = data.SeriesTime = data.InstanceCreationTime = now.strftime("%H%M%S")
    data.ContentLabel, data.ContentDescription = "DEFORMABLE", "Implicit neural representation, sampled"
    data.ContentCreatorName = ""
    data.DeformableRegistrationSequence = [_item(registered, None), _item(source, _grid(vectors, grid))]
    _add_references(data, registered, source)
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.save_as(path, enforce_file_format=True)


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_registration(path: Path) -> PointMap:
    """The map of a Deformable Spatial Registration object, from registered to source points.

    Raises `UserError` (code `transform`) for any other DICOM file, and where points are left undefined.
    """
    from inrreg.transforms import Affine, Chain, DisplacementGrid

    pydicom = _pydicom()
    try:
        data = pydicom.dcmread(path)
        if data.get("SOPClassUID") != SOP_CLASS:
            raise UserError("transform", f"The DICOM file {path} is no {_NAME} object.")
        items = [item for item in data.DeformableRegistrationSequence if item.get("DeformableRegistrationGridSequence")]
        if len(items) != 1:
            raise UserError("transform", f"The object {path} holds {len(items)} deformations.", "One can be read.")
        before, after = (
            _matrix(items[0].get(f"{when}DeformationMatrixRegistrationSequence")) for when in ("Pre", "Post")
        )
        (box,) = items[0].DeformableRegistrationGridSequence
        size, spacing = tuple(int(n) for n in box.GridDimensions), np.array(box.GridResolution, dtype=float)
        along, down = np.array(box.ImageOrientationPatient, dtype=float).reshape(2, 3)
        direction = np.stack([along, down, np.cross(along, down)], -1)
        grid = Grid(size, np.array(box.ImagePositionPatient, dtype=float), direction * spacing)
        vectors = np.frombuffer(box.VectorGridData, "<f4").reshape(*size[::-1], 3).astype(np.float64)
    except (AttributeError, KeyError, TypeError, ValueError, pydicom.errors.InvalidDicomError):
        raise UserError("transform", f"The registration object {path} is damaged.") from None
    if not np.isfinite(vectors).all():
        raise UserError("transform", f"The object {path} leaves the deformation undefined at some points.")
    points = grid.points()
    moved = points @ before[:3, :3].T + before[:3, 3] + vectors
    field = DisplacementGrid(moved - points, grid)
    return field if np.array_equal(after, np.eye(4)) else Chain((field, Affine(after[:3, :3], after[:3, 3])))


def _item(series: Series, grid: pydicom.Dataset | None) -> pydicom.Dataset:
    """How one series comes into registered coordinates: by a grid, or as it is."""
    item = _pydicom().Dataset()
    item.SourceFrameOfReferenceUID = series.frame_of_reference
    item.ReferencedImageSequence = [_reference(image) for image in series.images]
    item.RegistrationTypeCodeSequence = []
    item.PreDeformationMatrixRegistrationSequence = [_identity()]
    item.PostDeformationMatrixRegistrationSequence = [_identity()]
    if grid is not None:
        item.RegistrationTypeCodeSequence = [_code("125024", "DCM", "Image Content-based Alignment")]
        item.DeformableRegistrationGridSequence = [grid]
    return item


def _grid(vectors: np.ndarray, grid: Grid) -> pydicom.Dataset:
    from pydicom.valuerep import DSfloat

    item = _pydicom().Dataset()
    item.ImagePositionPatient = [DSfloat(value, auto_format=True) for value in grid.origin.tolist()]
    item.ImageOrientationPatient = [DSfloat(value, auto_format=True) for value in grid.direction.T[:2].ravel().tolist()]
    item.GridDimensions = list(grid.size)
    item.GridResolution = grid.spacing.tolist()
    item.VectorGridData = np.ascontiguousarray(vectors, dtype="<f4").tobytes()
    return item


def _identity() -> pydicom.Dataset:
    item = _pydicom().Dataset()
    item.FrameOfReferenceTransformationMatrixType = "RIGID"
    item.FrameOfReferenceTransformationMatrix = np.eye(4).ravel().tolist()
    return item


def _matrix(sequence: pydicom.Sequence | None) -> np.ndarray:
    """The 4 x 4 matrix of a sequence, the identity where it has none."""
    if not sequence:
        return np.eye(4)
    return np.array(sequence[0].FrameOfReferenceTransformationMatrix, dtype=float).reshape(4, 4)


def _code(value: str, scheme: str, meaning: str) -> pydicom.Dataset:
    item = _pydicom().Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _reference(image: pydicom.Dataset) -> pydicom.Dataset:
    item = _pydicom().Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return item


def _add_references(data: pydicom.Dataset, registered: Series, source: Series) -> None:
    """The Common Instance Reference module: series of this object's study, then those of others (C.12.2)."""
    for series in (registered, source):
        item = _pydicom().Dataset()
        item.SeriesInstanceUID = series.images[0].SeriesInstanceUID
        item.ReferencedInstanceSequence = [_reference(image) for image in series.images]
        study = series.images[0].StudyInstanceUID
        if study == data.StudyInstanceUID:
            data.ReferencedSeriesSequence = [*data.get("ReferencedSeriesSequence", []), item]
        else:
            other = _pydicom().Dataset()
            other.StudyInstanceUID, other.ReferencedSeriesSequence = study, [item]
            data.StudiesContainingOtherReferencedInstancesSequence = [other]


def _version() -> str:
    try:
        return importlib.metadata.version("inrreg")
    except importlib.metadata.PackageNotFoundError:  # as a Slicer extension, it is not installed by pip
        return "unpackaged"


def _pydicom():
    try:
        import pydicom
        import pydicom.errors
        import pydicom.uid
    except ImportError:
        raise UserError(
            "package", "Registration objects in DICOM need pydicom.", "Install it: pip install pydicom"
        ) from None
    return pydicom
