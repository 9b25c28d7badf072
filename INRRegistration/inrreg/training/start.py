"""The prior that a training begins from."""

from __future__ import annotations

import numpy as np
import torch

from inrreg.encoder import Encoder
from inrreg.fields import Infused
from inrreg.prior import SIDES, Family, Prior
from inrreg.training.settings import TrainingSettings


def fresh(family: Family, settings: TrainingSettings, kind: str, seed: int) -> Prior:
    """Random templates, as ccIDIR starts from, and of `reindir` an encoder that says nothing yet.

    The templates are the same whatever the kind.
    """
    generator = torch.Generator().manual_seed(seed)
    embedding = settings.embedding if kind == "reindir" else 1
    networks = [Infused(*settings.shape, embedding, generator=generator) for _ in SIDES]
    encoder = None
    if kind == "reindir":
        share = family.boxes[1] / family.boxes[1].max()
        patch = tuple(int(n) for n in np.maximum(2, np.round(settings.patch * share)))
        shape = settings.width, settings.hidden, settings.channels, settings.embedding
        encoder = Encoder(patch, *shape, generator=generator)
    return Prior(networks, encoder, float(family.boxes[1].max() / 2), family)
