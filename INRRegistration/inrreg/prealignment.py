"""An optional rigid or affine alignment before the deformable one, by SimpleITK's registration framework."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from inrreg.optimization import Run
from inrreg.protocol import UserError
from inrreg.transforms import Affine, PointMap, SitkTransform, simplify

_SHRINK = (4, 2)
_STEPS = 100


def prealign(
    kind: str,
    fixed: sitk.Image,
    moving: sitk.Image,
    fixed_mask: sitk.Image | None,
    moving_mask: sitk.Image | None,
    initial: PointMap,
    run: Run,
) -> Affine:
    """The rigid or affine map R, by mutual information, for which moving(initial(R(x))) matches fixed(x).

    Starts from the identity; from aligned centres when the images, under `initial`, do not overlap by half.
    Raises `UserError` (code `prealign`) when the optimizer finds no overlap.
    """
    start = sitk.Euler3DTransform() if kind == "rigid" else sitk.AffineTransform(3)
    start.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()]))
    if shift := _centring(fixed, moving, initial):
        start.SetTranslation(shift)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.2, run.seed + 1)
    if fixed_mask is not None:
        method.SetMetricFixedMask(fixed_mask)
    if moving_mask is not None:
        method.SetMetricMovingMask(moving_mask)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, _STEPS, gradientMagnitudeTolerance=1e-6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(_SHRINK)
    method.SetSmoothingSigmasPerLevel([float(n) for n in _SHRINK])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetMovingInitialTransform(_to_sitk(initial))
    method.SetInitialTransform(start, inPlace=True)

    def progress() -> None:
        if run.cancelled():
            method.StopRegistration()
            return
        value = method.GetMetricValue()
        done = (method.GetCurrentLevel() + min(1, method.GetOptimizerIteration() / _STEPS)) / len(_SHRINK)
        run.announce(f"prealignment ({kind})", done, value)

    method.AddCommand(sitk.sitkIterationEvent, progress)
    try:
        method.Execute(sitk.Cast(fixed, sitk.sitkFloat32), sitk.Cast(moving, sitk.sitkFloat32))
    except RuntimeError:
        raise UserError(
            "prealign",
            f"The {kind} prealignment failed: the images do not overlap enough.",
            "Align the volumes by hand first, or choose no prealignment.",
        ) from None
    finally:
        # Else it and its images would never go: a command that knows its method keeps it alive.
        method.RemoveAllCommands()
    run.check_cancelled()
    return simplify(start)


def _centring(fixed: sitk.Image, moving: sitk.Image, initial: PointMap) -> list[float] | None:
    """The shift between the centres when less than half of the fixed image lies in the moving one."""
    size = np.array(fixed.GetSize())
    index = np.random.default_rng(0).random((2000, 3)) * (size - 1)
    points = np.array([fixed.TransformContinuousIndexToPhysicalPoint(i) for i in index.tolist()])
    located = np.array([moving.TransformPhysicalPointToContinuousIndex(p) for p in initial.map(points).tolist()])
    inside = ((located >= 0) & (located <= np.array(moving.GetSize()) - 1)).all(1).mean()
    if inside >= 0.5:
        return None
    ends = [
        np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))
        for image in (fixed, moving)
    ]
    return (ends[1] - initial.map(ends[0][None])[0]).tolist()


def _to_sitk(transform: PointMap) -> sitk.Transform:
    if isinstance(transform, Affine):
        return transform.to_sitk()
    if isinstance(transform, SitkTransform):
        return transform.transform
    return sitk.DisplacementFieldTransform(transform.grid.image(transform.vectors))
