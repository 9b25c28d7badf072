"""Whether two images show the same contrast: what decides between the similarities where the user does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from inrreg.intensities import is_ct

if TYPE_CHECKING:
    from inrreg.problem import Problem

POINTS, BINS = 50_000, 32
SMOOTHING = 4.0
"""mm of a Gaussian before the images are compared: they are not aligned yet."""
UNEXPLAINED = 0.05
"""Correlation that a function of the one image reaches with the other beyond a rising one, where contrasts differ.

Liver MR before registration: at most 0.004, with one image inverted at least 0.9."""


def unexplained(fixed: np.ndarray, moving: np.ndarray) -> float:
    """The correlation ratio (Roche et al. 1998) of ranks less its part that a rising function explains, 0 to 1.

    The larger of the two directions.
    """
    ranks = [np.argsort(np.argsort(each, kind="stable"), kind="stable") / len(each) for each in (fixed, moving)]
    return max(_unexplained(*ranks), _unexplained(*ranks[::-1]))


def _unexplained(given: np.ndarray, told: np.ndarray) -> float:
    number = np.minimum((given * BINS).astype(int), BINS - 1)
    count = np.bincount(number, minlength=BINS).clip(1)
    means = np.bincount(number, told, BINS) / count
    centre, total = told.mean(), told.var()

    def ratio(values: np.ndarray) -> float:
        return float(np.sqrt((count * (values - centre) ** 2).sum() / count.sum() / total))

    return ratio(means) - ratio(_rising(means, count))


def _rising(means: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The nearest values that never fall, in weighted least squares: pool adjacent violators (Ayer et al. 1955)."""
    blocks: list[tuple[float, float, int]] = []
    for mean, weight in zip(means.tolist(), count.tolist(), strict=True):
        width = 1
        while blocks and blocks[-1][0] >= mean:
            other, more, length = blocks.pop()
            mean = (mean * weight + other * more) / (weight + more)
            weight, width = weight + more, width + length
        blocks.append((mean, weight, width))
    return np.repeat([block[0] for block in blocks], [block[2] for block in blocks])


def suited(problem: Problem) -> str:
    """The similarity, one of `SIMILARITIES` but `auto`, that suits a pair.

    Hounsfield units are of one contrast, and of another than anything else. Of other images of one contrast, however
    badly aligned, no function of the one says more of the other than a rising one does; where one does, they differ.
    """
    ct = [is_ct(sitk.GetArrayViewFromImage(image)) for image in (problem.fixed, problem.moving)]
    if any(ct):
        return "ncc" if all(ct) else "multimodal"
    points = problem.box(seed=13).draw(POINTS)  # of the whole image: contrast is none of a mask's
    moving = problem.moving_volume(SMOOTHING)
    located = moving.locate(problem.before(points))
    inside = moving.contains_located(located)
    values = problem.fixed_volume(SMOOTHING).sample(points[inside])[0], moving.sample_located(located[inside])[0]
    return "multimodal" if unexplained(*(part.cpu().numpy() for part in values)) > UNEXPLAINED else "ncc"
