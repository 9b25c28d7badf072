"""Settings of a prior's training, which `inrreg train-prior --set` changes."""

from __future__ import annotations

from dataclasses import dataclass

from inrreg.methods.ccidir import CcidirSettings
from inrreg.protocol import setting

KINDS = ("reindir", "reptile", "average")
"""Template and encoder; template alone (Nichol et al. 2018); the mean of networks solved from one random start."""


@dataclass(frozen=True)
class TrainingSettings(CcidirSettings):
    """As published (van Harten et al., table 2) but for what it leaves to the data: how often to look at the error.

    Of the inherited ones, `rate` and `final_rate` are those of the inner loop: SGD or, for an average, Adam.
    """

    points: int = setting(5000, "random points a step of the inner loop", low=100, high=10_000_000)
    steps: int = setting(22_750, "outer steps", low=1, high=10_000_000)
    inner_steps: int = setting(10, "steps of an inner loop", low=1, high=100_000)
    solving_steps: int = setting(600, "steps that solve a pair, for an average", low=1, high=1_000_000)
    batch: int = setting(3, "pairs of an outer step, of the manifests in turn", low=1, high=10_000)
    outer_rate: float = setting(1.0, "part of the way to the mean solution that an outer step goes", low=1e-6, high=1)
    encoder_rate: float = setting(1e-5, "largest learning rate of the encoder", low=1e-9, high=1)
    warm_up: int = setting(250, "outer steps in which the encoder's rate rises", low=0, high=1_000_000)
    cycles: int = setting(4, "cosines of the encoder's rate", low=1, high=1000)
    smallest: float = setting(0.8, "smallest scale at which images are shown", low=0.1, high=1)
    largest: float = setting(1.2, "largest scale at which images are shown", low=1, high=10)
    patch: int = setting(336, "samples along the longest side of what the encoder sees", low=4, high=1024)
    channels: int = setting(6, "features of the encoder's first layer", low=1, high=64)
    embedding: int = setting(1025, "length of the embedding", low=1, high=100_000)
    every: int = setting(
        50, "outer steps between two looks at the zero-shot error, which are kept", low=1, high=100_000
    )
