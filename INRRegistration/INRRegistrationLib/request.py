"""What to register, as nodes and settings: checked, and turned into a job folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inrreg import protocol
from inrreg.protocol import Job, UserError

from . import export, hierarchy
from .pair import Files, Pair, check_segments
from .parameters import Parameters

REGIONS = {"sliding": "sliding region", "rigid": "rigid structures", "exclude": "region that is left out"}
"""What is drawn on the fixed volume beside its mask, by job entry, as messages call it."""


@dataclass
class Request(Pair):
    """One registration: MRML nodes and plain settings, named as in `inrreg.protocol.Job`.

    The structures take no part: they are there to judge the result, and the moving ones go with the moving volume.
    Of `sliding`, `rigid` and `exclude`, segmentations or label maps of the fixed volume, the `segments` are the ids of
    the chosen ones, None for all; each rigid one moves on its own.
    """

    sliding: Any = None
    rigid: Any = None
    exclude: Any = None
    sliding_segments: list[str] | None = None
    rigid_segments: list[str] | None = None
    exclude_segments: list[str] | None = None
    fixed_structures: Any = None
    moving_structures: Any = None
    preset: str = protocol.DEFAULT_PRESET
    overrides: dict[str, Any] = field(default_factory=dict)
    initial_transform: Any = None
    prealign: str = "none"
    device: str = "auto"
    threads: int = 0
    seed: int = 0
    time_budget: float = 0.0
    prior: str = ""
    """A file; presets that take none leave it alone."""
    output_transform: Any = None
    output_volume: Any = None
    resample: bool = True
    host: str = ""
    """Where to compute, for `places.Host`; '' for this computer."""
    preview: bool = False

    @classmethod
    def of(cls, parameters: Parameters) -> Request:
        """What the scene's parameters say."""
        names = [name for name in cls.__dataclass_fields__ if name not in ("overrides", "host")]
        values = {name: getattr(parameters, name) for name in names}
        return cls(**values, overrides=parameters.overrides.get(parameters.preset, {}))

    def check(self) -> None:
        """Raise `UserError` with what is missing or contradictory; the first thing first."""
        super().check()
        for name, title in REGIONS.items():
            check_segments(getattr(self, name), getattr(self, f"{name}_segments"), title)
        self._check_transforms()
        if self.resample and self.output_volume is not None and self.output_volume in (self.fixed, self.moving):
            raise UserError("output", "The output volume would overwrite an input.", "Choose another output volume.")
        if self.prealign not in protocol.PREALIGNMENTS:
            raise UserError("job", f"There is no prealignment '{self.prealign}'.")
        preset = protocol.preset(self.preset)
        preset.settings.override(self.overrides)
        if preset.prior and self.prior and not Path(self.prior).is_file():
            raise UserError("prior", f"There is no prior {self.prior}.", "Choose another file, or none.")

    def _check_transforms(self) -> None:
        output, above_moving = self.output_transform, hierarchy.kept(self.moving)
        if output is not None and not output.IsA("vtkMRMLGridTransformNode"):
            hint = "Choose a grid transform, or none, and a new one is made."
            raise UserError("output", f"'{output.GetName()}' is no transform that can hold a deformation field.", hint)
        if output is not None and output in hierarchy.chain(self.fixed):
            hint = "Choose another output transform."
            raise UserError("output", f"The fixed volume is under '{output.GetName()}'.", hint)
        if output is not None and output in above_moving:
            hint = "It would be overwritten; choose another output transform."
            raise UserError("output", f"The moving volume is under '{output.GetName()}'.", hint)
        initial = self.initial_transform
        if initial is not None and initial in above_moving:
            hint = "It takes part already; choose no initial transform."
            raise UserError("initial", f"The moving volume is under '{initial.GetName()}'.", hint)
        if initial is not None and initial is output:
            raise UserError(
                "initial", "The initial transform would be overwritten.", "Choose another output transform."
            )

    def files(self) -> Files:
        files = super().files()
        for name in REGIONS:
            if node := getattr(self, name):
                chosen, frame = getattr(self, f"{name}_segments"), self._to_frame(node, "fixed")
                files.images[name] = export.labels(node, frame, chosen=chosen, apart=name == "rigid")
        return files

    def gather(self, folder: Path, job_id: str) -> Callable[[], list[str]]:
        """Read the scene, and return what writes the job folder and gives notes of it for the user.

        That is safe off the GUI thread: nothing of the scene is touched any more.
        Raises `UserError` where a node cannot be exported.
        """
        files = self.files()
        names = files.names
        initial, notes = None, []
        if self.initial_transform is not None:
            frame = hierarchy.frame(self.fixed, self.moving)
            toward_moving = hierarchy.composed(hierarchy.inverse(hierarchy.action(self.initial_transform, frame)))
            initial = export.initial_transform(toward_moving, files.images["fixed"])
            names["initial_transform"] = initial.file
            if initial.matrix is None:
                notes.append(f"The initial transform is sampled every {initial.spacing:.1f} mm.")
        prior = self.prior if protocol.preset(self.preset).prior else ""
        if prior:
            names["prior"] = "prior.safetensors"
        plain = ("prealign", "preset", "overrides", "device", "threads", "seed", "time_budget")
        settings = {name: getattr(self, name) for name in plain}
        job = Job(**names, **settings, label_names=files.label_names, id=job_id)

        def write() -> list[str]:
            files.write(folder)
            if initial is not None:
                initial.write(folder)
            if prior:
                shutil.copyfile(prior, folder / names["prior"])
            job.save(folder)
            return notes

        return write
