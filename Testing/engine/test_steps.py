"""What a step may ask of a device: nothing that the host waits for, nothing that a device lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from Testing.engine.test_methods import QUICK, fit, methods, problem
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from inrreg import optimization
from inrreg.geometry import trilinear
from inrreg.landmarks import Pairs
from inrreg.optimization import Run

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "is_nonzero", "equal"}
"""Operations that read a value of the device, or bring a new one there."""


class Watch(TorchDispatchMode):
    """Counts the operations that make the host wait, and those on types that not every device has."""

    def __init__(self) -> None:
        super().__init__()
        self.waits, self.wide = Counter(), Counter()
        self.resting = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.resting:
            return func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        indices = args[1] if name.startswith("index") and len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
        if name in WAITING or any(getattr(index, "dtype", None) == torch.bool for index in indices):
            self.waits[name] += 1
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.float64:
            self.wide[name] += 1
        return made


class Watched(Run):
    """A run whose steps, but for the first of each stage and the optimizer's own part, are watched."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def stage(self, name: str, steps: int) -> Iterator[float]:
        for number, part in enumerate(super().stage(name, steps)):
            if number:
                with self.watch:
                    yield part
            else:  # the first one may set something up
                yield part


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    hooks = [  # torch's optimizers keep a step's number on the host
        register_optimizer_step_pre_hook(lambda *_: setattr(watch, "resting", True)),
        register_optimizer_step_post_hook(lambda *_: setattr(watch, "resting", False)),
    ]
    yield watch
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("method", methods())
def test_no_step_waits_for_the_device_or_needs_double_precision(
    method: str, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimization, "REPORT_EVERY", float("inf"))
    ends = np.array([[0.0, 10.0, 20.0], [-30.0, 5.0, 0.0]])
    given = problem(guidance=Pairs(ends, ends + 1.0, ("1", "2"), "order", {}))
    steps = QUICK[method]["steps"]
    short = {"steps": (21, 21, 4)[-len(steps) :] if isinstance(steps, tuple) else 21}
    short |= {"points": 200} if "points" in QUICK[method] else {}
    fit(method, Watched(watch), given, **short)
    # the terms are told at the very end, two means by `settle` once in SPAN steps
    assert sum(watch.waits.values()) <= 10, watch.waits
    assert not watch.wide, watch.wide


def test_the_watch_sees_what_waits(watch: Watch) -> None:
    x = torch.arange(4.0)
    with watch:
        float(x[0]), x[x > 1], torch.tensor([1.0]), x.double()
    assert sum(watch.waits.values()) == 3
    assert sum(watch.wide.values()) == 1


@pytest.mark.parametrize("shape", [(2, 5, 4, 6), (1, 1, 3, 2)])
def test_gathering_samples_a_volume_as_torch_does(shape: tuple[int, ...]) -> None:
    random = torch.Generator().manual_seed(0)
    data = torch.rand(shape, generator=random, dtype=torch.float64)
    located = (3 * torch.rand(7, 11, 3, generator=random, dtype=torch.float64) - 1.5).requires_grad_()
    expected = F.grid_sample(data[None], located[None, None], padding_mode="border", align_corners=True)[0, :, 0]
    found = trilinear(data, located)
    assert torch.allclose(found, expected, atol=1e-12)
    pull = torch.rand(expected.shape, generator=random, dtype=torch.float64)
    slopes = [torch.autograd.grad((values * pull).sum(), located)[0] for values in (found, expected)]
    assert torch.allclose(*slopes, atol=1e-12)
