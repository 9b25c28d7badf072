"""The short form of the fuzzing, and that it finds bugs that are put in. Long form: `python -m Testing.faults.fuzz`."""

from __future__ import annotations

import pytest

from Testing.faults.families import FAMILIES
from Testing.faults.fuzz import fuzz
from Testing.faults.seeded import BUGS, found_after

SHORT = 60
"""Into how many parts a quota is divided for the short form."""


def test_the_long_form_draws_enough() -> None:
    assert sum(family.quota for family in FAMILIES.values()) >= 10_000
    assert len(BUGS) >= 10


@pytest.mark.parametrize("name", FAMILIES)
def test_every_input_ends_in_a_result_or_a_sentence(name: str) -> None:
    quota = -(-FAMILIES[name].quota // SHORT)
    row = fuzz(FAMILIES[name], quota, 1)
    assert row["finding"] is None, row["finding"]
    assert row["drawn"] >= quota


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_seeded_bug_is_found(bug) -> None:
    assert found_after(bug)
