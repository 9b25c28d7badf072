"""REINDIR: what is infused, the encoder's shape, the outer step, files, and a registration that starts from a prior."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from inrreg import cli
from inrreg.encoder import Encoder, Side
from inrreg.fields import Field, Infused, Siren, from_spec
from inrreg.geometry import Frame, Grid, Volume
from inrreg.landmarks import Points, pair
from inrreg.optimization import Run
from inrreg.phantom.shifting import shifting
from inrreg.prior import Family, Prior, Views, infuse
from inrreg.problem import Problem
from inrreg.protocol import Job, UserError
from inrreg.registration import solve
from inrreg.torch_maps import Maps
from inrreg.training.meta import Meta, Solution, annealed, inner_loop, weights
from inrreg.training.pairs import Example
from inrreg.training.phantoms import write_phantoms
from inrreg.training.settings import TrainingSettings
from inrreg.training.start import fresh

SMALL = TrainingSettings(
    width=8, points=150, patch=12, channels=1, embedding=7, inner_steps=2, rate=1e-3, final_rate=1e-3, similarity="ncc"
)


def example(seed: int = 1) -> Example:
    made = shifting(16, 12.0, seed=seed, landmarks=30)
    marks = pair(Points(made.fixed_landmarks), Points(made.moving_landmarks))
    return Example(Problem(made.fixed, made.moving, similarity="ncc"), marks)


@pytest.fixture(scope="module")
def one() -> Example:
    return example()


def prior_of(one: Example, kind: str = "reindir", **changes: Any) -> Prior:
    return fresh(Family.of(one.problem), dataclasses.replace(SMALL, **changes), kind, 0)


def talkative(prior: Prior) -> Prior:
    """The same with heads that no longer say nothing."""
    torch.nn.init.normal_(prior.encoder.heads.weight, std=0.05, generator=torch.Generator().manual_seed(3))
    return prior


# ------------------------------------------------------------------------------------------- infusion


def test_what_is_infused_is_repeated_over_the_hidden_weights_and_added_to_their_biases() -> None:
    field = Infused(6, 4, 5.0, embedding=5, generator=torch.Generator().manual_seed(1)).double()
    x = torch.rand(50, 3, dtype=torch.float64) * 2 - 1
    plain = Siren(6, 4, 5.0, generator=torch.Generator().manual_seed(1)).double()
    assert torch.equal(field.value(x), plain.value(x))
    infuse([field], [(torch.randn(3, 5).double(), torch.randn(3, 6).double())])
    with torch.no_grad():
        for number in range(3):
            layer = plain.layers[number + 1]
            for i in range(6):
                for j in range(6):
                    layer.weight[i, j] *= 1 + field.gamma[number, (6 * i + j) % 5]
            layer.bias += field.delta[number]
    assert torch.allclose(field.value(x), plain.value(x), atol=1e-12)


def test_an_infused_field_zooms_and_has_exact_derivatives() -> None:
    generator = torch.Generator().manual_seed(2)
    field = Infused(6, 3, 3.0, embedding=7, generator=generator).double()
    infuse([field], [(torch.randn(2, 7).double(), torch.randn(2, 6).double())])
    x = (torch.rand(20, 3, dtype=torch.float64) - 0.5).requires_grad_(True)
    before = field.value(1.7 * x) / 1.7
    field.zoom = 1.7
    value = field.value(x)
    assert torch.allclose(value, before, atol=1e-12)
    jacobian = torch.stack([torch.autograd.grad(value[:, i].sum(), x, retain_graph=True)[0] for i in range(3)], 1)
    assert torch.allclose(field.jet(x.detach(), 1).jacobian, jacobian, atol=1e-10)
    again = from_spec(field.spec()).double()
    again.load_state_dict(field.state_dict())
    assert torch.equal(again.value(x), value)
    with pytest.raises(ValueError, match="zoom"):
        from_spec({**field.spec(), "zoom": 0})


def test_the_encoder_is_the_papers_table() -> None:
    with torch.device("meta"):
        encoder = Encoder((336, 288, 336), 256, 3)
    rows = []
    for part in encoder.body:
        if isinstance(part, Side):
            rows.append((part.paths[0].out_channels, [path.kernel_size[0] for path in part.paths], 1))
        elif isinstance(part, torch.nn.Conv3d):
            rows.append((part.out_channels, list(part.kernel_size), part.stride[0]))
    sides = [1, 3, 5]
    assert rows == [
        (6, [3] * 3, 1),
        (6, [3] * 3, 1),
        (12, [3] * 3, 2),
        (12, sides, 1),
        (24, [3] * 3, 2),
        (24, sides, 1),
        (48, [3] * 3, 2),
        (48, sides, 1),
        (48, [3] * 3, 2),
        (48, sides, 1),
        (96, [3] * 3, 3),
        (96, [3, 2, 3], 1),
        (1025, [5] * 3, 1),
    ]
    assert encoder.heads.out_features == 2 * 2 * (1025 + 256)


@pytest.mark.parametrize("patch", [(5, 4, 7), (48, 40, 48), (100, 11, 97)])
def test_an_encoder_of_any_patch_ends_in_one_embedding(patch: tuple[int, int, int]) -> None:
    found = Encoder(patch, 16, 3, 1, 17)(torch.zeros(2, *patch[::-1]))
    assert [(gamma.shape, delta.shape) for gamma, delta in found] == 2 * [((2, 17), (2, 16))]


def test_a_fresh_encoder_says_nothing_and_a_trained_one_tells_pairs_apart(one: Example) -> None:
    prior, other = prior_of(one), example(2)
    x = torch.rand(40, 3)
    with torch.no_grad():
        templates = [network.value(x) for network in prior.networks]
        for each in (one, other):
            for network, expected in zip(prior.start(each.problem), templates, strict=True):
                assert torch.allclose(network.value(x), expected, atol=1e-6)
        found = [network.value(x) for each in (one, other) for network in talkative(prior).start(each.problem)]
    assert all((a - b).abs().max() > 1e-5 for n, a in enumerate(found) for b in found[:n])


def test_a_zoomed_pair_is_what_the_encoder_would_see_of_larger_anatomy(one: Example) -> None:
    prior = prior_of(one)
    seen: list[torch.Tensor] = []
    prior.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    grid, frame = one.problem.grid, one.problem.frame
    array = (one.problem.frame.normalize(grid.points())[..., 0] + 2).astype(np.float32)  # x, so that it is plain
    ramp = Volume.of(array, grid, frame)
    for zoom in (1.0, 1.25):
        prior.encode(Views(ramp, ramp, Maps()), zoom)
    x, zoomed = (pictures[0] - 1.5 for pictures in seen)
    assert torch.allclose(x / 1.25, zoomed, atol=1e-5)
    assert x[0, 0].diff().min() > 0.01


# ----------------------------------------------------------------------------------------- outer steps


def test_an_outer_step_goes_towards_the_solutions_and_not_as_printed_away_from_them(one: Example) -> None:
    meta = Meta(prior_of(one, "reptile"), dataclasses.replace(SMALL, outer_rate=0.5), "reptile", 10)
    before = [each.detach().clone() for each in weights(meta.prior)]
    solved = [[each + torch.randn(each.shape) for each in before] for _ in range(2)]
    meta.update([Solution([a - b for a, b in zip(each, before, strict=True)], [], 0.0) for each in solved])
    for own, old, first, second in zip(weights(meta.prior), before, *solved, strict=True):
        assert torch.allclose(own, old + 0.5 * ((first + second) / 2 - old), atol=1e-6)
    assert meta.step == 1


def test_reptile_is_reindir_without_an_encoder(one: Example) -> None:
    """As long as the encoder says nothing, one inner loop of either is the same."""
    found = [inner_loop(prior_of(one, kind), one, SMALL, 5) for kind in ("reindir", "reptile")]
    for a, b in zip(found[0].steps, found[1].steps, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
        assert a.abs().max() > 0
    assert found[0].gradient
    assert not found[1].gradient


def test_an_inner_loop_leaves_the_prior_alone_and_gives_the_encoders_gradient(one: Example) -> None:
    prior = talkative(prior_of(one))
    before = {name: each.clone() for name, each in prior.modules.state_dict().items()}
    found = inner_loop(prior, one, SMALL, 5)
    assert all(torch.equal(each, before[name]) for name, each in prior.modules.state_dict().items())
    sizes = [each.abs().max().item() for each in found.gradient]
    assert found.finite
    assert sizes[0] > 0  # down to the first layer
    again = inner_loop(prior, one, SMALL, 5)
    assert all(
        torch.equal(a, b) for a, b in zip(found.steps + found.gradient, again.steps + again.gradient, strict=True)
    )
    other = inner_loop(prior, one, SMALL, 6)
    assert not torch.equal(found.steps[0], other.steps[0])


def test_outer_steps_make_what_they_train_on_match(one: Example) -> None:
    settings = dataclasses.replace(SMALL, width=16, encoder_rate=2e-3, warm_up=1, cycles=1)
    meta = Meta(prior_of(one, width=16), settings, "reindir", 40)
    before = meta.prior.start(one.problem)[0]
    losses = []
    for step in range(12):
        meta.update([found := inner_loop(meta.prior, one, settings, step)])
        losses.append(found.loss)
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert one.error(meta.prior.start(one.problem)[0]) < one.error(before)


def test_an_average_is_the_mean_of_the_solutions(one: Example) -> None:
    meta = Meta(prior_of(one, "average"), SMALL, "average", 2)
    before = [each.detach().clone() for each in weights(meta.prior)]
    steps = [[torch.randn(each.shape) for each in before] for _ in range(3)]
    meta.update([Solution(steps[0], [], 0.0), Solution(steps[1], [], 0.0)])
    meta.update([Solution(steps[2], [], 0.0)])
    assert all(torch.equal(a, b) for a, b in zip(weights(meta.prior), before, strict=True))  # where all begin
    for own, old, *parts in zip(weights(meta.current()), before, *steps, strict=True):
        assert torch.allclose(own, old + sum(parts) / 3, atol=1e-6)


def test_the_encoders_rate_warms_up_and_falls_in_cosines() -> None:
    settings = dataclasses.replace(SMALL, encoder_rate=1.0, warm_up=10, cycles=3)
    rates = [annealed(step, 100, settings) for step in range(100)]
    assert np.allclose(rates[:10], np.arange(1, 11) / 10)
    assert [n for n in range(11, 100) if rates[n] > rates[n - 1]] == [40, 70]
    assert rates[10] == rates[40] == rates[70] == 1
    assert rates[25] == pytest.approx(0.5)
    assert max(rates[-1], rates[39]) < 0.01


# ----------------------------------------------------------------------------------------------- files


def test_a_prior_comes_back_from_its_file(one: Example, tmp_path: Path) -> None:
    x = torch.rand(30, 3)
    for kind in ("reindir", "reptile"):
        prior = prior_of(one, kind)
        if kind == "reindir":
            talkative(prior)
        prior.about = {"kind": kind}
        prior.save(tmp_path / "prior")
        again = Prior.load(tmp_path / "prior")
        assert again.about == {"kind": kind}
        assert (again.encoder is None) == (kind == "reptile")
        for a, b in zip(prior.start(one.problem), again.start(one.problem), strict=True):
            assert torch.equal(a.value(x), b.value(x))
    assert [path.name for path in tmp_path.iterdir()] == ["prior"]


def test_a_prior_knows_anatomy_in_mm_whatever_the_images_scale(one: Example) -> None:
    prior = talkative(prior_of(one))
    grid = one.problem.grid
    wider = sitk.ConstantPad(one.problem.fixed, (1, 1, 1), (1, 1, 1), -1000.0)
    other = Problem(wider, one.problem.moving, similarity="ncc")
    points = grid.to_world(np.random.default_rng(0).random((50, 3)) * 15)
    moved = []
    for problem in (one.problem, other):
        network = prior.start(problem)[0]
        x = torch.as_tensor(problem.frame.normalize(points), dtype=torch.float32)
        moved.append(problem.frame.scale * network.dense(x).numpy())
    assert other.frame.scale > 1.1 * one.problem.frame.scale
    assert np.abs(moved[0] - moved[1]).max() < 0.1
    assert np.abs(moved[0]).max() > 1


def damaged(prior: Path, to: Path, change: str) -> Path:
    """A copy of a prior's file with something wrong."""
    tensors = load_file(prior)
    if change == "cut short":
        to.write_bytes(prior.read_bytes()[:-100])
    elif change == "text":
        to.write_text("no prior")
    elif change == "a model without a description":
        save_file(tensors, to)
    else:
        from safetensors import safe_open

        with safe_open(prior, "pt") as file:
            description = json.loads(file.metadata()["prior"])
        if change == "no numbers":
            tensors["there.layers.1.weight"][0, 0] = float("nan")
        elif change == "a larger network":
            description["networks"]["width"] = 1_000_000
        elif change == "too many layers":
            description["networks"]["hidden"] = 10**9
        elif change == "another version":
            description["version"] = 99
        save_file(tensors, to, {"prior": json.dumps(description)})
    return to


CHANGES = (
    "cut short",
    "text",
    "a model without a description",
    "no numbers",
    "a larger network",
    "too many layers",
    "another version",
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_wrong_file_is_one_clear_sentence(one: Example, change: str, tmp_path: Path) -> None:
    prior_of(one).save(tmp_path / "prior")
    wrong = damaged(tmp_path / "prior", tmp_path / "wrong", change)
    with pytest.raises(UserError, match=r"wrong is no prior of version 1, or it is damaged. Give a file") as caught:
        Prior.load(wrong)
    assert caught.value.code == "prior"


def test_a_prior_is_for_images_of_its_kind_and_size(one: Example) -> None:
    prior, fixed, moving = prior_of(one), one.problem.fixed, one.problem.moving
    no_ct = sitk.Cast(fixed, sitk.sitkFloat32) + 2000
    with pytest.raises(UserError, match="with a fixed image that is CT, and this one is no CT"):
        prior.start(Problem(no_ct, moving, similarity="ncc"))
    with pytest.raises(UserError, match="with a moving image that is CT"):
        prior.start(Problem(fixed, no_ct, similarity="ncc"))
    small = fixed[:, :, 4:12]
    with pytest.raises(UserError, match=r"on images of 180 to 180 mm from head to foot, and the fixed one has 84 mm"):
        prior.start(Problem(small, moving, similarity="ncc"))
    turned = sitk.PermuteAxes(fixed, (2, 0, 1))
    assert not Grid.of(turned).equals(Grid.of(fixed))
    assert len(prior.start(Problem(turned, moving, similarity="ncc"))) == 2


# --------------------------------------------------------------------------------------- registrations


@pytest.fixture(scope="module")
def job(one: Example, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that starts from a prior."""
    folder = tmp_path_factory.mktemp("pair")
    for name in ("fixed", "moving"):
        sitk.WriteImage(getattr(one.problem, name), str(folder / f"{name}.nrrd"))
    talkative(prior_of(one)).save(folder / "prior.safetensors")
    files = {name: str(folder / f"{name}.nrrd") for name in ("fixed", "moving")}
    few = {"points": 150, "steps": 3, "prior_steps": 2, "width": 8}
    prior = str(folder / "prior.safetensors")
    return Job(**files, prior=prior, preset="reindir", overrides=few, device="cpu", threads=1)


def run(job: Job) -> tuple[Field, list[tuple[str, dict[str, Any]]]]:
    """What was found, and the events on the way."""
    events: list[tuple[str, dict[str, Any]]] = []
    deformation, _, _ = solve(job, Run(lambda kind, data: events.append((kind, data)), seed=job.seed))
    return deformation.field, events


def test_a_registration_starts_from_its_prior_and_keeps_what_was_infused(job: Job, one: Example) -> None:
    field, events = run(dataclasses.replace(job, overrides={**job.overrides, "rate": 1e-7, "final_rate": 0.0}))
    assert not [data for kind, data in events if kind == "warning" and data["code"] == "no-prior"]
    assert {data["steps"] for kind, data in events if kind == "progress"} == {2}
    assert (field.there.kind, field.back.kind) == ("infused", "infused")
    x = torch.rand(50, 3)
    for own, expected in zip((field.there, field.back), Prior.load(job.prior).start(one.problem), strict=True):
        assert torch.allclose(own.value(x), expected.value(x), atol=1e-4)
    again = from_spec(field.spec())
    again.load_state_dict(field.state_dict())
    assert torch.equal(again.value(x), field.value(x))


def test_without_a_prior_it_says_so_and_does_what_ccidir_does(job: Job) -> None:
    one, events = run(dataclasses.replace(job, prior=""))
    assert [data["message"] for kind, data in events if kind == "warning" and data["code"] == "no-prior"]
    assert {data["steps"] for kind, data in events if kind == "progress"} == {3}
    same = {name: value for name, value in job.overrides.items() if name != "prior_steps"}
    other, _ = run(dataclasses.replace(job, prior="", preset="ccidir", overrides=same))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_wrong_prior_ends_the_command_with_one_sentence(job: Job, tmp_path: Path) -> None:
    call = ["register", "--fixed", job.fixed, "--moving", job.moving, "--output", str(tmp_path / "out")]
    for prior, words in ((job.fixed, "is no prior"), (str(tmp_path / "none"), "There is no prior")):
        answer = CliRunner().invoke(cli.app, [*call, "--preset", "reindir", "--prior", prior])
        assert words in str(answer.exception)
        assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------- phantoms


def at(image: sitk.Image, points: np.ndarray) -> np.ndarray:
    """Trilinear values (N,) at points (N, 3) LPS mm."""
    grid = Grid.of(image)
    frame = Frame.covering(grid)
    volume = Volume.of(sitk.GetArrayFromImage(image), grid, frame)
    return volume.sample(torch.as_tensor(frame.normalize(points), dtype=torch.float32))[0].numpy()


def test_phantoms_move_as_their_landmarks_say_each_its_own_way(tmp_path: Path) -> None:
    shifts = []
    for seed in range(3):
        made = shifting(32, 6.0, seed=seed, noise=0.0)
        fixed, moving, unmoved = (
            at(image, points)
            for image, points in (
                (made.fixed, made.fixed_landmarks),
                (made.moving, made.moving_landmarks),
                (made.moving, made.fixed_landmarks),
            )
        )
        found, before = (np.corrcoef(fixed, other)[0, 1] for other in (moving, unmoved))
        assert 1 - found < 0.1 * (1 - before)
        shifts.append((made.moving_landmarks - made.fixed_landmarks).mean(0))
        assert 3 < np.linalg.norm(made.moving_landmarks - made.fixed_landmarks, axis=1).max() < 18.1
    one, two, three = (shift / np.linalg.norm(shift) for shift in shifts)
    assert max(one @ two, one @ three, two @ three) < 0.9
    manifest = write_phantoms(tmp_path, 1, 0)
    assert manifest.is_file()
