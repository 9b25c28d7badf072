"""What counts as handled: a valid result, or one clear sentence."""

from __future__ import annotations

import re
from collections.abc import Callable

from inrreg.protocol import UserError

VALID = "valid"
LONGEST = 1001
"""Characters of message and hint together: more is no sentence."""


def outcome(call: Callable[[], object]) -> str:
    """`VALID`, or the code of the `UserError` that the call ends in; anything else passes through and is a finding."""
    try:
        call()
    except UserError as error:
        check_sentence(error)
        return error.code
    return VALID


def check_sentence(error: UserError) -> None:
    """Raise AssertionError unless an error is one clear sentence, with at most a hint behind it."""
    text = str(error)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", error.code), error.code
    assert error.code != "internal", text
    assert text.isprintable(), f"not one line: {text!r}"
    assert len(text) <= LONGEST, f"{len(text)} characters: {text[:200]!r}"
    assert error.message.endswith("."), text
    assert not error.hint or error.hint.endswith((".", "'", "]")), text
