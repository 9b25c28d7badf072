"""A pair of a prior's training: read when it is first needed, and kept while there is memory for it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch

from inrreg.cyclic import CycleLoss
from inrreg.fields import Field
from inrreg.landmarks import Pairs, pair, read_points
from inrreg.optimization import Run
from inrreg.prior import Prior, Views
from inrreg.problem import Problem
from inrreg.protocol import Job
from inrreg.registration import prepare
from inrreg.training.settings import TrainingSettings

MOST_BYTES = 4 << 30
"""Of pairs that a process keeps."""
PER_VOXEL = 20
"""Bytes that a pair takes for each of its voxels, about: both images, both ways."""


class Example:
    """A pair, with what its inner loops need and do not change."""

    def __init__(self, problem: Problem, landmarks: Pairs | None = None) -> None:
        self.problem, self.landmarks = problem, landmarks
        self._loss: CycleLoss | None = None
        self._views: Views | None = None

    def loss(self, settings: TrainingSettings) -> CycleLoss:
        """The loss of both ways."""
        if self._loss is None:
            self._loss = CycleLoss(self.problem, settings)
        return self._loss

    def views(self, prior: Prior) -> Views:
        """What the encoder is shown."""
        if self._views is None:
            self._views = prior.views(self.problem)
        return self._views

    def error(self, there: Field) -> float:
        """The mean error at the landmarks, mm, under a field from fixed to moving."""
        frame, problem = self.problem.frame, self.problem
        x = torch.as_tensor(frame.normalize(self.landmarks.fixed), dtype=torch.float32, device=problem.device)
        with torch.no_grad():
            moved = frame.to_world(problem.before(x + there.dense(x)).cpu().numpy())
        return float(np.linalg.norm(moved - self.landmarks.moving, axis=1).mean())

    @property
    def bytes(self) -> int:
        """About how much memory it takes."""
        return PER_VOXEL * int(np.prod(self.problem.fixed.GetSize()) + np.prod(self.problem.moving.GetSize()))


def read(job: Job) -> Example:
    """The job's pair. Raises `UserError` for what registering it would raise."""
    problem, _ = prepare(job, Run(seed=job.seed))
    marks = None
    if job.fixed_landmarks:
        ends = (job.fixed_landmarks, problem.fixed), (job.moving_landmarks, problem.moving)
        marks = pair(*(read_points(*end) for end in ends))
    return Example(problem, marks)


_kept: OrderedDict[str, Example] = OrderedDict()


def kept(key: str, entries: dict[str, Any]) -> Example:
    """The pair of a job's entries, read unless this process has it; the longest unused make room.

    `key` stands for the pair and for all settings that it is used with.
    """
    if key in _kept:
        _kept.move_to_end(key)
    else:
        _kept[key] = read(Job.from_dict(entries))
        while len(_kept) > 1 and sum(each.bytes for each in _kept.values()) > MOST_BYTES:
            _kept.popitem(last=False)
    return _kept[key]
