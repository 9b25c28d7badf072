"""A prior from its pairs to its file: trained step by step, looked at, kept, and continued where it was left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inrreg.cohort.manifest import Pair
from inrreg.cohort.work import stamps
from inrreg.devices import choose_device
from inrreg.geometry import Grid
from inrreg.images import read_header, read_image
from inrreg.prior import Family, Prior, box, kind
from inrreg.protocol import Job, UserError
from inrreg.training import checkpoint
from inrreg.training.computer import Computer, here
from inrreg.training.drawing import drawn, seed_of
from inrreg.training.meta import Meta
from inrreg.training.settings import KINDS, TrainingSettings
from inrreg.training.start import fresh
from inrreg.versions import versions

MOST_LOOKED_AT = 20
"""Pairs held out at most, since each look at the zero-shot error takes them all."""

Told = Callable[[str, dict[str, Any]], None]
"""Hears `warning` with a message, `step` with step, steps and loss, `look` with step, error and unit."""


class Training:
    """One training: `sets` are a manifest's pairs each, of which an outer step takes some in turn.

    A share `held_out` of all pairs is not trained on but judges. A pair that cannot be used is told and left out.
    """

    def __init__(
        self,
        sets: list[list[Pair]],
        output: Path,
        made: str,
        settings: TrainingSettings,
        *,
        seed: int = 0,
        held_out: float = 0.1,
        compute: Computer = here,
        told: Told = lambda kind, data: None,
    ) -> None:
        if made not in KINDS:
            raise UserError("prior", f"There is no kind of prior '{made}'.", f"Choose one of: {', '.join(KINDS)}.")
        self.output, self.made, self.settings, self.seed = output, made, settings, seed
        self.compute, self.told = compute, told
        self.jobs: list[Job] = []
        self.names: list[str] = []
        self._left_out: set[int] = set()
        self._boxes: list[np.ndarray] = []
        numbered = [[self._add(pair) for pair in each] for each in sets]
        numbered = [[number for number in each if number is not None] for each in numbered]
        self.family = self._family()
        count = len(self.jobs)
        judging = min(MOST_LOOKED_AT, round(held_out * count)) or int(held_out > 0 and count > 1)
        order = np.random.default_rng([seed, 99]).permutation(count).tolist()
        self.judges = sorted(order[:judging])
        self.sets = [left for each in numbered if (left := [n for n in each if n not in self.judges])]
        if not self.sets:
            raise UserError("manifest", "No pairs are left to train on.", "Give more, or hold fewer out.")
        if made == "average":
            self.sets = [[number for each in self.sets for number in each]]
            self.steps = -(-len(self.sets[0]) // settings.batch)
        else:
            self.steps = settings.steps
        self.key = self._key(held_out)

    def run(self) -> Prior:
        """Train, from the checkpoint where there is one, and write the prior. Raises `UserError`, OSError."""
        path = checkpoint.path_of(self.output)
        device = choose_device(self.jobs[0].device) if self.compute is here else torch.device("cpu")
        if path.is_file():
            meta = checkpoint.read(path, self.key, self.settings, self.made, self.steps, device)
        else:
            prior = fresh(self.family, self.settings, self.made, self.seed).to(device)
            meta = Meta(prior, self.settings, self.made, self.steps)
            self._look(meta)
        while meta.step < self.steps:
            self._step(meta)
            if meta.step % self.settings.every == 0 or meta.step == self.steps:
                self._look(meta)
                checkpoint.write(meta, path, self.key)
        made = meta.current()
        made.about = {
            "kind": self.made,
            "settings": self.settings.to_dict(),
            "seed": self.seed,
            "pairs": sum(map(len, self.sets)),
            "held_out": [self.names[number] for number in self.judges],
            "history": meta.history,
            "unit": self.unit,
            "versions": versions(),
        }
        made.save(self.output)
        path.unlink(missing_ok=True)
        return made

    @property
    def unit(self) -> str:
        """Of the zero-shot error: mm where held-out pairs have landmarks, else what the images differ by."""
        return "mm" if any(self.jobs[number].fixed_landmarks for number in self.judges) else "dissimilarity"

    def _step(self, meta: Meta) -> None:
        batch = self.settings.batch
        numbers = drawn(self.sets, meta.step, batch, self.seed)
        if self.made == "average":  # each pair once
            numbers = numbers[: len(self.sets[0]) - meta.step * batch]
        calls = [
            self._call(self.made, number, seed_of(self.seed, meta.step, slot, batch))
            for slot, number in enumerate(numbers)
            if number not in self._left_out
        ]
        solutions = self._useful(calls, self.compute(meta.prior, calls))
        if self._left_out.issuperset(number for each in self.sets for number in each):
            raise UserError("manifest", "No pair can be trained on.", "See what was said of each.")
        meta.update(solutions)
        loss = float(np.mean([each.loss for each in solutions])) if solutions else None
        self.told("step", {"step": meta.step, "steps": self.steps, "loss": loss})

    def _look(self, meta: Meta) -> None:
        """The zero-shot error of the held-out pairs, into the history."""
        shown = [n for n in self.judges if self.unit != "mm" or self.jobs[n].fixed_landmarks]
        calls = [self._call("look", number, self.seed) for number in shown if number not in self._left_out]
        errors = self._useful(calls, self.compute(meta.current(), calls))
        if errors:
            meta.history.append((meta.step, float(np.mean(errors))))
            self.told("look", {"step": meta.step, "error": meta.history[-1][1], "unit": self.unit})

    def _call(self, task: str, number: int, seed: int) -> tuple[Any, ...]:
        return task, f"{self.key}/{number}", self.jobs[number].to_dict(), self.settings, seed

    def _useful(self, calls: list[tuple[Any, ...]], answers: list[Any]) -> list[Any]:
        """The answers but for those that say why there is none; their pairs are told, and not asked for again."""
        found = []
        for (_, key, *_), answer in zip(calls, answers, strict=True):
            if isinstance(answer, str):
                number = int(key.rpartition("/")[2])
                self._leave_out(self.names[number], answer)
                self._left_out.add(number)
            else:
                found.append(answer)
        return found

    def _leave_out(self, name: str, reason: str) -> None:
        self.told("warning", {"message": f"{name} is left out: {reason}"})

    def _add(self, pair: Pair) -> int | None:
        """The pair's number, or None for one that cannot be used."""
        try:
            if pair.job is None:
                raise UserError("manifest", pair.error)
            self._boxes.append(box(Grid.of(read_header(pair.job.fixed, "fixed image"))))
        except UserError as error:
            self._leave_out(pair.name, str(error))
            return None
        self.jobs.append(pair.job)
        self.names.append(pair.name)
        return len(self.jobs) - 1

    def _family(self) -> Family:
        """The kinds of the first pair, the boxes of all."""
        if not self.jobs:
            raise UserError("manifest", "The manifest has no pair to train on.")
        kinds = tuple(kind(read_image(getattr(self.jobs[0], name), name)) for name in ("fixed", "moving"))
        return Family(kinds, np.stack([np.min(self._boxes, 0), np.max(self._boxes, 0)]))

    def _key(self, held_out: float) -> str:
        """What makes two trainings the same, as a hash: on the same files with the same settings."""
        plain = [{**job.to_dict(), "stamps": stamps(job)} for job in self.jobs]
        known = [self.made, self.settings.to_dict(), self.seed, held_out, self.sets, plain]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
