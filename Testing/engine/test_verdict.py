"""The verdict: what is met, what is not, what nobody could know; and that it promises nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from inrreg.protocol import Job, UserError
from inrreg.verdict import MET, NOT_ASSESSED, NOT_MET, NOTICE, Tolerances, judge

GOOD = {
    "landmarks": {"after": {"mean": 1.2, "max": 4.0, "count": 30}},
    "labels": {"after": {"1": {"dice": 0.92, "mda": 0.8}, "2": {"dice": 0.85, "mda": 1.4}}},
    "jacobian": {"whole": {"folding": 0.1}, "mask": {"folding": 0.0}},
    "inverse": {"p99": 0.01, "count": 1000},
}


def states(metrics: dict, **changes: float) -> dict[str, str]:
    return {check.key: check.state for check in judge(metrics, Tolerances.of((1, 1, 2.5), changes)).checks}


def test_defaults_follow_the_largest_voxel_dimension_within_the_reports_bounds() -> None:
    for spacing, voxel in (((1, 1, 2.5), 2.5), ((0.9, 0.9, 1), 2.0), ((1, 1, 5), 3.0), (None, 2.0)):
        assert Tolerances.of(spacing).to_dict() == {
            "tre_mean": voxel, "tre_max": 5.0, "dice": 0.8, "mda": voxel, "folding": 0.0, "inverse": voxel
        }  # fmt: skip


def test_all_met() -> None:
    assert set(states(GOOD).values()) == {MET}
    assert judge(GOOD, Tolerances()).sentence == "6 of 6 checks met, 0 not met."


def test_nothing_known_is_nothing_met() -> None:
    assert set(states({}).values()) == {NOT_ASSESSED}
    assert judge({}, Tolerances()).sentence == "0 of 6 checks met, 0 not met, 6 not assessed for lack of data."


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("tre_mean", {"landmarks": {"after": {"mean": 2.51, "max": 4.0, "count": 3}}}),
        ("tre_max", {"landmarks": {"after": {"mean": 1.0, "max": 5.01, "count": 3}}}),
        ("dice", {"labels": {"after": {"1": {"dice": 0.95, "mda": 0.8}, "2": {"dice": 0.79, "mda": 0.8}}}}),
        ("mda", {"labels": {"after": {"1": {"dice": 0.95, "mda": 2.6}, "2": {"dice": 0.96, "mda": 0.8}}}}),
        ("folding", {"jacobian": {"whole": {"folding": 1e-6}}}),
        ("inverse", {"inverse": {"p99": 2.6, "count": 10}}),
    ],
)
def test_each_check_can_fail_alone(key: str, change: dict) -> None:
    assert states({**GOOD, **change}) == {name: NOT_MET if name == key else MET for name in states(GOOD)}


def test_the_worst_structure_counts_and_is_named() -> None:
    checks = {check.key: check for check in judge(GOOD, Tolerances(), {"2": "Liver"}).checks}
    assert (checks["dice"].figure, checks["dice"].detail) == (0.85, "Liver")
    assert (checks["mda"].figure, checks["mda"].detail) == (1.4, "Liver")


def test_a_structure_without_counterpart_is_not_met() -> None:
    rows = {"1": {"dice": 0.95, "mda": 0.8}, "7": {"dice": 0.0, "mda": None}}
    checks = {check.key: check for check in judge({"labels": {"after": rows}}, Tolerances()).checks}
    assert checks["dice"].state == checks["mda"].state == NOT_MET
    assert "label 7" in checks["mda"].detail


def test_landmarks_that_all_guided_are_not_assessed() -> None:
    assert states({**GOOD, "landmarks": {"guided": 5}})["tre_mean"] == NOT_ASSESSED


def test_tolerances_are_edited_and_kept() -> None:
    changes = {"tre_mean": "1.0", "dice": 0.9}
    assert states(GOOD, **changes)["tre_mean"] == states(GOOD, **changes)["dice"] == NOT_MET
    edited = Tolerances.of((1, 1, 2.5), changes)
    assert Tolerances.of(None, json.loads(json.dumps(edited.to_dict()))) == edited
    job = Job("f", "m", tolerances=changes)
    assert Job.from_dict(json.loads(json.dumps(job.to_dict()))).tolerances_for([1, 1, 2.5]) == edited


@pytest.mark.parametrize("changes", [{"tre": 1}, {"dice": "much"}, {"mda": -1}, {"mda": float("nan")}, {"mda": True}])
def test_tolerances_that_are_none_are_refused(changes: dict) -> None:
    for make in (lambda: Tolerances.of(None, changes), lambda: Job("f", "m", tolerances=changes)):
        with pytest.raises(UserError) as caught:
            make()
        assert caught.value.code == "tolerance"


def test_it_advises_and_promises_nothing() -> None:
    assert NOTICE.startswith("For research use.")
    told = judge(GOOD, Tolerances()).to_dict()
    assert told["notice"] == NOTICE
    assert "safe" not in json.dumps({**told, "notice": ""})
    assert json.loads(json.dumps(told)) == told


def test_it_needs_the_standard_library_alone() -> None:
    code = "import sys, inrreg.verdict; print(*(m for m in ('numpy', 'torch') if m in sys.modules))"
    folder = Path(__file__).parents[2] / "INRRegistration"
    answer = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []
