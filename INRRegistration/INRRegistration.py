"""The Slicer module: what Slicer looks for by name. The work is done in `INRRegistrationLib`."""

from __future__ import annotations

import logging
import sys
import unittest
from typing import Any

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

from inrreg.protocol import DEFAULT_PRESET

OWN_PACKAGES = ("INRRegistrationLib", "inrreg")


class INRRegistration(ScriptedLoadableModule):
    """Name, place and help of the module."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("INR Registration")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        parent.dependencies = []
        parent.contributors = ["INRRegistration contributors"]
        parent.helpText = _(
            "Deformable registration of two volumes with implicit neural representations. For research use only."
        )
        parent.acknowledgementText = _("The methods and their authors are named with each preset.")


class INRRegistrationWidget(ScriptedLoadableModuleWidget):
    """Loads the panel and passes on what happens to the module."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        self.panel = None

    def setup(self) -> None:
        """Called once, when the module is opened first or reloaded."""
        from INRRegistrationLib.logic import shared
        from INRRegistrationLib.panel import Panel

        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/INRRegistration.ui"))
        self.layout.addWidget(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.panel = Panel(slicer.util.childWidgetVariables(widget), shared())

    def enter(self) -> None:
        """The user opens the module: a scene may have come since."""
        if self.panel is not None:
            self.panel.enter()

    def cleanup(self) -> None:
        """The module is reloaded, or Slicer exits."""
        if self.panel is not None:
            self.panel.cleanup()
            self.panel = None

    def onReload(self) -> None:
        """Reload our packages as well; Slicer reloads this file only."""
        self.cleanup()
        for name in [name for name in sys.modules if name.split(".")[0] in OWN_PACKAGES]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class INRRegistrationLogic(ScriptedLoadableModuleLogic):
    """Registration from Python.

    >>> transform = INRRegistrationLogic().register(fixed, moving, preset="fast")
    """

    def register(
        self,
        fixed: Any,
        moving: Any,
        *,
        preset: str = DEFAULT_PRESET,
        overrides: dict[str, Any] | None = None,
        fixed_mask: Any = None,
        moving_mask: Any = None,
        fixed_labels: Any = None,
        moving_labels: Any = None,
        sliding: Any = None,
        rigid: Any = None,
        exclude: Any = None,
        fixed_landmarks: Any = None,
        moving_landmarks: Any = None,
        guides: list[str] | None = None,
        initial_transform: Any = None,
        prealign: str = "none",
        device: str = "auto",
        threads: int = 0,
        seed: int = 0,
        time_budget: float = 0.0,
        prior: str = "",
        output_transform: Any = None,
        output_volume: Any = None,
        resample: bool | None = None,
        host: str = "",
        preview: bool = False,
        wait: bool = True,
    ) -> Any:
        """Register the moving volume to the fixed one; the moving volume ends under the resulting transform.

        Volumes are vtkMRMLScalarVolumeNode; masks and labels vtkMRMLSegmentationNode or
        vtkMRMLLabelMapVolumeNode; landmarks vtkMRMLMarkupsFiducialNode, `guides` the ids of those fixed control points
        whose pairs pull the registration; transforms vtkMRMLTransformNode. `sliding`, `rigid` and `exclude` are masks
        or labels of the fixed volume: what slides along its border, what does not bend (each segment or label on its
        own), what is not compared. `overrides` replaces settings of the preset
        by name. Outputs that are None are made new; the moving volume is resampled onto the fixed grid where
        `resample` says so, by default where an output volume is given. With `preview` the moving volume follows what
        has been found so far. `time_budget` is in seconds, 0 for none. `prior` is a file for the preset `reindir`.
        `host` computes elsewhere, over the system's ssh: user@server, or user@server:/path/to/python.

        Returns the transform node once it is done; with `wait=False`, at once, a run with `state`, `cancel()`,
        `transform`, `volume`, `error` and the signals `progress` and `finished`, each with `connect(function)`.

        Raises `inrreg.protocol.UserError`, with `code`, `message` and `hint`, where it cannot start; with
        `wait=True` also where it fails or is cancelled.
        """
        from INRRegistrationLib.logic import shared
        from INRRegistrationLib.request import Request

        request = Request(
            fixed=fixed,
            moving=moving,
            preset=preset,
            overrides=overrides or {},
            fixed_mask=fixed_mask,
            moving_mask=moving_mask,
            fixed_labels=fixed_labels,
            moving_labels=moving_labels,
            sliding=sliding,
            rigid=rigid,
            exclude=exclude,
            fixed_landmarks=fixed_landmarks,
            moving_landmarks=moving_landmarks,
            guides=guides,
            initial_transform=initial_transform,
            prealign=prealign,
            device=device,
            threads=threads,
            seed=seed,
            time_budget=time_budget,
            prior=prior,
            output_transform=output_transform,
            output_volume=output_volume,
            resample=output_volume is not None if resample is None else resample,
            host=host,
            preview=preview,
        )
        run = shared().start(lambda: request)
        if not wait:
            return run
        shared().wait(run)
        return run.transform

    def evaluate(
        self,
        transform: Any,
        *,
        fixed_landmarks: Any = None,
        moving_landmarks: Any = None,
        fixed_labels: Any = None,
        moving_labels: Any = None,
        fixed_mask: Any = None,
        tolerances: dict[str, float] | None = None,
        report: str = "",
        wait: bool = True,
    ) -> Any:
        """Judge a result of `register`; tables, charts and maps of it go into the scene.

        What is on the moving volume counts where the scene shows it: under `transform` as the moving volume is, or as
        placed on the registered image. `tolerances` are changes of those of `inrreg.verdict.Tolerances`, by name;
        `report` names an HTML file to write.

        Returns the figures as in `metrics.json` once it is done; with `wait=False`, at once, an operation as `register`
        does, with `metrics`. Raises `inrreg.protocol.UserError` likewise.
        """
        from INRRegistrationLib import hierarchy
        from INRRegistrationLib.evaluation import Judged
        from INRRegistrationLib.logic import shared

        judged = Judged(
            fixed=transform.GetNodeReference(hierarchy.FIXED),
            moving=transform.GetNodeReference(hierarchy.MOVING),
            transform=transform,
            fixed_mask=fixed_mask,
            fixed_labels=fixed_labels,
            moving_labels=moving_labels,
            fixed_landmarks=fixed_landmarks,
            moving_landmarks=moving_landmarks,
            tolerances=tolerances or {},
        )
        operation = shared().evaluate(lambda: judged, report)
        if not wait:
            return operation
        shared().wait(operation)
        return operation.metrics

    def export(
        self,
        transform: Any,
        path: Any,
        *,
        inverse: bool = False,
        part: str = "whole",
        spacing: float = 0.0,
        mask: Any = None,
        mask_segments: list[str] | None = None,
        fixed_series: str = "",
        moving_series: str = "",
        wait: bool = True,
    ) -> Any:
        """Write a resulting transform, its inverse or a part of it to a file, in world coordinates.

        The ending of `path` says the format: .h5, .tfm, .nrrd, .nii.gz or .dcm; without one it becomes a folder with
        the model. An existing file is replaced. `part` is one of `inrreg.parts.PARTS`. `spacing` is in mm, 0 for the
        coarsest with an error below half a voxel and 0.5 mm. `mask`, a segmentation or label map on the fixed volume,
        is where an inverse is measured apart. A DICOM object, in the coordinates of the volumes' own images, refers to
        the series that Slicer's DICOM database knows the volumes by, or to those in the folders given.

        Returns a dictionary of what was written: `spacing`, `size`, and errors in mm as `inrreg.export.export` gives
        them; with `wait=False`, at once, an operation with `figures`, as `register` does. Raises `UserError` as that.
        """
        from INRRegistrationLib.exporting import Export, ExportRequest
        from INRRegistrationLib.logic import shared

        request = ExportRequest(
            transform, path, part, inverse, spacing, mask, mask_segments, str(fixed_series), str(moving_series)
        )
        operation = shared().begin(lambda *place: Export(request, *place))
        if not wait:
            return operation
        shared().wait(operation)
        return operation.figures

    def make_mask(self, volume: Any, kind: str = "body", *, output: Any = None, wait: bool = True) -> Any:
        """Find the body in a volume, or the lungs in a CT (`kind` `lungs`), as a segmentation on it.

        `output` is a segmentation whose contents are replaced, None for a new one. Returns the segmentation; with
        `wait=False`, at once, an operation with `mask`, as `register` does. Raises `UserError` as that.
        """
        from INRRegistrationLib.logic import shared
        from INRRegistrationLib.masks import BODY, MakeMask

        kind = BODY if kind == "body" else kind
        operation = shared().begin(lambda *place: MakeMask(volume, kind, output, *place))
        if not wait:
            return operation
        shared().wait(operation)
        return operation.mask


class INRRegistrationTest(ScriptedLoadableModuleTest):
    """Self test: a small generated pair, registered for real where PyTorch and its like are installed."""

    def runTest(self) -> None:
        """Run it all."""
        self.setUp()
        try:
            self.test_register()
        except unittest.SkipTest as reason:
            logging.warning("INRRegistration self test skipped: %s", reason)

    def setUp(self) -> None:
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()

    def test_register(self) -> None:
        """The moving volume ends under a transform that brings it nearer to the fixed one."""
        from INRRegistrationLib import dependencies
        from INRRegistrationLib.selftest import check_registration

        if missing := dependencies.missing():
            self.skipTest(f"not installed: {', '.join(missing)}")
        check_registration(INRRegistrationLogic())
