"""What was learned of many pairs, to start the next one from: two networks and, of REINDIR, the encoder.

One file of safetensors, with a JSON description in its header, so that nothing in it is ever run.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from inrreg.encoder import Encoder
from inrreg.fields import Infused
from inrreg.geometry import Grid, Volume
from inrreg.intensities import is_ct
from inrreg.problem import Problem
from inrreg.protocol import UserError
from inrreg.torch_maps import Maps

VERSION = 1
KINDS = ("CT", "no CT")
"""What an image may be: whether its values look like Hounsfield units."""
AXES = ("left to right", "back to front", "head to foot")
BEYOND = 1.25
"""An image may be so many times larger or smaller than the largest and the smallest of the training."""
SIDES = ("there", "back")
MOST_HIDDEN = 64
"""Layers of a network in a file."""
CONTRAST = 4.0
"""What the difference of the images is multiplied by for the encoder."""


@dataclass(frozen=True)
class Family:
    """The images that a prior is for: their kinds, fixed and moving, and the boxes (2, 3) of the fixed ones, mm.

    Boxes are along the axes of LPS, the smallest and the largest of the training's.
    """

    kinds: tuple[str, str]
    boxes: np.ndarray

    @classmethod
    def of(cls, problem: Problem) -> Family:
        """The family of one pair."""
        return cls((kind(problem.fixed), kind(problem.moving)), np.stack([box(problem.grid)] * 2))

    def check(self, problem: Problem) -> None:
        """Raise `UserError` (code `prior`) for a pair that is not of this family."""
        other = Family.of(problem)
        for name, own, seen in zip(("fixed", "moving"), self.kinds, other.kinds, strict=True):
            if own != seen:
                message = f"The prior was trained with a {name} image that is {own}, and this one is {seen}."
                raise UserError("prior", message, "Choose another prior, or none.")
        for axis, low, high, size in zip(AXES, *self.boxes, other.boxes[0], strict=True):
            if not low / BEYOND <= size <= high * BEYOND:
                message = f"The prior was trained on images of {low:.0f} to {high:.0f} mm from {axis}"
                hint = "Crop the image to what the prior knows, choose another prior, or none."
                raise UserError("prior", f"{message}, and the fixed one has {size:.0f} mm.", hint)


def kind(image: sitk.Image) -> str:
    """One of `KINDS`."""
    return KINDS[0] if is_ct(sitk.GetArrayViewFromImage(image)) else KINDS[1]


def box(grid: Grid) -> np.ndarray:
    """A grid's size along the axes of LPS, (3,) mm."""
    return np.abs(grid.direction) @ grid.extent


@dataclass(frozen=True)
class Views:
    """A pair as an encoder is shown it: smoothed to the encoder's grid, at points of the fixed image's frame."""

    fixed: Volume
    moving: Volume
    before: Maps


@dataclass
class Prior:
    """Template networks there and back, and the encoder that specializes them, or None (Reptile, averaging).

    The networks' coordinates are of `scale` mm, whatever the image at hand has; `about` tells how it was made.
    """

    networks: list[Infused]
    encoder: Encoder | None
    scale: float
    family: Family
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def modules(self) -> nn.ModuleDict:
        """All that is learned, by name."""
        parts: dict[str, nn.Module] = dict(zip(SIDES, self.networks, strict=True))
        return nn.ModuleDict(parts | ({} if self.encoder is None else {"encoder": self.encoder}))

    def to(self, device: torch.device) -> Prior:
        """Itself, moved there."""
        self.modules.to(device)
        return self

    def zoom(self, problem: Problem) -> float:
        """What normalized coordinates of a pair are multiplied by to be the networks'."""
        return problem.frame.scale / self.scale

    def start(self, problem: Problem) -> list[Infused]:
        """Networks there and back that know this pair's images, to be optimized.

        Raises `UserError` (code `prior`) for a pair that the prior is not for.
        """
        self.family.check(problem)
        zoom = self.zoom(problem)
        with torch.no_grad():
            return self.infused(zoom, None if self.encoder is None else self.encode(self.views(problem), zoom))

    def infused(self, zoom: float, modulation: list[tuple[Tensor, Tensor]] | None) -> list[Infused]:
        """Copies of the templates for a frame, with that in them."""
        copies = [copy.deepcopy(network).requires_grad_(True) for network in self.networks]
        for each in copies:
            each.zoom = zoom
        if modulation is not None:
            infuse(copies, modulation)
        return copies

    def views(self, problem: Problem) -> Views:
        """The pair for the encoder: each image smoothed where the encoder's grid is coarser than its own."""
        step = float((2 * self._half / np.maximum(np.array(self.encoder.patch) - 1, 1)).max()) * self.scale
        fixed, moving = (Grid.of(image).spacing for image in (problem.fixed, problem.moving))
        sigmas = [np.where(step > spacing, step / 2, 0.0) for spacing in (fixed, moving)]
        return Views(problem.fixed_volume(sigmas[0]), problem.moving_volume(sigmas[1]), problem.before)

    def encode(self, views: Views, zoom: float) -> list[tuple[Tensor, Tensor]]:
        """What the encoder infuses, for images seen `zoom` times as large as the fixed frame has them."""
        axes = [torch.linspace(-h, h, n) for h, n in zip(self._half.tolist(), self.encoder.patch, strict=True)]
        z, y, x = torch.meshgrid(*reversed(axes), indexing="ij")
        points = (torch.stack([x, y, z], -1) / zoom).to(views.fixed.data)
        moved = views.before(points.reshape(-1, 3)).reshape(points.shape)
        fixed, moving = views.fixed.sample(points), views.moving.sample(moved)
        # For the first convolution the same as both images, but what tells motion is not lost beside the anatomy.
        return self.encoder(torch.cat([fixed - 0.5, CONTRAST * (moving - fixed)]))

    @property
    def _half(self) -> np.ndarray:
        """Half the box that the encoder sees, in the networks' coordinates."""
        return self.family.boxes[1] / 2 / self.scale

    # --------------------------------------------------------------------------------------- files

    def save(self, path: Path, extra: dict[str, Tensor] | None = None) -> None:
        """Write the file, complete or not at all; `extra` are further tensors, which `load` leaves alone.

        Raises OSError.
        """
        network = self.networks[0]
        shape = {name: getattr(network, name) for name in ("width", "hidden", "omega", "embedding")}
        description = {
            "version": VERSION,
            "networks": shape,
            "encoder": None if self.encoder is None else self.encoder.spec(),
            "scale": self.scale,
            "kinds": list(self.family.kinds),
            "boxes": self.family.boxes.tolist(),
            "about": self.about,
        }
        tensors = {name: each.detach().cpu().contiguous() for name, each in self.modules.state_dict().items()}
        partial = path.with_name(path.name + ".partial")
        try:
            content = save({**tensors, **(extra or {})}, {"prior": json.dumps(description, allow_nan=False)})
            partial.write_bytes(content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Prior:
        """The prior in a file. Raises `UserError` (code `prior`) for one that is missing, damaged or something else."""
        return cls.load_with(path)[0]

    @classmethod
    def load_with(cls, path: str | Path) -> tuple[Prior, dict[str, Tensor]]:
        """The prior in a file, and the further tensors."""
        path, hint = Path(path), "Give a file that 'inrreg train-prior' wrote."
        if not path.is_file():
            raise UserError("prior", f"There is no prior {path}.", hint)
        try:
            with safe_open(path, "pt") as file:
                description = json.loads((file.metadata() or {})["prior"])
                # Copied to where torch would have put them: sums depend, in the last place, on alignment.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
            return cls._of(description, tensors), tensors
        except (SafetensorError, LookupError, TypeError, AttributeError, ValueError, RuntimeError, OSError):
            raise UserError("prior", f"{path} is no prior of version {VERSION}, or it is damaged.", hint) from None

    @classmethod
    def _of(cls, description: dict[str, Any], tensors: dict[str, Tensor]) -> Prior:
        """Takes its tensors out of `tensors`. Raises ValueError and its like for what does not fit together."""
        if description["version"] != VERSION:
            raise ValueError("another version")
        shape = description["networks"]
        if not (1 <= shape["hidden"] <= MOST_HIDDEN and 0 < shape["omega"] < 1e6):
            raise ValueError("no networks")
        with torch.device("meta"):  # costs nothing, however large a damaged file says that they are
            networks = [Infused(**shape) for _ in SIDES]
            encoder = None if description["encoder"] is None else Encoder(**description["encoder"])
        boxes, scale = np.array(description["boxes"], float), float(description["scale"])
        kinds = tuple(description["kinds"])
        if boxes.shape != (2, 3) or not (np.isfinite(boxes).all() and (boxes > 0).all() and 0 < scale < 1e6):
            raise ValueError("no boxes")
        if len(kinds) != 2 or not set(kinds) <= set(KINDS):
            raise ValueError("no kinds")
        made = cls(networks, encoder, scale, Family(kinds, boxes), dict(description["about"]))
        own = {name: tensors.pop(name) for name in made.modules.state_dict()}
        if not all(tensor.isfinite().all() for tensor in own.values()):
            raise ValueError("weights that are no numbers")
        made.modules.load_state_dict(own, assign=True)
        return made


def infuse(networks: list[Infused], modulation: list[tuple[Tensor, Tensor]]) -> None:
    """Put each network's gamma and delta into it."""
    for network, (gamma, delta) in zip(networks, modulation, strict=True):
        network.gamma, network.delta = gamma, delta
