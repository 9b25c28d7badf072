"""The registration tools that users have today, with the settings that these tools give them.

Each function takes two images in memory and gives the displacement field on the fixed image's grid: at
each point of fixed space the LPS vector, in mm, to the point of moving space. The clock runs from the one
to the other, so that neither reading files nor resampling the moving image counts, and importing the
library does not either.

Both tools run in this process. ITK reads ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS once, when it first needs
threads: the caller sets it to `threads` in the environment before Python starts. elastix and ANTs each
bring an ITK of their own, which both obey it.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

THREADS_VARIABLE = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"

ELASTIX_COMMON = {
    "FixedInternalImagePixelType": ["float"],
    "MovingInternalImagePixelType": ["float"],
    "UseDirectionCosines": ["true"],
    "Registration": ["MultiResolutionRegistration"],
    "Interpolator": ["BSplineInterpolator"],
    "ResampleInterpolator": ["FinalBSplineInterpolator"],
    "Resampler": ["DefaultResampler"],
    "FixedImagePyramid": ["FixedRecursiveImagePyramid"],
    "MovingImagePyramid": ["MovingRecursiveImagePyramid"],
    "Optimizer": ["AdaptiveStochasticGradientDescent"],
    "Metric": ["AdvancedMattesMutualInformation"],
    "HowToCombineTransforms": ["Compose"],
    "NumberOfHistogramBins": ["32"],
    "ErodeMask": ["false"],
    "NumberOfResolutions": ["4"],
    "NumberOfSpatialSamples": ["2048"],
    "NewSamplesEveryIteration": ["true"],
    "ImageSampler": ["Random"],
    "BSplineInterpolationOrder": ["1"],
    "FinalBSplineInterpolationOrder": ["3"],
    "DefaultPixelValue": ["0"],
    # The preset also resamples the moving image at the end; here only the transform is wanted.
    "WriteResultImage": ["false"],
}
ELASTIX_STAGES = (
    {
        **ELASTIX_COMMON,
        "Transform": ["EulerTransform"],
        "AutomaticScalesEstimation": ["true"],
        "AutomaticTransformInitialization": ["true"],
        "MaximumNumberOfIterations": ["250"],
    },
    {
        **ELASTIX_COMMON,
        "Transform": ["BSplineTransform"],
        "FinalGridSpacingInPhysicalUnits": ["16"],
        "MaximumNumberOfIterations": ["500"],
    },
)
"""SlicerElastix's preset `default0`, "generic (all)": what its panel shows first.

From lassoan/SlicerElastix, Elastix/Resources/RegistrationParameters: Parameters_Rigid.txt, then
Parameters_BSpline.txt.
"""


def elastix(fixed: sitk.Image, moving: sitk.Image, threads: int) -> tuple[sitk.Image, float]:
    """Rigid, then B-spline registration by itk-elastix with SlicerElastix's default preset.

    Returns the float32 displacement field on the fixed grid, LPS mm, and the seconds it took.
    Raises `RuntimeError` where ITK would not run with `threads` threads.
    """
    _require_threads(threads)
    import itk

    parameters = itk.ParameterObject.New()  # which also loads what of the library is needed
    for stage in ELASTIX_STAGES:
        parameters.AddParameterMap(stage)

    _to_itk(sitk.Image(2, 2, 2, sitk.sitkFloat32))
    # Computing the field in memory also writes it; without a folder of its own, into the current one.
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        itk_moving = _to_itk(moving)
        method = itk.ElastixRegistrationMethod.New(
            _to_itk(fixed),
            itk_moving,
            parameter_object=parameters,
            number_of_threads=threads,
            log_to_console=False,
        )
        method.UpdateLargestPossibleRegion()
        field = itk.transformix_deformation_field(
            itk_moving, method.GetTransformParameterObject(), output_directory=folder
        )
        displacement = _field_on_grid(itk.array_from_image(field), fixed)
        return displacement, time.perf_counter() - start


def syn(fixed: sitk.Image, moving: sitk.Image, threads: int) -> tuple[sitk.Image, float]:
    """Affine, then symmetric diffeomorphic registration by ANTs, with the defaults of antspyx.

    Returns the float32 displacement field on the fixed grid, LPS mm, and the seconds it took. ANTs hands
    its transforms over as files, and writing and reading these is part of the time.
    Raises `RuntimeError` where ITK would not run with `threads` threads.
    """
    _require_threads(threads)
    import ants

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = ants.registration(
            fixed=_to_ants(fixed),
            moving=_to_ants(moving),
            type_of_transform="SyN",
            outprefix=str(Path(folder) / "syn_"),
        )
        warp_path, affine_path = result["fwdtransforms"]
        warp = sitk.ReadImage(warp_path, sitk.sitkVectorFloat64)
        # NIfTI stores the geometry in single precision; the warp lies on the fixed grid.
        warp.CopyInformation(fixed)
        # A point of fixed space goes through the last one first: the warp, then the affine part.
        transform = sitk.CompositeTransform([sitk.ReadTransform(affine_path), sitk.DisplacementFieldTransform(warp)])
        displacement = sitk.TransformToDisplacementField(
            transform,
            sitk.sitkVectorFloat32,
            fixed.GetSize(),
            fixed.GetOrigin(),
            fixed.GetSpacing(),
            fixed.GetDirection(),
        )
        return displacement, time.perf_counter() - start


TOOLS = {"elastix": elastix, "syn": syn}


def _require_threads(threads: int) -> None:
    if os.environ.get(THREADS_VARIABLE) != str(threads):
        raise RuntimeError(f"Set {THREADS_VARIABLE}={threads} in the environment before Python starts.")


def _to_itk(image: sitk.Image):
    """The same image, float32, as itk's Python package holds it."""
    import itk

    result = itk.image_from_array(sitk.GetArrayFromImage(sitk.Cast(image, sitk.sitkFloat32)))
    result.SetSpacing(image.GetSpacing())
    result.SetOrigin(image.GetOrigin())
    result.SetDirection(itk.matrix_from_array(np.reshape(image.GetDirection(), (3, 3))))
    return result


def _to_ants(image: sitk.Image):
    """The same image, float32, as antspyx holds it: its arrays run x, y, z where SimpleITK's run z, y, x."""
    import ants

    return ants.from_numpy(
        sitk.GetArrayFromImage(sitk.Cast(image, sitk.sitkFloat32)).T,
        origin=image.GetOrigin(),
        spacing=image.GetSpacing(),
        direction=np.reshape(image.GetDirection(), (3, 3)),
    )


def _field_on_grid(vectors: np.ndarray, grid: sitk.Image) -> sitk.Image:
    """A (z, y, x, 3) array of LPS mm as a float32 vector image on the grid."""
    field = sitk.GetImageFromArray(vectors.astype(np.float32), isVector=True)
    field.CopyInformation(grid)
    return field
