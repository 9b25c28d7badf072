"""Running an optimization: stages, schedules, stopping, progress and cancelling."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from inrreg.fields import Field
from inrreg.protocol import UserError

Emit = Callable[[str, dict[str, Any]], None]
REPORT_EVERY = 0.15
"""Seconds between progress events: reading a loss waits for the device."""

SPAN = 10
"""Steps over which `Run.settle` takes the mean of a loss."""


class Cancelled(Exception):
    """The user cancelled; nothing has been written."""


class Run:
    """One optimization as its method sees it: it announces stages, loops over their steps, reports losses.

    `emit(kind, data)` takes the events, `cancelled()` is asked between steps. With a `time_budget` in
    seconds each stage gets its share of what is left, by its announced cost; 0 means no limit.
    """

    def __init__(
        self,
        emit: Emit = lambda kind, data: None,
        cancelled: Callable[[], bool] = lambda: False,
        *,
        seed: int = 0,
        time_budget: float = 0.0,
    ) -> None:
        self.emit, self.cancelled, self.seed = emit, cancelled, seed
        self.started = time.perf_counter()
        self.deadline = self.started + time_budget if time_budget else math.inf
        self.field: Field | None = None
        """The field that is being optimized: its method sets it, whoever shows it evaluates it."""
        self.part = 0.0
        """How much of all stages is done, 0 to 1: set at each step."""
        self.restarts = 0
        """How often the optimization diverged and was begun anew."""
        self.look: Callable[[Field, bool], None] = lambda field, stage_ends: None
        """Is given the field between steps, and where a stage ends: for whoever shows it meanwhile."""
        self._costs: list[float] = []
        self._done = self._total = 0
        self._work = self._worked = self._step_work = 0.0
        self._reported = -math.inf
        self._stage, self._begun = "", self.started
        self._losses: list[Tensor] = []
        self._settled = False

    def seconds(self) -> float:
        """Time since the job began."""
        return time.perf_counter() - self.started

    def check_cancelled(self) -> None:
        """Raise `Cancelled` once the user asked for it."""
        if self.cancelled():
            raise Cancelled

    def members(self, count: int) -> Iterator[Run]:
        """One run after another for `count` optimizations, whose progress counts as if each were as long as the first.

        Each has the next seed, and of a time budget an even share of what is left.
        """
        lengths: list[int] = []
        for number in range(count):
            budget = 0.0
            if self.deadline < math.inf:
                budget = max(1e-3, (self.deadline - time.perf_counter()) / (count - number))
            emit = self._emit_of_member(number, count, lengths)
            member = Run(emit, self.cancelled, seed=self.seed + number, time_budget=budget)
            member.look = self.look
            yield member
            self.field = member.field
            self.restarts += member.restarts

    def _emit_of_member(self, number: int, count: int, lengths: list[int]) -> Emit:
        begun, left = time.perf_counter(), count - 1 - number

        def emit(kind: str, data: dict[str, Any]) -> None:
            if kind == "progress":
                if not lengths:
                    lengths.append(data["steps"])
                data = data | {
                    "stage": f"{number + 1} of {count}: {data['stage']}",
                    "step": number * lengths[0] + math.ceil(data["step"] * lengths[0] / data["steps"]),
                    "steps": count * lengths[0],
                    "seconds": self.seconds(),
                    "eta": data["eta"] + left * (time.perf_counter() - begun + data["eta"]),
                }
            self.emit(kind, data)

        return emit

    def announce(self, stage: str, part: float, loss: float) -> None:
        """Progress of a stage before the optimization, `part` from 0 to 1 of it, whose steps are not counted."""
        self._emit_progress(stage, round(100 * part), 100, {"metric": loss}, 0.0)

    def plan(self, steps: Iterable[int], costs: Iterable[float] | None = None) -> None:
        """Announce the steps of all stages to come, and optionally what a step of each costs."""
        steps = list(steps)
        costs = [1.0] * len(steps) if costs is None else costs
        self._costs = [count * cost for count, cost in zip(steps, costs, strict=True)]
        self._total, self._work, self._worked, self._done = sum(steps), sum(self._costs), 0.0, 0
        self._begun = time.perf_counter()

    def stage(self, name: str, steps: int) -> Iterator[float]:
        """Loop over one stage's steps; yields the part of it that is done, 0 at the first step.

        Under a time budget the stage ends when its share is spent, and the part follows the clock. It also ends once
        `settle` found nothing left to gain.
        """
        self._stage, begin = name, time.perf_counter()
        self._losses, self._settled = [], False
        cost, worked, done = self._costs.pop(0), self._worked, self._done
        share = (self.deadline - begin) * cost / (self._work - worked)
        for step in range(steps):
            part = max(step / steps, (time.perf_counter() - begin) / share if share > 0 else 1.0)
            if self._settled or (part >= 1 and step > 0):
                self._done += steps - step
                break
            self.check_cancelled()
            self._step_work = cost / steps
            self.part = (done + min(part, 1.0) * steps) / self._total
            yield min(part, 1.0)
            self._done += 1
            self._worked += self._step_work
            if self.field is not None:
                self.look(self.field, step == steps - 1 or self._settled)
        self._worked = worked + cost

    def settle(self, terms: dict[str, Tensor], tolerance: float) -> None:
        """End the stage when the mean loss of the last `SPAN` steps is less than a part `tolerance` below that before.

        Means of so many steps see through the noise of single ones, and a stage that gains so little leaves the rest to
        the next, finer one. The losses are read once in `SPAN` steps, since reading waits for the device.
        """
        self._losses.append(sum(terms.values()).detach())
        if tolerance and len(self._losses) == 2 * SPAN:
            before, now = (torch.stack(part).mean().item() for part in (self._losses[:SPAN], self._losses[SPAN:]))
            self._settled = before - now < tolerance * abs(before)
            del self._losses[:SPAN]

    def report(self, terms: dict[str, Tensor]) -> None:
        """Tell the loss of this step, at most every `REPORT_EVERY` seconds.

        Raises `UserError` (code `diverged`) when the loss is no longer a number.
        """
        now, done = time.perf_counter(), self._done + 1
        if now - self._reported < REPORT_EVERY and done < self._total:
            return
        values = {name: float(term.detach()) for name, term in terms.items()}
        if not math.isfinite(sum(values.values())):
            raise diverged()
        worked = self._worked + self._step_work
        eta = min((now - self._begun) / worked * (self._work - worked), self.deadline - now)
        self._emit_progress(self._stage, done, self._total, values, eta)

    def _emit_progress(self, stage: str, step: int, steps: int, terms: dict[str, float], eta: float) -> None:
        self._reported = time.perf_counter()
        progress = {"stage": stage, "step": step, "steps": steps, "loss": sum(terms.values()), "terms": terms}
        self.emit("progress", progress | {"seconds": self.seconds(), "eta": max(0.0, eta)})


def diverged() -> UserError:
    """What to say of an optimization that ran away."""
    return UserError(
        "diverged", "The optimization diverged.", "Try a stronger regularization or a smaller learning rate."
    )


def cosine(start: float, end: float) -> Callable[[float], float]:
    """A cosine from `start` at 0 to `end` at 1 (Loshchilov and Hutter 2017)."""
    return lambda part: end + (start - end) * (1 + math.cos(math.pi * min(part, 1.0))) / 2


def descend(optimizer: torch.optim.Optimizer, rate: float, terms: dict[str, Tensor]) -> None:
    """One step of the optimizer along the sum of the loss terms, at that learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    sum(terms.values()).backward()
    optimizer.step()
