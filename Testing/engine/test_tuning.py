"""alpha: its scale, its choice, and the fields between which a slider interpolates."""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from typer.testing import CliRunner

from inrreg import protocol, tuning
from inrreg.cli import app
from inrreg.conditioning import Strata, weight
from inrreg.deformation import Deformation, load_transform
from inrreg.evaluation import of_result
from inrreg.fields import Field, Jet
from inrreg.landmarks import Points, read_points, write_points
from inrreg.optimization import Run
from inrreg.phantom import Phantom, thorax
from inrreg.problem import Problem
from inrreg.protocol import EVENTS, Job, Message, UserError
from inrreg.registration import register
from inrreg.transforms import DisplacementGrid
from inrreg.tuning import ALPHAS, choose, sparse, tune

QUICK = {"alphas": 2, "steps": (40, 30, 20), "image_spacing": (14, 10, 8), "node_spacing": (28, 20, 16)}

# ------------------------------------------------------------------------------------------ the scale


def test_the_weight_spans_its_decades_on_a_log_scale() -> None:
    found = [weight(alpha, 0.2, 1.5) for alpha in (0, 0.25, 0.5, 0.75, 1)]
    assert found == pytest.approx([0.2 * 10**power for power in (-1.5, -0.75, 0, 0.75, 1.5)])


def test_any_run_of_draws_covers_the_scale_evenly_and_reaches_its_ends() -> None:
    strata = Strata(4)
    for _ in range(10):
        drawn = np.array([strata.draw() for _ in range(40)])
        assert np.all(np.histogram(drawn, 5, (0, 1))[0] >= 5)
        assert {0.0, 1.0} <= set(drawn.tolist())
    first, again, other = ([made.draw() for _ in range(9)] for made in (Strata(4), Strata(4), Strata(5)))
    assert first == again
    assert first != other


# ------------------------------------------------------------------------------------- known fields


class Shift(Field):
    """A conditioned field of a known answer: 2 alpha times one displacement everywhere."""

    kind = "shift-for-test"

    def __init__(self, vector: list[float], alpha: float | None = 0.5) -> None:
        super().__init__()
        self.vector = torch.nn.Parameter(torch.tensor(vector), requires_grad=False)
        self.alpha, self.factor = alpha, 1.0

    def value(self, x: torch.Tensor) -> torch.Tensor:
        return (self.factor * self.vector).expand_as(x)

    def jet(self, x: torch.Tensor, order: int, *, trace: bool = False) -> Jet:
        zero = x.new_zeros(len(x), 3, 3)
        return Jet(self.value(x), zero, x.new_zeros(len(x), 3, 3, 3))

    def at(self, alpha: float) -> Field:
        fixed = Shift(self.vector.tolist(), None)
        fixed.factor = 2 * alpha
        return fixed

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "vector": self.vector.tolist()}


SHIFT = np.array([9.0, -6.0, 12.0])


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Problem, Job]:
    """A phantom and itself, `SHIFT` mm away, with labels and landmarks."""
    made = thorax((44, 36, 44), (6.5, 6.5, 6.5), seed=2, amplitude=5.0, landmarks=40)
    folder = tmp_path_factory.mktemp("shifted")

    def moved(image: sitk.Image) -> sitk.Image:
        image = sitk.Image(image)
        image.SetOrigin((np.array(image.GetOrigin()) + SHIFT).tolist())
        return image

    write_points(folder / "f.csv", Points(made.fixed_landmarks))
    write_points(folder / "m.csv", Points(made.fixed_landmarks + SHIFT))
    problem = Problem(made.fixed, moved(made.fixed), fixed_labels=made.fixed_labels)
    problem.moving_labels = moved(made.fixed_labels)
    return problem, Job("f", "m", fixed_landmarks=str(folder / "f.csv"), moving_landmarks=str(folder / "m.csv"))


def conditioned(problem: Problem) -> Shift:
    """The truth at alpha 0.6."""
    return Shift((SHIFT / problem.frame.scale / 1.2).tolist())


def test_labels_choose_by_dice_and_all_landmarks_judge(shifted: tuple[Problem, Job]) -> None:
    problem, job = shifted
    field = conditioned(problem)
    found = tune(field, problem, job, Run())
    assert (found.chosen, found.criterion, field.alpha) == (0.6, "Dice", 0.6)
    assert found.curves["dice"][ALPHAS.index(0.6)] == pytest.approx(1, abs=1e-6)
    assert max(found.curves["dice"][:6]) < 0.9
    lengths = [abs(alpha / 0.6 - 1) * np.linalg.norm(SHIFT) for alpha in ALPHAS]
    assert found.curves["error"] == pytest.approx(lengths, abs=1e-3)
    assert found.judging == slice(None)


def test_without_labels_half_of_the_landmarks_choose_and_the_other_half_judges(
    shifted: tuple[Problem, Job], tmp_path: Path
) -> None:
    problem, job = shifted
    bare = Problem(problem.fixed, problem.moving)
    ends = read_points(job.moving_landmarks).positions
    ends[tuning.JUDGING] += [0.0, 4.0, 0.0]  # the judges see something else
    write_points(tmp_path / "m.csv", Points(ends))
    images = [str(tmp_path / f"{name}.nrrd") for name in ("fixed", "moving")]
    for image, path in zip((bare.fixed, bare.moving), images, strict=True):
        sitk.WriteImage(image, path)
    job = Job(*images, fixed_landmarks=job.fixed_landmarks, moving_landmarks=str(tmp_path / "m.csv"))
    field = conditioned(bare)
    found = tune(field, bare, job, Run())
    assert (found.chosen, found.criterion) == (0.6, "landmarks")
    assert found.curves["choosing_error"][ALPHAS.index(0.6)] == pytest.approx(0, abs=1e-3)
    assert found.curves["error"][ALPHAS.index(0.6)] == pytest.approx(4, abs=1e-3)
    figures = of_result(Deformation(field.at(0.6), bare.frame, bare.grid), bare, job, found.judging)
    assert figures["landmarks"]["after"]["count"] == 20
    assert figures["landmarks"]["after"]["mean"] == pytest.approx(4, abs=1e-3)


@pytest.mark.parametrize(
    ("criterion", "same", "part"), [("landmarks", 1, "half"), ("landmarks", 0, "all"), ("Dice", 1, "all")]
)
def test_landmarks_that_chose_alpha_do_not_judge_it_later(
    criterion: str, same: bool, part: str, tmp_path: Path
) -> None:
    protocol.write_json(tmp_path / "alpha.json", {"criterion": criterion})
    expected = {"half": tuning.JUDGING, "all": slice(None)}[part]
    assert tuning.judging_part(tmp_path, bool(same)) == expected


def test_a_search_can_be_cancelled(shifted: tuple[Problem, Job]) -> None:
    from inrreg.optimization import Cancelled

    problem, job = shifted
    seen: list[str] = []
    run = Run(lambda kind, data: seen.append(data["stage"]), lambda: len(seen) >= 3)
    with pytest.raises(Cancelled):
        tune(conditioned(problem), problem, job, run)
    assert seen == ["choosing alpha"] * 3


# ------------------------------------------------------------------------------------------ the choice


def test_dice_goes_before_landmarks_and_landmarks_before_similarity() -> None:
    curves = {"similarity": [0.9 - 0.038 * max(0.0, alpha - 0.4) for alpha in ALPHAS]}
    # 0.4 is gained, of which 0.004 may be lost
    assert choose(curves, 0.5) == (0.5, "similarity")
    assert choose(curves, 0.9) == (0.4, "similarity")
    assert choose({"similarity": [0.9] * 21}, 0.95) == (1.0, "similarity")
    curves["choosing_error"] = [abs(alpha - 0.3) for alpha in ALPHAS]
    assert choose(curves, 0.5) == (0.3, "landmarks")
    curves["dice"] = [1 - abs(alpha - 0.7) for alpha in ALPHAS]
    assert choose(curves, 0.5) == (0.7, "Dice")


def test_as_few_fields_as_interpolation_needs() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.rand(200, 3, generator=generator) for _ in range(3))
    straight = [torch.lerp(a, b, alpha) for alpha in ALPHAS]
    assert sparse(straight, 1e-4) == (0.0, 1.0)
    bent = [
        torch.lerp(a, b, alpha / 0.35) if alpha <= 0.35 else torch.lerp(b, c, (alpha - 0.35) / 0.65) for alpha in ALPHAS
    ]
    assert sparse(bent, 1e-4) == (0.0, 0.35, 1.0)
    curved = [torch.lerp(a, b, alpha**2) for alpha in ALPHAS]
    kept = sparse(curved, 0.01)
    assert 3 <= len(kept) < 12
    for low, high in itertools.pairwise(ALPHAS.index(alpha) for alpha in kept):
        for n in range(low, high):
            part = (n - low) / (high - low)
            error = (torch.lerp(curved[low], curved[high], part) - curved[n]).norm(dim=1)
            assert torch.quantile(error, 0.99) <= 0.01
    wild = [torch.rand(50, 3, generator=generator) for _ in ALPHAS]
    assert sparse(wild, 0.01) == ALPHAS


# ---------------------------------------------------------------------------------- a finished result


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return thorax((54, 45, 54), (5.3, 5.3, 5.3), seed=3, amplitude=15.0, landmarks=150)


@pytest.fixture(scope="module")
def result(phantom: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Job, dict[str, Any]]]:
    """A conditioned registration with masks, and without anything that tells the best alpha."""
    folder, files, before = tmp_path_factory.mktemp("tuned"), {}, torch.get_num_threads()
    for name in ("fixed", "moving", "fixed_mask", "moving_mask"):
        files[name] = str(folder / f"{name}.nrrd")
        sitk.WriteImage(getattr(phantom, name), files[name])
    job = Job(**files, preset="cidir-light", overrides=QUICK, threads=1)
    yield folder / "result", job, register(job, folder / "result")
    torch.set_num_threads(before)


def error(made: Any, phantom: Phantom) -> float:
    return float(np.linalg.norm(made.map(phantom.fixed_landmarks) - phantom.moving_landmarks, axis=1).mean())


def test_regularity_follows_alpha(result: tuple[Path, Job, dict[str, Any]]) -> None:
    curves = protocol.read_json(result[0] / "alpha.json")["curves"]
    assert curves["alpha"] == list(ALPHAS)
    for name in ("bending", "sd_log"):
        assert np.all(np.diff(curves[name]) < 0), name
        assert curves[name][-1] < 0.9 * curves[name][0]


def test_the_chosen_alpha_is_the_results_and_nearly_the_best(
    result: tuple[Path, Job, dict[str, Any]], phantom: Phantom
) -> None:
    folder, _, metrics = result
    described = protocol.read_json(folder / "alpha.json")
    assert metrics["alpha"] == {"chosen": described["chosen"], "criterion": described["criterion"]}
    assert described["criterion"] == "similarity"
    own, made = Deformation.load(folder), Deformation.load(folder, described["chosen"])
    assert np.allclose(own.map(phantom.fixed_landmarks), made.map(phantom.fixed_landmarks), atol=1e-4)
    best = min(error(own.at(alpha), phantom) for alpha in ALPHAS[::2])
    assert error(own, phantom) < 1.1 * best


def test_fields_between_which_a_slider_interpolates_are_near_the_exact_ones(
    result: tuple[Path, Job, dict[str, Any]], phantom: Phantom
) -> None:
    folder = result[0]
    fields = protocol.read_json(folder / "alpha.json")["fields"]
    alphas = [entry["alpha"] for entry in fields]
    assert alphas[0] == 0
    assert alphas[-1] == 1
    assert len(alphas) <= 13
    images = [sitk.ReadImage(str(folder / entry["file"])) for entry in fields]
    assert len({(image.GetSize(), image.GetOrigin(), image.GetSpacing()) for image in images}) == 1
    k, j, i = np.nonzero(sitk.GetArrayFromImage(phantom.fixed_mask))
    made = Deformation.load(folder)
    points = made.grid.to_world(np.stack([i, j, k], -1)[::7])
    maps = [DisplacementGrid.of(image) for image in images]
    for alpha in (0.0, 0.03, 0.17, 0.38, 0.5, 0.62, 0.81, 0.97, 1.0):
        n = min(int(np.searchsorted(alphas, alpha, "right")), len(alphas) - 1)
        part = (alpha - alphas[n - 1]) / (alphas[n] - alphas[n - 1])
        between = (1 - part) * maps[n - 1].map(points) + part * maps[n].map(points)
        exact = (
            points
            + made.field.at(alpha).dense(torch.as_tensor(made.frame.normalize(points), dtype=torch.float32)).numpy()
            * made.frame.scale
        )
        assert np.percentile(np.linalg.norm(between - exact, axis=1), 99) < 0.3


def test_registering_again_replaces_the_result(result: tuple[Path, Job, dict[str, Any]]) -> None:
    from inrreg.registration import _is_result

    assert _is_result(result[0])


@pytest.mark.parametrize("alpha", [0.1, 0.9])
def test_the_command_line_answers_at_any_alpha(
    alpha: float, result: tuple[Path, Job, dict[str, Any]], phantom: Phantom, tmp_path: Path
) -> None:
    folder, job, _ = result
    write_points(tmp_path / "in.csv", Points(phantom.fixed_landmarks))
    transform = ["--transform", str(folder), "--alpha", str(alpha)]
    call = ["points", *transform, "--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out.csv")]
    assert CliRunner().invoke(app, call).exit_code == 0
    exact = Deformation.load(folder, alpha).map(phantom.fixed_landmarks)
    assert np.allclose(read_points(tmp_path / "out.csv").positions, exact, atol=1e-3)
    assert np.abs(exact - Deformation.load(folder, 1 - alpha).map(phantom.fixed_landmarks)).max() > 0.1
    files = ["--moving", job.moving, "--reference", job.fixed, "--output", str(tmp_path / "w.nrrd")]
    assert CliRunner().invoke(app, ["warp", *transform, *files]).exit_code == 0
    assert (tmp_path / "w.nrrd").is_file()
    assert CliRunner().invoke(app, ["export", *transform, "--output", str(tmp_path / "t.h5")]).exit_code == 0
    assert np.abs(load_transform(tmp_path / "t.h5").map(phantom.fixed_landmarks) - exact).max() < 1
    write_points(tmp_path / "moved.csv", Points(exact))
    marks = ["--fixed-landmarks", str(tmp_path / "in.csv"), "--moving-landmarks", str(tmp_path / "moved.csv")]
    told = CliRunner().invoke(app, ["evaluate", *transform, *marks, "--json"])
    figures = json.loads(told.stdout)
    assert figures["landmarks"]["after"]["max"] < 1e-2
    assert "similarity" not in figures


@pytest.mark.parametrize("alpha", [-0.01, 1.2, float("nan")])
def test_nothing_lies_beyond_the_scale(alpha: float, result: tuple[Path, Job, dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="from 0") as caught:
        load_transform(result[0], alpha)
    assert caught.value.code == "alpha"


def test_what_was_not_conditioned_has_no_alpha(result: tuple[Path, Job, dict[str, Any]], tmp_path: Path) -> None:
    Deformation.load(result[0], 0.3).save(tmp_path)
    with pytest.raises(UserError, match="no alpha"):
        load_transform(tmp_path, 0.5)
    with pytest.raises(UserError, match="without an alpha"):
        load_transform(result[0] / "displacement.nrrd", 0.5)


# ------------------------------------------------------------------------------------------ the worker


class Client:
    """A real worker process with its events in a queue."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "inrreg.worker"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.events: queue.Queue[Message] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.events.put(Message.decode(line.decode("utf-8"), EVENTS))

    def send(self, *commands: tuple[str, dict[str, Any]]) -> None:
        lines = [Message("alpha", data, request, "job").encode().encode() + b"\n" for request, data in commands]
        self.process.stdin.write(b"".join(lines))

    def answers(self, count: int) -> dict[str, Message]:
        """By request."""
        found: dict[str, Message] = {}
        while len(found) < count:
            event = self.events.get(timeout=120)
            if event.kind != "hello":
                found[event.request] = event
        return found


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.process.stdin.close()
    client.process.wait(timeout=10)


def test_the_worker_writes_the_field_at_an_alpha(
    client: Client, result: tuple[Path, Job, dict[str, Any]], tmp_path: Path
) -> None:
    given = {"folder": str(result[0]), "alpha": 0.3}
    client.send(("own", given | {"path": str(tmp_path / "own.nrrd")}))
    own = client.answers(1)["own"]
    assert (own.kind, own.data) == ("alpha", {"alpha": 0.3, "path": str(tmp_path / "own.nrrd")})
    made = Deformation.load(result[0], 0.3)
    written = sitk.ReadImage(str(tmp_path / "own.nrrd"))
    assert np.allclose(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(made.displacement_field()), atol=1e-4)
    client.send(("coarse", given | {"path": str(tmp_path / "coarse.nrrd"), "spacing": 20}))
    assert client.answers(1)["coarse"].kind == "alpha"
    assert sitk.ReadImage(str(tmp_path / "coarse.nrrd")).GetSpacing() == pytest.approx(made.fitting(20.0), rel=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coarse.nrrd", "own.nrrd"]


def test_a_newer_request_takes_the_place_of_those_that_wait(
    client: Client, result: tuple[Path, Job, dict[str, Any]], tmp_path: Path
) -> None:
    wanted = [
        (f"r{n}", {"folder": str(result[0]), "alpha": n / 40, "path": str(tmp_path / f"{n}.nrrd")}) for n in range(40)
    ]
    client.send(*wanted)
    answers = client.answers(40)
    assert answers["r39"].kind == "alpha"
    kinds = [answers[f"r{n}"].kind for n in range(39)]
    assert kinds.count("cancelled") >= 30
    assert set(kinds) <= {"alpha", "cancelled"}
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {f"{n}.nrrd" for n in range(40) if answers[f"r{n}"].kind == "alpha"}


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"folder": "nowhere"}, "file"), ({"alpha": 3}, "alpha"), ({"alpha": "x"}, "alpha"), ({"spacing": [2]}, "alpha")],
)
def test_the_worker_refuses_in_words(
    changes: dict[str, Any], code: str, client: Client, result: tuple[Path, Job, dict[str, Any]], tmp_path: Path
) -> None:
    client.send(("bad", {"folder": str(result[0]), "alpha": 0.5, "path": str(tmp_path / "x.nrrd")} | changes))
    answer = client.answers(1)["bad"]
    assert (answer.kind, answer.data["code"]) == ("error", code)
    assert not list(tmp_path.iterdir())
