"""Self-similarity descriptors: what both images of a pair have in common whatever their contrast.

MIND-SSC (Heinrich et al., MICCAI 2013): twelve distances between patches around a point, each of two of its six
neighbours that are not opposite. They depend on where the image changes, not on which way its intensities run.
"""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from inrreg.similarity import GaussianWindow

PATCH = 0.8
"""Sigma of the patches, in samples."""
FLAT = 1e-2
"""Squared length, of descriptors up to about 1, below which a point tells nothing."""

_STEPS = [tuple(sign * int(axis == a) for a in range(3)) for axis in range(3) for sign in (-1, 1)]
_EDGES = [
    (one, other) for one, other in combinations(_STEPS, 2) if any(a != -b for a, b in zip(one, other, strict=True))
]


def mind(image: Tensor, noise: float) -> Tensor:
    """The descriptors (12, D, H, W) of an image (D, H, W): of mean 0 over the twelve, and of length 1 but where flat.

    exp(-distance / mean distance), as published, then centred and scaled so that a product of two of them is a
    correlation. `noise` is the squared difference, in squared intensities, that tells nothing.
    """
    padded = F.pad(image[None, None], (1,) * 6, mode="replicate")[0, 0]

    def moved(step: tuple[int, int, int]) -> Tensor:
        return padded[tuple(slice(1 + s, 1 + s + n) for s, n in zip(step, image.shape, strict=True))]

    squares = torch.stack([(moved(one) - moved(other)).square() for one, other in _EDGES])
    distance = GaussianWindow(image.shape, (PATCH,) * 3, image.device)(squares)
    found = (-distance / (distance.mean(0) + noise)).exp()
    found = found - found.mean(0)
    return found / (found.square().sum(0) + FLAT).sqrt()
