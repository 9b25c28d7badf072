"""A registration problem, ready for a method: two normalized images, masks and labels in one frame."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from inrreg.descriptors import mind
from inrreg.geometry import Frame, Grid, Volume
from inrreg.intensities import normalize
from inrreg.landmarks import Pairs
from inrreg.modality import suited
from inrreg.protocol import UserError
from inrreg.sampling import BoxSampler, VoxelSampler
from inrreg.torch_maps import Maps
from inrreg.transforms import invert

if TYPE_CHECKING:
    from inrreg.constraints import Border
    from inrreg.fields import Field
    from inrreg.prior import Prior

MIN_OVERLAP = 0.1
"""Least share of the fixed points (of the mask) that must lie in the moving image (its mask) at the start."""

DETAIL = 2.0
"""mm: descriptors are not made finer, since there are twelve of them a sample."""

NOISE = 3e-5
"""Squared intensity, of 0 to 1, below which differences tell nothing."""

HIDDEN = 0.05
"""Share of what is excluded from which a smoothed value counts as of it."""

RIGID_POINTS = 300
"""Points of a rigid structure that tell its motion."""

MIN_FILTERED = 4
"""Samples along an axis that ITK's recursive filter needs."""


@dataclass
class Problem:
    """What a method registers.

    `fixed`, `moving` are images; masks are None or images of 0 and 1 on their image's grid, labels None or
    images of integers on their image's grid. `before` takes normalized fixed-space points (N, 3) to normalized
    moving-space points: the initial transform and the prealignment, which come after the displacement field:
    moving point = before(x + u(x)).

    The fixed mask restricts the data to its points. The moving mask says which points of the moving image may
    serve as data; a fixed point that is mapped out of it, or out of the moving image, does not count.

    `guidance` are point pairs that pull the field (`inrreg.guidance`). `similarity` is one of `SIMILARITIES`. `start`
    is a field where the optimization may begin (`inrreg.continuation`): of a neighbouring moving image or, where it
    `goes_on`, of these images themselves, as the same method left it.

    Of the fixed image's grid: `exclude`, an image of 0 and 1, is what no data term looks at, beyond what the fixed mask
    leaves out; `rigid` are labels of structures that move as rigid bodies (`inrreg.constraints`), `border` is where
    this side of a sliding border meets the other one (`inrreg.sliding`). `prior` is what a method may start from.
    """

    fixed: sitk.Image
    moving: sitk.Image
    fixed_mask: sitk.Image | None = None
    moving_mask: sitk.Image | None = None
    fixed_labels: sitk.Image | None = None
    moving_labels: sitk.Image | None = None
    before: Maps = field(default_factory=Maps)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    guidance: Pairs | None = None
    similarity: str = "auto"
    exclude: sitk.Image | None = None
    rigid: sitk.Image | None = None
    border: Border | None = None
    prior: Prior | None = None
    start: Field | None = None
    goes_on: bool = False

    @cached_property
    def grid(self) -> Grid:
        """The fixed image's voxel centres."""
        return Grid.of(self.fixed)

    @cached_property
    def frame(self) -> Frame:
        """Normalized coordinates of this pair."""
        return Frame.covering(self.grid)

    @cached_property
    def images(self) -> tuple[sitk.Image, sitk.Image]:
        """Fixed and moving with normalized float32 intensities."""
        return tuple(_like(normalize(_array(image)), image) for image in (self.fixed, self.moving))

    @cached_property
    def mask(self) -> np.ndarray:
        """The fixed mask as (k, j, i) bool, everything where there is none."""
        shape = self.grid.size[::-1]
        return np.ones(shape, bool) if self.fixed_mask is None else _array(self.fixed_mask) > 0

    @cached_property
    def multimodal(self) -> bool:
        """Whether the images are compared as of two contrasts."""
        return (suited(self) if self.similarity == "auto" else self.similarity) == "multimodal"

    def smoothed(self, image: sitk.Image, sigma: float | np.ndarray) -> np.ndarray:
        """An image's array (k, j, i) after a Gaussian of `sigma` mm, one or (3,) along its axes; 0 for none."""
        for axis, part in enumerate(np.broadcast_to(sigma, 3).tolist()):
            if part > 0 and image.GetSize()[axis] >= MIN_FILTERED:
                image = sitk.RecursiveGaussian(image, sigma=part, direction=axis)
        return _array(image)

    def moving_volume(self, sigma: float | np.ndarray = 0.0) -> Volume:
        """The moving image after a Gaussian of `sigma` mm."""
        return self._volume(self.smoothed(self.images[1], sigma), self.moving)

    def fixed_volume(self, sigma: float | np.ndarray = 0.0) -> Volume:
        """The fixed image after a Gaussian of `sigma` mm."""
        return self._volume(self.smoothed(self.images[0], sigma), self.fixed)

    def compared(self, sigma: float = 0.0) -> tuple[Volume | None, Volume]:
        """What methods that draw points compare: volumes of both images after a Gaussian of `sigma` mm.

        Of one contrast the moving image, and None for the fixed one, whose value is drawn with each voxel; of two
        their self-similarity descriptors, at samples `DETAIL` mm apart.
        """
        if not self.multimodal:
            return None, self.moving_volume(sigma)
        volumes = []
        for image, volume in ((self.fixed, self.fixed_volume(sigma)), (self.moving, self.moving_volume(sigma))):
            own = Grid.of(image)
            grid = own.resampled(np.maximum(own.spacing, DETAIL))
            points = torch.as_tensor(self.frame.normalize(grid.points()), dtype=torch.float32, device=self.device)
            found = mind(volume.sample(points)[0], NOISE)
            volumes.append(Volume.of(found.cpu().numpy(), grid, self.frame, self.device))
        return volumes[0], volumes[1]

    @cached_property
    def moving_mask_volume(self) -> Volume | None:
        """The moving mask as a volume, or None."""
        return None if self.moving_mask is None else self._volume(_array(self.moving_mask) > 0, self.moving)

    @cached_property
    def fixed_mask_volume(self) -> Volume | None:
        """The fixed mask as a volume, or None."""
        return None if self.fixed_mask is None else self._volume(self.mask, self.fixed)

    @cached_property
    def guides(self) -> tuple[Tensor, Tensor] | None:
        """The guiding points, fixed and moving, normalized (G, 3) each, or None."""
        if self.guidance is None:
            return None
        ends = (self.frame.normalize(points) for points in (self.guidance.fixed, self.guidance.moving))
        return tuple(torch.as_tensor(points, dtype=torch.float32, device=self.device) for points in ends)

    def seen(self, sigma: float | np.ndarray) -> Volume | None:
        """1 where the fixed image after a Gaussian of `sigma` mm shows nothing of what is excluded, else 0, or None."""
        if self.exclude is None:
            return None
        spread = self.smoothed(sitk.Cast(self.exclude, sitk.sitkFloat32), sigma)
        return self._volume(spread < HIDDEN, self.fixed)

    @cached_property
    def rigid_points(self) -> Tensor | None:
        """`RIGID_POINTS` voxels of each rigid structure, drawn with replacement, (L, P, 3) normalized, or None."""
        if self.rigid is None:
            return None
        labels, random, rows = _array(self.rigid), np.random.default_rng(0), []
        for value in np.unique(labels[labels != 0]):
            places = np.stack(np.nonzero(labels == value)[::-1], -1)
            rows.append(self.grid.to_world(places[random.integers(len(places), size=RIGID_POINTS)]))
        points = self.frame.normalize(np.stack(rows))
        return torch.as_tensor(points, dtype=torch.float32, device=self.device)

    @cached_property
    def labels(self) -> tuple[np.ndarray, Volume] | None:
        """Membership of each label that both images have: the fixed (L, k, j, i), the moving as a volume."""
        if self.fixed_labels is None:
            return None
        fixed, moving = _array(self.fixed_labels), _array(self.moving_labels)
        common = [value for value in np.intersect1d(np.unique(fixed), np.unique(moving)) if value != 0]
        if not common:
            raise UserError(
                "labels", "Fixed and moving labels have no label in common.", "Number the same structures alike."
            )
        rows = [np.stack([array == value for value in common]) for array in (fixed, moving)]
        return rows[0], self._volume(rows[1], self.moving)

    def valid(self, points: Tensor, moving: Volume) -> Tensor:
        """1 where moving-space points (..., 3) lie in the moving image and its mask, else 0; no gradient."""
        return self.valid_located(moving.locate(points), moving)

    @torch.no_grad()
    def valid_located(self, located: Tensor, moving: Volume) -> Tensor:
        """`valid` of what `moving.locate` gave; the moving mask shares the moving image's grid."""
        inside = moving.contains_located(located)
        if self.moving_mask_volume is not None:
            inside &= self.moving_mask_volume.sample_located(located)[0] > 0.5
        return inside.to(torch.float32)

    def voxels(self, sigma: float = 0.0, *, seed: int = 0) -> VoxelSampler:
        """Random voxels of the fixed mask with their value after a Gaussian of `sigma` mm, then their labels."""
        return self._sampler([self.smoothed(self.images[0], sigma), *(self.labels[0] if self.labels else ())], seed)

    def box(self, *, seed: int = 0) -> BoxSampler:
        """Random points of the whole fixed image."""
        return BoxSampler.of(self.grid, self.frame, self.device, self.seed + seed)

    def check_overlap(self) -> None:
        """Raise `UserError` (code `overlap`) when too few fixed points start inside the moving image."""
        points, _ = self._sampler([], seed=7).draw(20_000)
        share = self.valid(self.before(points), self.moving_volume()).mean().item()
        if share < MIN_OVERLAP:
            raise UserError(
                "overlap",
                f"Only {share:.0%} of the fixed image or its mask overlaps the moving image or its mask.",
                "Align the volumes first, or use an initial transform or prealignment.",
            )

    def reversed(self) -> Problem:
        """The same pair the other way round, in the same coordinates: from the moving image, as `before` brings it to
        the fixed grid, to the fixed image. What `before` takes out of the moving image or its mask is masked.

        Guiding points and a sliding border are those of the way back. Rigid structures are not among it, since where
        they lie in the moving image is not known: see `inrreg.constraints.way_back`.
        """
        moving = self._volume(_array(self.moving), self.moving)
        labels = None if self.labels is None else self.labels[1]
        parts: list[tuple[Tensor, ...]] = []
        for k in range(self.grid.size[2]):  # a slice at a time bounds the memory
            plane = Grid((*self.grid.size[:2], 1), self.grid.to_world(np.array([0, 0, k])), self.grid.matrix)
            points = torch.as_tensor(self.frame.normalize(plane.points()), dtype=torch.float32, device=self.device)
            located = self.before(points[0].reshape(-1, 3)).reshape(points[0].shape)
            row = [moving.sample(located)[0], self.valid(located, moving)]
            if labels is not None:
                share, number = labels.sample(located).max(0)
                row.append((number + 1) * (share > 0.5))
            parts.append(tuple(row))
        image, inside, *rest = (torch.stack(row).cpu().numpy() for row in zip(*parts, strict=True))
        whole = self.moving_mask is None and inside.all()
        ends = None, None
        if labels is not None and rest[0].any():  # else none of the structures lies in the fixed image's box
            numbers = np.sum([(i + 1) * row for i, row in enumerate(self.labels[0])], axis=0)
            ends = tuple(self.grid.image(each.astype(np.int32)) for each in (rest[0], numbers))
        return Problem(
            self.grid.image(image),
            self.fixed,
            None if whole else self.grid.image(inside.astype(np.uint8)),
            self.fixed_mask,
            *ends,
            device=self.device,
            seed=self.seed + 100,
            similarity="multimodal" if self.multimodal else "ncc",
            guidance=self._guidance_back(),
            border=None if self.border is None else self.border.reversed(),
        )

    def _guidance_back(self) -> Pairs | None:
        """The guiding pairs from where `before` reaches their moving point, to their fixed point."""
        if (pairs := self.guidance) is None:
            return None
        return replace(pairs, fixed=invert(_Before(self), pairs.moving), moving=pairs.fixed)

    def _sampler(self, values: list[np.ndarray], seed: int) -> VoxelSampler:
        mask = None if self.fixed_mask is None else self.mask
        return VoxelSampler.of(mask, values, self.grid, self.frame, self.device, self.seed + seed)

    def _volume(self, array: np.ndarray, image: sitk.Image) -> Volume:
        return Volume.of(array, Grid.of(image), self.frame, self.device)


@dataclass(frozen=True)
class _Before:
    """A problem's `before` on points (N, 3) LPS mm."""

    problem: Problem

    def map(self, points: np.ndarray) -> np.ndarray:
        frame, device = self.problem.frame, self.problem.device
        x = torch.as_tensor(frame.normalize(points), dtype=torch.float32, device=device)
        return frame.to_world(self.problem.before(x).cpu().numpy().astype(np.float64))


def _array(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def _like(array: np.ndarray, image: sitk.Image) -> sitk.Image:
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(image)
    return result
