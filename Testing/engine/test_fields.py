"""Fields: closed-form derivatives against nested autograd, dense against pointwise, description and weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from inrreg.fields import (
    Conditioned,
    ConditionedSeparable,
    Cycle,
    Dual,
    Ensemble,
    Field,
    Flow,
    Lattice,
    LatticeGeometry,
    Separable,
    Siren,
    TimedSeparable,
    TimedSiren,
    VelocityLattice,
    from_spec,
)
from inrreg.fields.base import Jet
from inrreg.fields.cycle import invert
from inrreg.fields.products import TensorCoreProduct, tensor_cores
from inrreg.fields.velocity import laplacian
from inrreg.geometry import Frame, Grid

OBLIQUE = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
GRID = Grid((12, 9, 7), np.array([-20.0, 31.0, 5.0]), OBLIQUE * np.array([3.0, 4.0, 6.0]))
FRAME = Frame.covering(GRID)


def siren() -> Siren:
    return Siren(24, 3, 12.0, generator=torch.Generator().manual_seed(1))


def dual(fine: bool = True) -> Dual:
    field = Dual(20, 2, generator=torch.Generator().manual_seed(2))
    if fine:
        field.activate_fine(0.5)
    return field


def calm(seed: int, share: float = 0.3) -> Siren:
    """A network whose map x + u(x) does not fold."""
    field = Siren(24, 3, 8.0, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        field.layers[-1].weight.mul_(share)
        field.layers[-1].bias.mul_(share)
    return field


def cycle() -> Cycle:
    return Cycle(calm(5), calm(6))


SLOPE = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)


def unsure(plain: Cycle) -> Cycle:
    """The same with doubt of 1 + x * `SLOPE`."""
    geometry = LatticeGeometry.covering(GRID, FRAME, 9.0)
    nodes = 1 + torch.as_tensor(geometry.points()) @ SLOPE
    return Cycle(plain.there, plain.back, geometry, nodes[..., None].float()).freeze()


def lattice() -> Lattice:
    networks = [Siren(16, 2, 9.0, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4)]
    return Lattice(networks, LatticeGeometry.covering(GRID, FRAME, 9.0))


def separable() -> Separable:
    return Separable(12, 2, 6.0, 8, 0.5, OBLIQUE.tolist(), generator=torch.Generator().manual_seed(6))


def residual() -> Lattice:
    field = Lattice([separable()], LatticeGeometry.covering(GRID, FRAME, 9.0), residuals=1)
    with torch.no_grad():
        field.residuals.normal_(0, 0.1, generator=torch.Generator().manual_seed(7))
    return field


def conditioned(seed: int = 5) -> Conditioned:
    """A conditioned network whose harmonizer answers something else at every alpha."""
    generator = torch.Generator().manual_seed(seed)
    field = Conditioned(16, 3, 9.0, 0.3, generator=generator)
    torch.nn.init.normal_(field.harmonizer[-1].weight, 0, 0.1, generator=generator)
    torch.nn.init.normal_(field.harmonizer[-1].bias, 0, 0.1, generator=generator)
    return field


def conditioned_lattice() -> Lattice:
    networks = [conditioned(seed) for seed in (6, 7)]
    return Lattice(networks, LatticeGeometry.covering(GRID, FRAME, 9.0))


def conditioned_separable() -> ConditionedSeparable:
    """A conditioned separable network whose harmonizer answers something else at every alpha."""
    generator = torch.Generator().manual_seed(8)
    field = ConditionedSeparable(12, 2, 6.0, 8, 0.5, OBLIQUE.tolist(), 0.3, generator=generator)
    torch.nn.init.normal_(field.harmonizer[-1].weight, 0, 0.1, generator=generator)
    torch.nn.init.normal_(field.harmonizer[-1].bias, 0, 0.1, generator=generator)
    return field


def conditioned_residuals() -> Lattice:
    field = Lattice([conditioned_separable()], LatticeGeometry.covering(GRID, FRAME, 9.0), residuals=3)
    with torch.no_grad():
        field.residuals.normal_(0, 0.1, generator=torch.Generator().manual_seed(9))
    return field


FIELDS = {
    "siren": siren,
    "separable": separable,
    "dual": dual,
    "dual without its fine branch": lambda: dual(False),
    "lattice": lattice,
    "lattice with a residual": residual,
    "conditioned": conditioned,
    "conditioned lattice": conditioned_lattice,
    "conditioned separable": conditioned_separable,
    "conditioned lattice with residuals": conditioned_residuals,
}
CONDITIONED = [name for name in FIELDS if name.startswith("conditioned")]


def inside(count: int, dtype: torch.dtype) -> torch.Tensor:
    """Random normalized points of the grid's box."""
    index = np.random.default_rng(0).random((count, 3)) * (np.array(GRID.size) - 1)
    return torch.as_tensor(FRAME.normalize(GRID.to_world(index)), dtype=dtype)


def nested(field: Field, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Value, Jacobian and Hessian by autograd of autograd."""
    x = x.clone().requires_grad_(True)
    value = field.value(x)
    jacobian, hessian = torch.zeros(len(x), 3, 3, dtype=x.dtype), torch.zeros(len(x), 3, 3, 3, dtype=x.dtype)
    for i in range(3):
        (first,) = torch.autograd.grad(value[:, i].sum(), x, create_graph=True)
        jacobian[:, i] = first.detach()
        for j in range(3):
            (second,) = torch.autograd.grad(first[:, j].sum(), x, retain_graph=True, allow_unused=True)
            hessian[:, i, j] = second
    return value.detach(), jacobian, hessian


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.detach() - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_derivatives_equal_nested_autograd(name: str, dtype: torch.dtype, tolerance: float) -> None:
    field = FIELDS[name]().to(dtype)
    x = inside(64, dtype)
    exact = nested(FIELDS[name]().to(torch.float64), x.double())
    jet, traced, first = field.jet(x, 2), field.jet(x, 2, trace=True), field.jet(x, 1)
    assert relative(field.value(x), exact[0]) < tolerance
    for other in (jet, traced, first):
        assert relative(other.value, exact[0]) < tolerance
        assert relative(other.jacobian, exact[1]) < tolerance
    assert relative(jet.hessian, exact[2]) < tolerance
    assert relative(traced.laplacian, exact[2].diagonal(dim1=2, dim2=3).sum(-1)) < tolerance


@pytest.mark.parametrize("name", FIELDS)
def test_gradients_of_derivatives_reach_the_weights(name: str) -> None:
    field = FIELDS[name]().to(torch.float64)
    x = inside(16, torch.float64)
    field.jet(x, 2, trace=True).laplacian.square().sum().backward()
    weight = next(p for p in field.parameters() if p.requires_grad and p.dim() >= 2)
    entry, step = weight.grad.abs().argmax(), 1e-6
    found = weight.grad.view(-1)[entry].item()
    values = []
    for shift in (step, -2 * step):
        with torch.no_grad():
            weight.view(-1)[entry] += shift
        values.append(field.jet(x, 2, trace=True).laplacian.square().sum().item())
    assert found == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize(("order", "trace"), [(1, False), (2, True), (2, False)])
@pytest.mark.parametrize("hidden", [1, 3])
def test_gradients_of_a_sirens_jet_equal_finite_differences(order: int, trace: bool, hidden: int) -> None:
    field = Siren(5, hidden, 3.0, generator=torch.Generator().manual_seed(1)).double()
    names = [name for name, _ in field.named_parameters()]

    def jet(x: torch.Tensor, *weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        class Call(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.field = field

            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
                found = self.field.jet(x, order, trace=trace)
                return tuple(t for t in (found.value, found.jacobian, found.laplacian, found.hessian) if t is not None)

        given = {f"field.{name}": weight for name, weight in zip(names, weights, strict=True)}
        return torch.func.functional_call(Call(), given, (x,))

    weights = [parameter.detach().clone().requires_grad_(True) for parameter in field.parameters()]
    assert torch.autograd.gradcheck(jet, (inside(3, torch.float64).requires_grad_(True), *weights))


def test_products_for_tensor_cores_have_exact_gradients_and_leave_torchs_precision_as_it_was() -> None:
    products = torch.backends.cuda.matmul
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.rand(*size, 4, generator=generator, dtype=torch.float64) for size in ((2, 3), (5,)))
    given = x.requires_grad_(True), weight.requires_grad_(True)
    assert torch.equal(TensorCoreProduct.apply(*given), x @ weight.T)
    assert torch.autograd.gradcheck(TensorCoreProduct.apply, given)
    assert torch.autograd.gradgradcheck(TensorCoreProduct.apply, given)
    before = products.fp32_precision
    with tensor_cores():
        assert products.fp32_precision == "tf32"
    assert products.fp32_precision == before
    assert not products.allow_tf32


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_comes_back_from_its_description_and_weights(name: str) -> None:
    field = FIELDS[name]()
    again = from_spec(field.spec())
    again.load_state_dict(field.state_dict())
    x = inside(40, torch.float32)
    assert torch.equal(again.dense(x), field.dense(x))


@pytest.mark.parametrize("name", FIELDS)
def test_dense_evaluation_equals_value(name: str) -> None:
    field, x = FIELDS[name](), inside(200_000, torch.float32)
    with torch.no_grad():
        assert torch.allclose(field.dense(x)[::5000], field.value(x[::5000]), atol=1e-6)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("order", [0, 3])
def test_an_order_that_is_not_offered_is_refused(name: str, order: int) -> None:
    with pytest.raises(ValueError, match="order"):
        FIELDS[name]().jet(inside(2, torch.float32), order)


def test_an_unknown_kind_of_field_is_refused() -> None:
    with pytest.raises(ValueError, match="kind"):
        from_spec({"kind": "nonsense"})


def test_same_seed_same_network() -> None:
    assert all(torch.equal(a, b) for a, b in zip(siren().parameters(), siren().parameters(), strict=True))


def test_siren_starts_as_published() -> None:
    field = Siren(256, 3, 32.0, generator=torch.Generator().manual_seed(0))
    assert field.layers[0].weight.abs().max().item() == pytest.approx(1 / 3, rel=0.02)
    assert field.layers[1].weight.abs().max().item() == pytest.approx((6 / 256) ** 0.5 / 32, rel=0.02)


def test_the_fine_branch_is_inactive_until_activated() -> None:
    field, x = dual(False), inside(10, torch.float32)
    assert torch.equal(field.value(x), field.c_coarse * field.coarse.value(x))
    assert not any(p is q for p in field.active_parameters for q in field.fine.parameters())
    field.activate_fine(0.05)
    assert field.c_fine.item() == pytest.approx(0.05 * field.c_coarse.item())
    assert not torch.equal(field.value(x), field.c_coarse * field.coarse.value(x))
    assert any(p is q for p in field.active_parameters for q in field.fine.parameters())


def test_a_spline_reproduces_cubic_polynomials_between_its_nodes() -> None:
    class Linear(Field):
        kind = "linear-for-test"

        def __init__(self) -> None:
            super().__init__()
            self.matrix = torch.nn.Parameter(torch.tensor([[0.1, -0.2, 0.3], [0.0, 0.4, 0.1], [0.2, 0.0, -0.1]]))

        def value(self, x):
            return x @ self.matrix.T

        def jet(self, x, order, *, trace=False):
            raise NotImplementedError

        def spec(self):
            return {}

    network = Linear()
    field = Lattice([network], LatticeGeometry.covering(GRID, FRAME, 9.0)).to(torch.float64)
    x = inside(100, torch.float64)
    jet = field.jet(x, 2)
    assert torch.allclose(jet.value, x @ network.matrix.T, atol=1e-9)
    assert torch.allclose(jet.jacobian, network.matrix.expand(100, 3, 3), atol=1e-9)
    assert jet.hessian.abs().max() < 1e-8
    in_cells = field.jacobian_of_cells(field.coefficients())
    rotation = torch.as_tensor(OBLIQUE)
    own = rotation.T @ network.matrix @ rotation
    assert torch.allclose(in_cells, own.expand(*in_cells.shape), atol=1e-9)
    assert field.kinks(field.coefficients()).abs().max() < 1e-8


def test_a_lattice_on_a_grid_equals_it_point_by_point() -> None:
    field, grid = lattice().freeze(), GRID.resampled(2.3)
    points = torch.as_tensor(FRAME.normalize(grid.points()), dtype=torch.float32)
    assert torch.allclose(
        field.on_grid(grid, FRAME), field.dense(points.reshape(-1, 3)).reshape(points.shape), atol=1e-6
    )


def test_several_networks_are_averaged() -> None:
    field, x = lattice(), inside(50, torch.float32)
    single = [Lattice([network], field.geometry).value(x) for network in field.networks]
    assert torch.allclose(field.value(x), (single[0] + single[1]) / 2, atol=1e-6)


@pytest.mark.parametrize("axes", [OBLIQUE, np.eye(3)], ids=["its own axes", "other axes"])
@pytest.mark.parametrize("name", ["separable", "siren"])
def test_on_axes_equals_point_by_point(name: str, axes: np.ndarray) -> None:
    field, turn = FIELDS[name]().double(), torch.as_tensor(axes)
    coordinates = [torch.linspace(-0.7, 0.6, n, dtype=torch.float64) for n in (4, 3, 5)]
    z, y, x = torch.meshgrid(*reversed(coordinates), indexing="ij")
    points = torch.stack([x, y, z], -1) @ turn.T
    expected = field.value(points.reshape(-1, 3)).reshape(points.shape)
    assert torch.allclose(field.on_axes(coordinates, turn), expected, atol=1e-9)


def test_a_residual_is_added_at_the_nodes() -> None:
    with_it = residual()
    without = Lattice([with_it.networks[0]], with_it.geometry)
    assert torch.allclose(with_it.coefficients() - without.coefficients(), with_it.residuals[0], atol=1e-6)


# ------------------------------------------------------------------------------ several estimates in one


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-3)])
def test_a_cycles_derivatives_equal_nested_autograd(dtype: torch.dtype, tolerance: float) -> None:
    x = inside(64, dtype)
    exact = nested(cycle().to(torch.float64), x.double())
    field = cycle().to(dtype).freeze()
    jet, traced = field.jet(x, 2), field.jet(x, 2, trace=True)
    assert relative(jet.value, exact[0]) < tolerance
    assert relative(jet.jacobian, exact[1]) < tolerance
    assert relative(jet.hessian, exact[2]) < tolerance
    assert relative(traced.laplacian, exact[2].diagonal(dim1=2, dim2=3).sum(-1)) < tolerance


def test_a_cycle_is_the_midpoint_of_both_networks_and_half_their_distance() -> None:
    field, x = cycle().to(torch.float64).freeze(), inside(200, torch.float64)
    forward = x + field.there.value(x)
    y = 2 * (x + field.value(x)) - forward
    assert torch.allclose(y + field.back.value(y), x, atol=1e-12)
    assert torch.allclose(field.uncertainty(x), (forward - y).norm(dim=-1) / 2, atol=1e-12)


def test_networks_that_agree_leave_no_uncertainty() -> None:
    class Shift(Field):
        kind = "shift-for-test"

        def __init__(self, amount: float = 0.0) -> None:
            super().__init__()
            self.amount = torch.nn.Parameter(torch.tensor([amount, 0.0, -amount]))

        def value(self, x):
            return self.amount.expand_as(x)

        def jet(self, x, order, *, trace=False):
            return Jet(self.value(x), torch.zeros(len(x), 3, 3, dtype=x.dtype))

        def spec(self):
            return {"kind": self.kind}

    x = inside(50, torch.float32)
    agreed, apart = Cycle(Shift(0.2), Shift(-0.2)).freeze(), Cycle(Shift(0.2), Shift(-0.3)).freeze()
    assert agreed.uncertainty(x).max() < 1e-6
    assert torch.allclose(agreed.dense(x), Shift(0.2).value(x), atol=1e-6)
    assert torch.allclose(apart.uncertainty(x), torch.full((50,), 0.05 * 2**0.5), atol=1e-6)
    assert torch.allclose(apart.dense(x), Shift(0.25).value(x), atol=1e-6)


def test_where_a_map_folds_the_nearest_approach_is_found_and_its_distance_told() -> None:
    x = inside(400, torch.float64)
    wild = calm(7, share=4.0).to(torch.float64).freeze()
    y, left = invert(wild, x, x.clone())
    assert torch.allclose((y + wild.value(y) - x).norm(dim=-1), left)
    assert (left <= wild.value(x).norm(dim=-1)).all()
    assert (left > 1e-3).any()
    assert (left < 1e-12).any()
    assert (Cycle(calm(5).double(), wild).freeze().uncertainty(x) >= left.min()).all()


def test_what_the_images_do_not_tell_adds_to_a_cycles_uncertainty_in_square() -> None:
    plain, x = cycle().to(torch.float64).freeze(), inside(200, torch.float64)
    field = unsure(plain)
    expected = torch.hypot(plain.uncertainty(x), 1 + x @ SLOPE)
    assert torch.allclose(field.uncertainty(x), expected, atol=1e-6)
    assert torch.equal(field.value(x), plain.value(x))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_an_ensemble_is_the_median_of_its_members(count: int) -> None:
    members = [calm(seed).to(torch.float64) for seed in range(10, 10 + count)]
    field, x = Ensemble(members), inside(64, torch.float64)
    values = np.stack([member.value(x).detach().numpy() for member in members])
    median = np.median(values, axis=0)
    assert np.allclose(field.value(x).detach().numpy(), median)
    assert np.allclose(field.dense(x).numpy(), median)
    spread = np.sqrt(np.mean(np.sum((values - median) ** 2, -1), 0))
    assert np.allclose(field.uncertainty(x).numpy(), spread)
    assert relative(field.jet(x, 1).jacobian, nested(field, x)[1]) < 1e-12


def test_one_stray_member_does_not_move_an_ensemble() -> None:
    good, stray, x = calm(1), calm(2, share=30.0), inside(100, torch.float32)
    field = Ensemble([good, stray, good]).freeze()
    assert torch.equal(field.dense(x), good.dense(x))
    assert (field.uncertainty(x) > 0).all()


@pytest.mark.parametrize("make", [lambda: unsure(cycle()), lambda: Ensemble([lattice(), cycle(), siren()])])
def test_nested_fields_come_back_from_description_and_weights(make: Callable[[], Field]) -> None:
    field, x = make().freeze(), inside(40, torch.float32)
    again = from_spec(field.spec())
    again.load_state_dict(field.state_dict())
    assert torch.equal(again.freeze().dense(x), field.dense(x))
    assert torch.equal(again.uncertainty(x), field.uncertainty(x))


# ----------------------------------------------------------------------------------------- conditioned


def test_a_conditioned_network_has_the_published_activation() -> None:
    field, x = conditioned().double(), inside(20, torch.float64)
    raw = field.harmonizer(torch.tensor([2 * 0.3 - 1], dtype=torch.float64)).reshape(3, 4, 16)
    y = x
    for layer, (a, b, c, d) in zip(field.layers, raw, strict=False):
        y = (1 + a) * torch.sin((1 + b) * 9.0 * layer(y) + c) + d
    assert torch.allclose(field.value(x), field.layers[-1](y), atol=1e-12)


def test_the_harmonizer_is_the_published_one_and_does_nothing_at_the_start() -> None:
    field, x = Conditioned(24, 3, 12.0, generator=torch.Generator().manual_seed(1)), inside(20, torch.float32)
    assert [type(part).__name__ for part in field.harmonizer] == ["Linear", "LayerNorm", "SiLU"] * 3 + ["Linear"]
    assert [part.out_features for part in field.harmonizer[::3]] == [128, 64, 32, 4 * 3 * 24]
    for alpha in (0.0, 1.0):
        assert torch.allclose(field.at(alpha).value(x), siren().value(x), atol=1e-6)


@pytest.mark.parametrize("name", CONDITIONED)
def test_a_conditioned_field_at_an_alpha_is_an_ordinary_one(name: str) -> None:
    field, x = FIELDS[name](), inside(50, torch.float32)
    fixed = field.at(0.8)
    assert fixed.alpha is None
    assert field.alpha == 0.3
    assert not torch.allclose(fixed.dense(x), field.dense(x), atol=1e-3)
    field.alpha = 0.8
    assert torch.equal(fixed.dense(x), field.dense(x))
    again = from_spec(fixed.spec())
    again.load_state_dict(fixed.state_dict())
    assert torch.equal(again.dense(x), fixed.dense(x))


def test_a_conditioned_separable_network_has_the_published_activation() -> None:
    field, x = conditioned_separable().double(), inside(20, torch.float64)
    raw = field.harmonizer(torch.tensor([2 * 0.3 - 1], dtype=torch.float64)).reshape(2, 4, 3, 1, 12)
    y = (x @ torch.as_tensor(OBLIQUE)).T[..., None]
    for weight, bias, (a, b, c, d) in zip(field.weights, field.biases, raw, strict=False):
        y = (1 + a) * torch.sin((1 + b) * 6.0 * (y @ weight + bias) + c) + d
    factors = (y @ field.weights[-1] + field.biases[-1]).unflatten(-1, (3, 8))
    assert torch.allclose(field.value(x), 0.5 / 8**0.5 * factors.prod(0).sum(-1), atol=1e-12)


@pytest.mark.parametrize(("alpha", "shares"), [(0.0, (1, 0, 0)), (0.3, (0.4, 0.6, 0)), (0.75, (0, 0.5, 0.5))])
def test_residuals_are_linear_between_their_alphas(alpha: float, shares: tuple[float, ...]) -> None:
    field = conditioned_residuals()
    network = Lattice([field.networks[0].at(alpha)], field.geometry)
    own = sum(share * part for share, part in zip(shares, field.residuals, strict=True))
    assert torch.allclose(field.at(alpha).coefficients(), network.coefficients() + own, atol=1e-6)


@pytest.mark.parametrize("name", CONDITIONED)
def test_a_frozen_field_follows_its_alpha(name: str) -> None:
    field, x = FIELDS[name]().freeze(), inside(50, torch.float32)
    before = field.dense(x)
    field.alpha = 0.8
    assert torch.equal(field.dense(x), field.at(0.8).dense(x))
    assert not torch.equal(field.dense(x), before)


@pytest.mark.parametrize("name", ["siren", "dual", "lattice"])
def test_a_field_of_one_training_has_no_alpha(name: str) -> None:
    field = FIELDS[name]()
    assert field.alpha is None
    with pytest.raises(ValueError, match="no scale"):
        field.at(0.5)


# ------------------------------------------------------------------------------------------- flows


def velocity_lattice(scale: float = 0.3) -> VelocityLattice:
    network = TimedSeparable(12, 2, 4.0, 8, scale, OBLIQUE.tolist(), generator=torch.Generator().manual_seed(8))
    torch.nn.init.normal_(network.clock_out, 0, 0.2, generator=torch.Generator().manual_seed(9))
    return VelocityLattice(network, LatticeGeometry.covering(GRID, FRAME, 8.0))


def timed_siren() -> TimedSiren:
    field = TimedSiren(16, 3, 4.0, generator=torch.Generator().manual_seed(10))
    torch.nn.init.normal_(field.clock, 0, 0.3, generator=torch.Generator().manual_seed(11))
    return field


FLOWS = {"of a lattice": velocity_lattice, "of a network": timed_siren}


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("until", [1.0, 0.45, 0.0])
def test_a_flow_has_exact_derivatives_and_leads_back(name: str, until: float) -> None:
    field = Flow(FLOWS[name](), 4, until).double()
    x = inside(64, torch.float64).requires_grad_(True)
    assert field.adapt(x.detach())
    value = field.value(x)
    expected = torch.stack([torch.autograd.grad(part.sum(), x, retain_graph=True)[0] for part in value.unbind(1)], 1)
    jet = field.jet(x.detach(), 1)
    assert torch.allclose(jet.value, value, atol=1e-12)
    assert torch.allclose(jet.jacobian, expected, atol=1e-10)
    assert torch.allclose(field.inverse((x + value).detach()), x, atol=1e-12)
    assert (value.abs().max() > 0.05) == (until > 0)
    again = from_spec(field.spec()).double()
    again.load_state_dict(field.state_dict())
    assert torch.equal(again.dense(x.detach()), field.dense(x.detach()))


@pytest.mark.parametrize("name", FLOWS)
def test_a_velocity_changes_in_time_and_is_the_same_held(name: str) -> None:
    field, x = Flow(FLOWS[name](), 3), inside(50, torch.float32)
    free = field.dense(x)
    field.freeze()
    assert torch.allclose(field.dense(x), free, atol=1e-6)
    values = []
    for time in field.times[::2]:
        field.velocity.time = time
        values.append(field.velocity.value(x))
    assert (values[0] - values[1]).abs().max() > 0.01


def test_a_flow_makes_so_many_steps_that_a_steep_velocity_does_not_fold() -> None:
    field, x = Flow(velocity_lattice(1.0), 2).double(), inside(20_000, torch.float64)

    def smallest() -> float:
        return float(torch.linalg.det(field.jet(x, 1).jacobian + torch.eye(3)).min())

    with torch.no_grad():
        assert smallest() < 0
        assert field.adapt(x)
        assert field.steps > 2
        assert smallest() > 0
        assert torch.allclose(field.inverse(x + field.value(x)), x, atol=1e-9)


def test_the_bound_of_a_lattices_gradient_holds_closely() -> None:
    field, x = velocity_lattice().double(), inside(20_000, torch.float64)
    for field.time in (0.0, 0.6):
        found = torch.linalg.matrix_norm(field.jet(x, 1).jacobian, 2).max()
        assert found <= field.steepness(x) < 2 * found


def test_a_velocity_too_steep_for_any_number_of_steps_is_told() -> None:
    field = Flow(velocity_lattice(400.0), 2)
    with torch.no_grad():
        assert not field.adapt(inside(10, torch.float32))


def test_the_laplacian_of_a_lattice_is_exact_for_quadratics() -> None:
    geometry = LatticeGeometry.covering(GRID, FRAME, 9.0)
    x = torch.as_tensor(geometry.points())
    weights = torch.tensor([[1.0, 2.0, -4.0], [0.5, 0.0, 3.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    assert torch.allclose(laplacian(x.square() @ weights.T, geometry.spacing), 2 * weights.sum(1), atol=1e-9)
