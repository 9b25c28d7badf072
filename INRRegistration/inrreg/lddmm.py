"""What the methods of LDDMM share: the energy on a lattice, the fit from coarse to fine, the check of the steps."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from inrreg.fields import Field, Flow, LatticeGeometry, VelocityLattice
from inrreg.fields.velocity import inner, laplacian
from inrreg.optimization import Run
from inrreg.regularization import velocity_energy


def lattice_energy(velocity: VelocityLattice, gamma: float, alpha: float) -> Tensor:
    """The energy of the velocities that the lattice holds, a mean over its inner nodes and over time."""
    nodes = velocity.held
    return velocity_energy(inner(nodes), laplacian(nodes, velocity.geometry.spacing), gamma, alpha)


def velocity_of(field: Field | None) -> Field | None:
    """The network of a flow's velocity; of another field itself."""
    velocity = field.velocity if isinstance(field, Flow) else field
    return velocity.network if isinstance(velocity, VelocityLattice) else velocity


def random_energy(flow: Flow, points: Tensor, gamma: float, alpha: float) -> Tensor:
    """The energy of the flow's velocity at points (N, 3), as many of them at each of the times at which it is asked."""
    velocity, parts = flow.velocity, []
    for velocity.time, part in zip(flow.times, points.chunk(flow.steps), strict=False):
        parts.append(velocity.jet(part, 2, trace=True))
    value, curved = torch.cat([jet.value for jet in parts]), torch.cat([jet.laplacian for jet in parts])
    return velocity_energy(value, curved, gamma, alpha)


class Paths:
    """A lattice's samples, every so many of which are carried along a flow; between them the displacement is trilinear.

    A spacing well below the velocity's nodes changes what the images say by little, and costs a fraction.
    """

    def __init__(self, samples: Tensor, spacing: float) -> None:
        """`samples` (D, H, W, 3) and `spacing`, both normalized."""
        self.shape = samples.shape[:3]
        first = samples[0, 0, 0]
        lengths = [float((samples.select(a, -1).reshape(-1, 3)[0] - first).norm()) for a in range(3)]
        self.size = [
            min(n, math.ceil(length / spacing - 1e-6) + 1) for n, length in zip(self.shape, lengths, strict=True)
        ]
        points = F.interpolate(samples.movedim(-1, 0)[None], self.size, mode="trilinear", align_corners=True)
        self.points = points[0].flatten(1).T.contiguous()

    def displacement(self, flow: Flow) -> Tensor:
        """Of all the samples, (D, H, W, 3)."""
        carried = flow.value(self.points).T.reshape(1, 3, *self.size)
        return F.interpolate(carried, self.shape, mode="trilinear", align_corners=True)[0].movedim(0, -1)


class Coarse:
    """A coarse stage's displacement, interpolated to the nodes of a finer lattice: S1' of Zhang and Liang 2023.

    A network that was asked at few nodes says anything between them. The fit of equation 10 tells it what the
    interpolation says before the images are looked at again.
    """

    def __init__(self, flow: Flow, coarse: LatticeGeometry, fine: LatticeGeometry) -> None:
        like = next(flow.parameters())
        own, self.nodes = (
            torch.as_tensor(each.points()).to(like.dtype).to(like.device).reshape(-1, 3) for each in (coarse, fine)
        )
        values = flow.dense(own).reshape(*coarse.size[::-1], 3)
        self.fine = fine
        self.target = coarse.volume(values).sample(self.nodes).movedim(0, -1)

    def distance(self, flow: Flow, gamma: float, alpha: float) -> Tensor:
        """Half the mean of |L (S - S1')|^2 / gamma^2 over the nodes.

        Equation 10 weighs it as the energy, which would draw the displacement back by a third; here gamma is taken out.
        """
        missing = (flow.value(self.nodes) - self.target).reshape(*self.fine.size[::-1], 3)
        return velocity_energy(inner(missing), laplacian(missing, self.fine.spacing), 1.0, alpha / gamma)


def check_steps(flow: Flow, points: Tensor, run: Run) -> None:
    """Make the flow's steps so many that it folds nowhere, and warn where no number is enough.

    `points` (N, 3) as in `Flow.adapt`.
    """
    with torch.no_grad():
        flow.hold()
        enough = flow.adapt(points)
    if not enough:
        message = f"The deformation is too steep for {flow.steps} steps in time, and may fold: raise alpha."
        run.emit("warning", {"code": "steps", "message": message})
