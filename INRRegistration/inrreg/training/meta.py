"""Algorithm 1 of REINDIR (van Harten et al.), one outer step at a time; without an encoder it is Reptile.

As printed, the algorithm adds template minus solution to the template, which leads away from the solution. The
template goes towards it here, as in Reptile (Nichol et al. 2018): phi <- phi + rate * mean(solution - phi).

The encoder is updated once in an outer step, by the mean of its gradients over the batch, where the printed one is
updated after every pair: so the pairs of a step do not depend on each other, and may be computed anywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inrreg.cyclic import CycleLoss
from inrreg.fields import Infused
from inrreg.optimization import cosine, descend
from inrreg.prior import Prior, infuse
from inrreg.training.pairs import Example
from inrreg.training.settings import TrainingSettings


@dataclass(frozen=True)
class Solution:
    """What one inner loop found: solution minus template, and the encoder's gradient, empty without one.

    `loss` is the last of the loop's.
    """

    steps: list[Tensor]
    gradient: list[Tensor]
    loss: float

    @property
    def finite(self) -> bool:
        """Whether it is of use."""
        return all(bool(each.isfinite().all()) for each in (*self.steps, *self.gradient))


def weights(prior: Prior) -> list[Tensor]:
    """The templates' weights and biases, there and then back."""
    return [each for network in prior.networks for each in network.parameters()]


def inner_loop(prior: Prior, example: Example, settings: TrainingSettings, seed: int) -> Solution:
    """A few steps of SGD on the templates' copies with the frozen embedding in them, then the encoder's gradient.

    The images are shown at a random scale.
    """
    generator = torch.Generator().manual_seed(seed)
    scale = settings.smallest + (settings.largest - settings.smallest) * torch.rand(1, generator=generator).item()
    zoom, modulation = scale * prior.zoom(example.problem), None
    if prior.encoder is not None:
        modulation = prior.encode(example.views(prior), zoom)
    networks = prior.infused(zoom, modulation and [(gamma.detach(), delta.detach()) for gamma, delta in modulation])
    loss = example.loss(settings)
    loss.reseed(seed)
    steps, value = _optimized(prior, networks, loss, settings, torch.optim.SGD, settings.inner_steps)
    if prior.encoder is None:
        return Solution(steps, [], value)
    infuse(networks, modulation)
    sum(loss(*networks).values()).backward()
    gradient = [each.grad.cpu() for each in prior.encoder.parameters()]
    prior.encoder.zero_grad(set_to_none=True)
    return Solution(steps, gradient, value)


def solve(prior: Prior, example: Example, settings: TrainingSettings, seed: int) -> Solution:
    """The pair's solution from the templates by Adam, for an average."""
    networks = prior.infused(prior.zoom(example.problem), None)
    loss = example.loss(settings)
    loss.reseed(seed)
    steps, value = _optimized(prior, networks, loss, settings, torch.optim.Adam, settings.solving_steps)
    return Solution(steps, [], value)


def _optimized(
    prior: Prior,
    networks: list[Infused],
    loss: CycleLoss,
    settings: TrainingSettings,
    kind: type[torch.optim.Optimizer],
    steps: int,
) -> tuple[list[Tensor], float]:
    """Optimize the networks; how far their weights then are from the templates, and the last loss."""
    solved = [each for network in networks for each in network.parameters()]
    optimizer, rate = kind(solved, lr=settings.rate), cosine(settings.rate, settings.final_rate)
    for step in range(steps):
        descend(optimizer, rate(step / steps), terms := loss(*networks))
    with torch.no_grad():
        found = [(own - template).cpu() for own, template in zip(solved, weights(prior), strict=True)]
    return found, float(sum(terms.values()).detach())


@torch.no_grad()
def zero_shot(prior: Prior, example: Example, settings: TrainingSettings, seed: int) -> float:
    """The error before any step: mm at the pair's landmarks or, without any, what the images differ by."""
    networks = prior.start(example.problem)
    if example.landmarks is None:
        loss: CycleLoss = example.loss(settings)
        loss.reseed(seed)
        terms, _ = loss.losses[0](networks[0], 1)
        return float(terms[loss.losses[0].name])
    return example.error(networks[0])


def annealed(step: int, steps: int, settings: TrainingSettings) -> float:
    """The encoder's rate at an outer step: up in a line, then cosines down to nothing (Loshchilov and Hutter 2017)."""
    warm_up = min(settings.warm_up, steps - 1)
    if step < warm_up:
        return settings.encoder_rate * (step + 1) / warm_up
    length = math.ceil((steps - warm_up) / settings.cycles)
    return cosine(settings.encoder_rate, 0.0)((step - warm_up) % length / length)


@dataclass
class Meta:
    """The outer loop's state: a prior, the encoder's optimizer, and what has been found so far.

    `step` outer steps are done; `history` has (step, zero-shot error) pairs. An average keeps its templates as they
    began, and `total`, the sum of `count` solutions minus them.
    """

    prior: Prior
    settings: TrainingSettings
    kind: str
    steps: int
    step: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self.total = [torch.zeros_like(each) for each in weights(self.prior)]
        encoder = self.prior.encoder
        self.adam = None if encoder is None else torch.optim.Adam(encoder.parameters(), lr=self.settings.encoder_rate)

    @torch.no_grad()
    def update(self, solutions: list[Solution]) -> None:
        """One outer step, by the solutions of its pairs, of which none may have come."""
        templates = weights(self.prior)
        if self.kind == "average":
            for solution in solutions:
                for sum_, part in zip(self.total, solution.steps, strict=True):
                    sum_.add_(part.to(sum_))
            self.count += len(solutions)
        elif solutions:
            for number, template in enumerate(templates):
                mean = sum(solution.steps[number] for solution in solutions) / len(solutions)
                template.add_(self.settings.outer_rate * mean.to(template))
            if self.adam is not None:
                for number, parameter in enumerate(self.prior.encoder.parameters()):
                    mean = sum(solution.gradient[number] for solution in solutions) / len(solutions)
                    parameter.grad = mean.to(parameter)
                for group in self.adam.param_groups:
                    group["lr"] = annealed(self.step, self.steps, self.settings)
                self.adam.step()
                self.adam.zero_grad(set_to_none=True)
        self.step += 1

    def current(self) -> Prior:
        """The prior as it stands after these steps."""
        if self.kind != "average" or not self.count:
            return self.prior
        made = Prior(self.prior.infused(1.0, None), None, self.prior.scale, self.prior.family)
        with torch.no_grad():
            for weight, total in zip(weights(made), self.total, strict=True):
                weight.add_(total / self.count)
        return made
