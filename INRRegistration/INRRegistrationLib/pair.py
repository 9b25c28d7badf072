"""Two volumes and what is drawn on them, as nodes: checked, and turned into the files of a job folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inrreg.protocol import UserError

from . import export, hierarchy, landmark_lists

SIDES = ("fixed", "moving")


@dataclass
class Pair:
    """What a registration, and its evaluation, are made from; the files are named as in `inrreg.protocol.Job`.

    Masks and labels are segmentations or label maps, landmarks lists of control points. `segments` are the ids of the
    chosen ones, None for all; `guides` the ids of the fixed landmarks whose pairs pull the registration.
    """

    fixed: Any
    moving: Any
    fixed_mask: Any = None
    moving_mask: Any = None
    fixed_mask_segments: list[str] | None = None
    moving_mask_segments: list[str] | None = None
    fixed_labels: Any = None
    moving_labels: Any = None
    fixed_landmarks: Any = None
    moving_landmarks: Any = None
    guides: list[str] | None = None

    def check(self) -> None:
        """Raise `UserError` with what is missing or contradictory; the first thing first."""
        fixed, moving = self.fixed, self.moving
        if fixed is None:
            raise UserError("input", "Choose a fixed volume.")
        if moving is None:
            raise UserError("input", "Choose a moving volume.")
        if fixed is moving:
            raise UserError("input", "Fixed and moving volume are the same.", "Choose two volumes.")
        for node in (fixed, moving):
            if node.GetScene() is None:
                raise UserError("scene", f"'{node.GetName()}' was deleted.", "Choose another volume.")
            if node.GetImageData() is None:
                raise UserError("image", f"'{node.GetName()}' holds no image.", "Choose another volume.")
        for side in SIDES:
            check_segments(getattr(self, f"{side}_mask"), getattr(self, f"{side}_mask_segments"), f"{side} mask")
        if (self.fixed_labels is None) != (self.moving_labels is None):
            raise UserError("labels", "Structure labels are needed for both volumes.", "Choose both or neither.")
        if (self.fixed_landmarks is None) != (self.moving_landmarks is None):
            raise UserError("landmarks", "Landmarks are needed for both volumes.", "Choose both lists or neither.")
        if self.fixed_landmarks is not None:
            landmark_lists.pairs(self.fixed_landmarks, self.moving_landmarks)

    def files(self) -> Files:
        """Read the scene. Raises `UserError` where a node cannot be exported."""
        images, points, names = {}, {}, {}
        for side in SIDES:
            images[side] = export.volume(getattr(self, side), self._to_frame(getattr(self, side), side))
            if mask := getattr(self, f"{side}_mask"):
                chosen = getattr(self, f"{side}_mask_segments")
                images[f"{side}_mask"] = export.labels(mask, self._to_frame(mask, side), chosen=chosen)
        if self.fixed_labels is not None:
            values = export.common_segments(self.fixed_labels, self.moving_labels)
            for side in SIDES:
                node = getattr(self, f"{side}_labels")
                images[f"{side}_labels"] = export.labels(node, self._to_frame(node, side), values=values)
            names = {str(value): name for name, value in (values or {}).items()}
        if self.fixed_landmarks is not None:
            lists = [getattr(self, f"{side}_landmarks") for side in SIDES]
            chosen = landmark_lists.rows_of(*lists, self.guides or [])
            for side, node, rows in zip(SIDES, lists, chosen, strict=True):
                known = landmark_lists.points(node, self._to_frame(node, side))
                points[f"{side}_landmarks"] = known
                if rows:
                    points[f"guide_{side}"] = landmark_lists.only(known, rows)
        return Files(images, points, names)

    def _to_frame(self, node: Any, side: str) -> Any:
        frame = hierarchy.frame(self.fixed, self.moving)
        path = hierarchy.shown(node, frame) if side == "fixed" else hierarchy.unmoved(node, frame, self.moving)
        return hierarchy.composed(path)


def check_segments(node: Any, segments: list[str] | None, title: str) -> None:
    """Raise `UserError` where there is a segmentation of which no segment is chosen."""
    if node is not None and node.IsA("vtkMRMLSegmentationNode") and segments == []:
        hint = "Choose at least one, or None in place of the segmentation."
        raise UserError("segmentation", f"No segment of the {title} '{node.GetName()}' is chosen.", hint)


@dataclass
class Files:
    """A pair as it stood in the scene, by the entries of a job; nothing of the scene is touched any more."""

    images: dict[str, export.Snapshot]
    points: dict[str, Any]
    label_names: dict[str, str]
    """The structures' names by label."""

    @property
    def names(self) -> dict[str, str]:
        """File names by job entry."""
        return {**{name: f"{name}.nrrd" for name in self.images}, **{name: f"{name}.mrk.json" for name in self.points}}

    def write(self, folder: Path) -> None:
        """Write them all. Safe off the GUI thread."""
        names = self.names
        for name, snapshot in self.images.items():
            snapshot.write(folder / names[name])
        landmark_lists.write(folder, {names[name]: known for name, known in self.points.items()})
