"""`dual`: a coarse and a fine SIREN, coarse to fine in the images (Gebauer et al., MIDL 2026)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inrreg.protocol import Preset, Settings, setting

if TYPE_CHECKING:
    from torch import Tensor

    from inrreg.fields import Field
    from inrreg.optimization import Run
    from inrreg.pointwise import PointLoss
    from inrreg.problem import Problem


@dataclass(frozen=True)
class DualSettings(Settings):
    """Settings of the dual-branch method; `steps` and `sigma` have one entry a stage.

    The fine branch joins in the second stage, or at once where there is only one.

    What the paper leaves open: the steps of each stage (3,000 in all; here even thirds), and whether the fine
    branch starts at 1/10 or 0.05 of the coarse one (section 2.5's 0.05). Its Gaussian is cut at one sigma and
    its sigma is in voxels; here it is a full Gaussian, isotropic in mm, with sigma in voxels of the finest axis.
    The paper regularizes at every point; here at a random tenth of them, which leaves the gradient what it is on
    average and its variance, nearly all of it the images', within a quarter (`benchmarks.step` measures both).
    """

    width: int = setting(256, "units of each hidden layer", low=8, high=1024)
    hidden: int = setting(2, "hidden layers of each branch", low=1, high=8)
    omega_coarse: float = setting(10.0, "frequency factor of the coarse branch", low=1, high=100)
    omega_fine: float = setting(30.0, "frequency factor of the fine branch", low=1, high=100)
    scale: float = setting(0.1, "scale of the coarse branch at the start", low=1e-6, high=10)
    fine_share: float = setting(0.05, "start of the fine branch, of the coarse one's scale; 0: none", low=0, high=10)
    points: int = setting(30_000, "random points a step", low=100, high=10_000_000)
    regularized: float = setting(0.1, "share of the points that are regularized", low=0.001, high=1)
    steps: tuple = setting((1000, 1000, 1000), "optimizer steps", low=1, high=1_000_000)
    sigma: tuple = setting((4.0, 2.0, 0.0), "Gaussian smoothing", unit="voxels of the finest axis", low=0, high=50)
    curvature: float = setting(0.01, "weight of the mean squared Laplacian", low=0, high=1000)
    jacobian: float = setting(0.01, "weight of the mean ReLU(1 - det)", low=0, high=1000)
    labels: float = setting(0.1, "weight of the labels' cross-entropy", low=0, high=1000)
    rate: float = setting(1e-3, "learning rate at the start", low=1e-7, high=1)
    final_rate: float = setting(1e-5, "learning rate at the end of its cosine", low=0, high=1)


_PAPER = DualSettings()
_SOURCE = "Gebauer et al., Robust multi-scale INRs for large-deformation lung registration, MIDL 2026"

PRESETS = (
    Preset("dual", _PAPER, _SOURCE, "large motion, the published settings; minutes on a GPU"),
    Preset(
        "dual-light",
        replace(_PAPER, points=10_000, steps=(200, 200, 400)),
        _SOURCE,
        "the dual method for machines without a GPU: a third of the points, a quarter of the steps",
    ),
)


def fit(problem: Problem, settings: DualSettings, run: Run) -> Field:
    """Optimize the coarse branch on smoothed images, then both branches on sharper ones."""
    import torch

    from inrreg.continuation import fewer, take_over
    from inrreg.fields import Dual
    from inrreg.guidance import release
    from inrreg.optimization import cosine, descend
    from inrreg.pointwise import PointLoss

    generator = torch.Generator().manual_seed(run.seed)
    field = Dual(
        settings.width,
        settings.hidden,
        settings.omega_coarse,
        settings.omega_fine,
        settings.scale,
        generator=generator,
    ).to(problem.device)
    run.field = field
    stages = list(zip(settings.steps, settings.sigma, strict=True))
    if take_over(problem.start, field, run):
        stages = [(fewer(settings.steps[-1]), settings.sigma[-1])]
    optimizer = torch.optim.AdamW(field.active_parameters, lr=settings.rate)
    rate = cosine(settings.rate, settings.final_rate)
    voxel = float(problem.grid.spacing.min())
    run.plan(steps for steps, _ in stages)
    for number, (steps, sigma) in enumerate(stages):
        if settings.fine_share and number == min(1, len(stages) - 1) and not field.c_fine.requires_grad:
            known = {id(parameter) for parameter in field.active_parameters}
            field.activate_fine(settings.fine_share)
            optimizer.add_param_group({"params": [p for p in field.active_parameters if id(p) not in known]})
        loss = PointLoss(problem, settings.points, round(settings.regularized * settings.points), sigma * voxel)
        branches = "both branches" if field.c_fine.requires_grad else "coarse branch"
        for _ in run.stage(f"{branches}, sigma {sigma:g}", steps):
            losses = terms(loss, field, settings)
            release(losses, run.part)
            descend(optimizer, rate(run.part), losses)
            run.report(losses)
    return field


def terms(loss: PointLoss, field: Field, settings: DualSettings) -> dict[str, Tensor]:
    """The weighted terms of one step's loss."""
    from inrreg.regularization import curvature, jacobian_shrinkage

    found, jet = loss(field, order=2, trace=True)
    if "labels" in found:
        found["labels"] = settings.labels * found["labels"]
    if jet:
        found["curvature"] = settings.curvature * curvature(jet.laplacian)
        found["Jacobian"] = settings.jacobian * jacobian_shrinkage(jet.jacobian)
    return found
