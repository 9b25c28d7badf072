"""A registration's figures against tolerances after AAPM TG-132. Standard library only: the panel reads this too.

K. K. Brock et al., Use of image registration and fusion algorithms and techniques in radiotherapy: report of the AAPM
Radiation Therapy Committee Task Group No. 132, Med. Phys. 44(7), 2017. It asks for a target registration error and a
mean distance to agreement within the largest voxel dimension (about 2 to 3 mm), 5 mm at most for a single point, a
Dice coefficient of about 0.80 to 0.90, no negative Jacobian determinant, and consistency within a voxel. What it
cannot know is the purpose: whoever uses a registration sets the tolerances, and judges.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inrreg.protocol import UserError

NOTICE = (
    "For research use. These checks advise; none of them, nor all of them together, says that a registration is safe "
    "for a patient."
)
MET, NOT_MET, NOT_ASSESSED = "met", "not met", "not assessed"

_LEAST, _MOST = 2.0, 3.0
"""mm: finer voxels ask for no more than the one, as landmarks are not placed better; thicker slices excuse no more
than the other."""


@dataclass(frozen=True)
class Tolerances:
    """What a figure has to keep to: at most, but for Dice at least. Distances in mm.

    Raises `UserError` (code `tolerance`) for anything but finite numbers that are not negative.
    """

    tre_mean: float = _LEAST
    """Mean target registration error."""
    tre_max: float = 5.0
    """Largest target registration error."""
    dice: float = 0.8
    """Dice coefficient of the worst structure."""
    mda: float = _LEAST
    """Mean distance to agreement of the worst structure."""
    folding: float = 0.0
    """Share of Jacobian determinants that are not above zero."""
    inverse: float = _LEAST
    """Inverse consistency, its 99th percentile."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            try:
                number = math.nan if isinstance(value, bool) else float(value)
            except (TypeError, ValueError, OverflowError):
                number = math.nan
            if not 0 <= number < math.inf:
                raise UserError(
                    "tolerance", f"Tolerance '{item.name}' needs a number that is not negative, not {value!r}."
                )
            object.__setattr__(self, item.name, number)

    @classmethod
    def of(cls, spacing: Sequence[float] | None = None, changes: Mapping[str, Any] | None = None) -> Tolerances:
        """The defaults for the fixed image's voxel `spacing` in mm, with a user's `changes` to them.

        The largest voxel dimension, but no less than 2 and no more than 3 mm; 5 mm for the largest error.
        Raises `UserError` (code `tolerance`) for a change of something unknown or to no number.
        """
        voxel = min(max([_LEAST, *(spacing or ())]), _MOST)
        known = {item.name for item in dataclasses.fields(cls)}
        if unknown := sorted(set(changes or ()) - known):
            hint = f"Known are: {', '.join(sorted(known))}."
            raise UserError("tolerance", f"There is no tolerance '{unknown[0]}'.", hint)
        defaults = {"tre_mean": voxel, "mda": voxel, "inverse": voxel}
        return cls(**{**defaults, **(changes or {})})

    def to_dict(self) -> dict[str, float]:
        """Plain JSON values, by name: also what `of` takes as changes."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Check:
    """One figure against its tolerance. `figure` is None where it was not assessed; `detail` says of what it is."""

    key: str
    title: str
    state: str
    figure: float | None
    tolerance: float
    unit: str
    detail: str

    @property
    def bound(self) -> str:
        """The tolerance in words."""
        if self.key == "folding" and self.tolerance == 0:
            return "none"
        word = "at least" if self.key == "dice" else "at most"
        return f"{word} {_in_words(self.tolerance, self.unit)}"

    @property
    def text(self) -> str:
        """The figure in words."""
        return "-" if self.figure is None else _in_words(self.figure, self.unit)


@dataclass(frozen=True)
class Verdict:
    """All checks. It advises, and never says that a registration is safe."""

    checks: tuple[Check, ...]

    @property
    def sentence(self) -> str:
        """How many checks are met, not met and not assessed."""
        count = {state: sum(check.state == state for check in self.checks) for state in (MET, NOT_MET, NOT_ASSESSED)}
        parts = [f"{count[MET]} of {len(self.checks)} checks met", f"{count[NOT_MET]} not met"]
        if count[NOT_ASSESSED]:
            parts.append(f"{count[NOT_ASSESSED]} not assessed for lack of data")
        return ", ".join(parts) + "."

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the notice."""
        checks = [{**dataclasses.asdict(check), "bound": check.bound, "text": check.text} for check in self.checks]
        return {"sentence": self.sentence, "notice": NOTICE, "checks": checks}


def judge(metrics: Mapping[str, Any], tolerances: Tolerances, names: Mapping[str, str] | None = None) -> Verdict:
    """Each check on the figures of `inrreg.evaluation`, whichever of them there are.

    `names` are the structures' names by label.
    """
    return Verdict(
        (
            *_landmarks(metrics.get("landmarks") or {}, tolerances),
            *_structures((metrics.get("labels") or {}).get("after") or {}, tolerances, names or {}),
            _folding(metrics.get("jacobian") or {}, tolerances),
            _inverse(metrics.get("inverse") or {}, tolerances),
        )
    )


def _landmarks(marks: Mapping[str, Any], tolerances: Tolerances) -> list[Check]:
    after = marks.get("after") or {}
    detail = f"of {after['count']} landmarks" if after else "no landmarks"
    titles = {"mean": "Target registration error, mean", "max": "Target registration error, largest"}
    return [
        _at_most(f"tre_{key}", title, after.get(key), getattr(tolerances, f"tre_{key}"), "mm", detail)
        for key, title in titles.items()
    ]


def _structures(rows: Mapping[str, Any], tolerances: Tolerances, names: Mapping[str, str]) -> list[Check]:
    titles = {"dice": "Dice coefficient", "mda": "Mean distance to agreement"}
    if not rows:
        return [
            _at_most(key, titles[key], None, getattr(tolerances, key), unit, "no structures")
            for key, unit in (("dice", ""), ("mda", "mm"))
        ]
    worst = min(rows, key=lambda label: rows[label]["dice"])
    figure = rows[worst]["dice"]
    state = MET if figure >= tolerances.dice else NOT_MET
    checks = [Check("dice", titles["dice"], state, figure, tolerances.dice, "", _structure(worst, names))]
    if absent := [label for label, row in rows.items() if row["mda"] is None]:
        detail = f"{_structure(absent[0], names)} is in one image only"
        return [*checks, Check("mda", titles["mda"], NOT_MET, None, tolerances.mda, "mm", detail)]
    worst = max(rows, key=lambda label: rows[label]["mda"])
    detail = _structure(worst, names)
    return [*checks, _at_most("mda", titles["mda"], rows[worst]["mda"], tolerances.mda, "mm", detail)]


def _structure(label: str, names: Mapping[str, str]) -> str:
    return names.get(label) or f"label {label}"


def _folding(jacobian: Mapping[str, Any], tolerances: Tolerances) -> Check:
    where = "mask" if "mask" in jacobian else "whole"
    figure = jacobian.get(where, {}).get("folding")
    detail = {"mask": "in the mask", "whole": "in the whole field"}[where] if figure is not None else "no grid"
    return _at_most("folding", "Jacobian determinant <= 0", figure, tolerances.folding, "share", detail)


def _inverse(inverse: Mapping[str, Any], tolerances: Tolerances) -> Check:
    detail = f"at {inverse['count']} points" if inverse else "no grid"
    title = "Inverse consistency, 99th percentile"
    return _at_most("inverse", title, inverse.get("p99"), tolerances.inverse, "mm", detail)


def _at_most(key: str, title: str, figure: float | None, tolerance: float, unit: str, detail: str) -> Check:
    state = NOT_ASSESSED if figure is None else MET if figure <= tolerance else NOT_MET
    return Check(key, title, state, figure, tolerance, unit, detail)


def _in_words(value: float, unit: str) -> str:
    if unit == "share":
        return f"{100 * value:.3g} %"
    return f"{value:.2f} {unit}".rstrip()
