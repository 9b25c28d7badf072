"""What panel, command line and worker agree on: settings, presets, jobs, commands and events.

Standard library only: the panel reads this with torch, numpy and SimpleITK absent.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import pkgutil
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from inrreg.verdict import Tolerances

VERSION = 1
"""Version of job files, events and saved models; a reader refuses any other."""

DEFAULT_PRESET = "fast"
PREALIGNMENTS = ("none", "rigid", "affine")
AUTOMATIC_MASKS = ("auto", "lungs")
"""What stands for a mask that is found in its image, instead of a file: the body, or the lungs of a CT."""
SIMILARITIES = ("auto", "ncc", "multimodal")
"""How images are compared: `ncc` for one contrast, `multimodal` for two, `auto` for what their intensities say."""
SIMILARITY = {"ncc": "normalized cross-correlation", "multimodal": "correlation of self-similarity (MIND)"}
"""What is told of a result's similarity, by how it was compared."""
MOST_THREADS, MOST_SEED = 1024, 2**31 - 1
"""Beyond these, libraries crash."""
MOST_MEMBERS = 25
"""Fields of an ensemble: more of them only cost time."""

MOST_TEXT = 500
"""Characters of an error's sentence."""


class UserError(Exception):
    """An error that the user can mend: one sentence, and what to do about it.

    `code` is a stable word that programs can test, `message` says what is wrong, `hint` what to do. Both are one line
    each of at most `MOST_TEXT` printable characters, whatever of names and values of the user's they quote.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        message, hint = _one_line(message), _one_line(hint)
        super().__init__(f"{message} {hint}".strip())
        self.code, self.message, self.hint = code, message, hint


def _one_line(text: str) -> str:
    text = "".join(each if each.isprintable() else " " if each.isspace() else "?" for each in text)
    return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT // 2 - 2]}...{text[-MOST_TEXT // 2 + 1 :]}"


# ---------------------------------------------------------------------------------------- settings


def setting(default: Any, help: str, *, unit: str = "", low: float | None = None, high: float | None = None) -> Any:
    """A field of a `Settings` dataclass with its unit and its closed range."""
    metadata = {"help": help, "unit": unit, "low": low, "high": high}
    if isinstance(default, list):
        raise TypeError("use a tuple for a sequence setting")
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """Base of every method's configuration: typed, ranged, and the one schema that all readers share.

    The type of a setting is the type of its default; a tuple holds values of its first entry's type.
    Tuples of one method have one entry for each of its stages. Raises `UserError` (code `setting`) when constructed
    with a value of the wrong type or range, or with tuples of different lengths.
    """

    similarity: str = setting("auto", f"one of {', '.join(SIMILARITIES)}")

    def __post_init__(self) -> None:
        if self.similarity not in SIMILARITIES:
            message = f"There is no similarity '{self.similarity}'."
            raise UserError("setting", message, f"Choose one of: {', '.join(SIMILARITIES)}.")
        stages = {}
        for item in dataclasses.fields(self):
            value = _checked(item, getattr(self, item.name))
            object.__setattr__(self, item.name, value)
            if isinstance(value, tuple):
                stages[item.name] = len(value)
        if len(set(stages.values())) > 1:
            lengths = ", ".join(f"{name} has {count}" for name, count in stages.items())
            raise UserError("setting", f"These settings need one entry for each stage, but {lengths}.")

    def override(self, assignments: dict[str, Any]) -> Settings:
        """A copy with some settings replaced; values may be text, as `--set key=value` gives them."""
        known = {item.name: item for item in dataclasses.fields(self)}
        for name in assignments:
            if name not in known:
                raise UserError(
                    "setting", f"There is no setting '{name}' here.", f"Known settings: {', '.join(sorted(known))}."
                )
        return dataclasses.replace(self, **assignments)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, by name."""
        return dataclasses.asdict(self)


def _checked(item: dataclasses.Field, value: Any) -> Any:
    default = item.default
    if isinstance(default, tuple):
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)) or not parts:
            raise UserError("setting", f"Setting '{item.name}' needs a list of values, not {value!r}.")
        return tuple(_checked_scalar(item, default[0], part) for part in parts)
    return _checked_scalar(item, default, value)


def _checked_scalar(item: dataclasses.Field, default: Any, value: Any) -> Any:
    kind = type(default)
    try:
        if kind is bool and isinstance(value, str):
            value = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]
        elif kind is int and isinstance(value, str):
            value = int(value)
        elif kind is float and not isinstance(value, bool):
            value = float(value)
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise UserError("setting", f"Setting '{item.name}' needs a value of type {kind.__name__}, not {value!r}.")
    low, high = item.metadata["low"], item.metadata["high"]
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"from {low if low is not None else '-inf'} to {high if high is not None else 'inf'}"
        raise UserError("setting", f"Setting '{item.name}' must lie {bounds} {item.metadata['unit']}".rstrip() + ".")
    return value


def assignments(texts: list[str]) -> dict[str, str]:
    """What options of the form key=value say. Raises `UserError` (code `setting`) for another form."""
    pairs = [text.partition("=") for text in texts]
    for (name, equals, _), text in zip(pairs, texts, strict=True):
        if not equals or not name:
            raise UserError("setting", f"'{text}' is not of the form key=value.")
    return {name.strip(): value.strip() for name, _, value in pairs}


@dataclass(frozen=True)
class Preset:
    """A method with one set of settings, under the name that users choose."""

    name: str
    settings: Settings
    source: str
    purpose: str
    method: str = ""
    """Module name below `inrreg.methods`; filled in by `presets`."""
    conditioned: bool = False
    """Whether one training answers for every strength of regularization."""
    prior: bool = False
    """Whether it may start from what `inrreg train-prior` learned."""
    flow: bool = False
    """Whether its field is a flow, which cannot fold: it is not put together with another."""


@cache
def presets() -> dict[str, Preset]:
    """All presets by name, the default first, gathered from the files of `inrreg.methods`."""
    from inrreg import methods

    found = {}
    for module in pkgutil.iter_modules(methods.__path__):
        for preset in importlib.import_module(f"inrreg.methods.{module.name}").PRESETS:
            found[preset.name] = dataclasses.replace(preset, method=module.name)
    return dict(sorted(found.items(), key=lambda item: (item[0] != DEFAULT_PRESET, item[0])))


def preset(name: str) -> Preset:
    """The preset of that name. Raises `UserError` (code `preset`) naming those that exist."""
    try:
        return presets()[name]
    except KeyError:
        hint = f"Choose one of: {', '.join(presets())}."
        raise UserError("preset", f"There is no preset '{name}'.", hint) from None


# -------------------------------------------------------------------------------------------- jobs


@dataclass(frozen=True)
class Job:
    """One registration: what goes in and how it is run. All images are files in LPS world coordinates.

    A mask may also be one of `AUTOMATIC_MASKS`. The guiding points pull the field, and judge nothing. Three more images
    are of the fixed anatomy: `sliding`, a mask whose border may slide, `rigid`, labels of structures that move as
    rigid bodies, each of its own, and `exclude`, a mask of what has no counterpart and is not compared. `overrides` are
    settings that differ from the preset's, `tolerances` those that differ from the verdict's; `label_names` are the
    structures' names by label. `time_budget` is in seconds, 0 for none. `ensemble` is the
    number of seeds, from `seed` on, whose fields' median is the result; with more than one it has an uncertainty.
    """

    FILES: ClassVar[tuple[str, ...]] = (
        "fixed",
        "moving",
        "fixed_mask",
        "moving_mask",
        "fixed_labels",
        "moving_labels",
        "fixed_landmarks",
        "moving_landmarks",
        "guide_fixed",
        "guide_moving",
        "sliding",
        "rigid",
        "exclude",
        "initial_transform",
        "prior",
    )

    fixed: str
    moving: str
    fixed_mask: str = ""
    moving_mask: str = ""
    fixed_labels: str = ""
    moving_labels: str = ""
    fixed_landmarks: str = ""
    moving_landmarks: str = ""
    guide_fixed: str = ""
    guide_moving: str = ""
    sliding: str = ""
    rigid: str = ""
    exclude: str = ""
    initial_transform: str = ""
    prior: str = ""
    prealign: str = "none"
    preset: str = DEFAULT_PRESET
    overrides: dict[str, Any] = field(default_factory=dict)
    tolerances: dict[str, Any] = field(default_factory=dict)
    label_names: dict[str, str] = field(default_factory=dict)
    device: str = "auto"
    threads: int = 0
    seed: int = 0
    time_budget: float = 0.0
    ensemble: int = 1
    id: str = "job"

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value, expected = getattr(self, item.name), type(_default(item))
            if expected is float and type(value) is int:
                # An integer too large for a float is as good as infinite: refused below.
                object.__setattr__(self, item.name, float(value) if abs(value) < 2**1023 else math.inf)
            elif not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
                raise UserError("job", f"Job entry '{item.name}' needs a value of type {expected.__name__}.")
        if not self.fixed or not self.moving:
            raise UserError("job", "A job needs a fixed and a moving image.")
        if self.prealign not in PREALIGNMENTS:
            raise UserError(
                "job", f"There is no prealignment '{self.prealign}'.", f"Choose one of: {', '.join(PREALIGNMENTS)}."
            )
        pairs = (
            ("fixed_labels", "moving_labels"),
            ("fixed_landmarks", "moving_landmarks"),
            ("guide_fixed", "guide_moving"),
        )
        for one, other in pairs:
            if bool(getattr(self, one)) != bool(getattr(self, other)):
                raise UserError("job", f"{one} and {other} are needed together.", "Give both or neither.")
        if self.threads < 0 or self.seed < 0 or not 0 <= self.time_budget < math.inf:
            raise UserError("job", "Threads, seed and time budget cannot be negative.")
        if self.threads > MOST_THREADS or self.seed > MOST_SEED:
            raise UserError("job", f"At most {MOST_THREADS} threads and a seed of {MOST_SEED} are possible.")
        if not 1 <= self.ensemble <= MOST_MEMBERS:
            raise UserError("job", f"An ensemble has from 1 to {MOST_MEMBERS} members, not {self.ensemble}.")
        if self.ensemble > 1 and preset(self.preset).conditioned:
            raise UserError("job", f"The preset '{self.preset}' makes no ensembles.", "Choose another, or one member.")
        if not all(isinstance(name, str) for name in self.label_names.values()):
            raise UserError("job", "Job entry 'label_names' needs a text for each label.")
        self.settings()
        self.tolerances_for(None)

    def tolerances_for(self, spacing: list[float] | None) -> Tolerances:
        """The verdict's tolerances for a voxel spacing in mm, with this job's changes."""
        from inrreg.verdict import Tolerances

        return Tolerances.of(spacing, self.tolerances)

    def files(self) -> dict[str, str]:
        """The files that the job names, by entry: what stands for an automatic mask is none."""
        named = {name: getattr(self, name) for name in self.FILES}
        masks = ("fixed_mask", "moving_mask")
        return {name: path for name, path in named.items() if path and not (name in masks and path in AUTOMATIC_MASKS)}

    def settings(self) -> Settings:
        """The preset's settings with this job's overrides."""
        return preset(self.preset).settings.override(self.overrides)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the version."""
        return {"version": VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, data: Any) -> Job:
        """The job that `to_dict` describes. Raises `UserError` (code `job`) for anything else."""
        if not isinstance(data, dict) or data.get("version") != VERSION:
            raise UserError("job", f"This is not a job file of version {VERSION}.")
        known = {item.name for item in dataclasses.fields(cls)}
        entries = {name: value for name, value in data.items() if name != "version"}
        unknown = sorted(set(entries) - known)
        if unknown:
            raise UserError("job", f"The job file has unknown entries: {', '.join(unknown)}.")
        if not {"fixed", "moving"} <= set(entries):
            raise UserError("job", "A job needs a fixed and a moving image.")
        return cls(**entries)

    def save(self, folder: Path) -> None:
        """Write `job.json` into the folder."""
        write_json(Path(folder) / "job.json", self.to_dict())

    @classmethod
    def load(cls, folder: Path) -> Job:
        """Read a job folder's `job.json`; its files must lie inside that folder and become absolute."""
        folder = Path(folder).resolve()
        job = cls.from_dict(read_json(folder / "job.json"))
        absolute = {}
        for name, entry in job.files().items():
            try:
                path = (folder / entry).resolve()
            except (OSError, RuntimeError, ValueError):  # a null byte, a loop of links
                raise UserError("job", f"Job entry '{name}' is not a usable file name.") from None
            if not path.is_relative_to(folder):
                raise UserError("job", f"Job entry '{name}' points outside the job folder.")
            absolute[name] = str(path)
        return dataclasses.replace(job, **absolute)


def _default(item: dataclasses.Field) -> Any:
    if item.default is not dataclasses.MISSING:
        return item.default
    return item.default_factory() if item.default_factory is not dataclasses.MISSING else ""


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises `UserError` (code `file`) when it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("file", f"The file {path} does not exist.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError("file", f"The file {path} cannot be read as JSON ({error}).") from None


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that the file appears complete or not at all.

    Raises `ValueError` for NaN and infinities, which are not JSON: other programs' readers refuse them.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


# ------------------------------------------------------------------------------ commands and events

COMMANDS = {
    "register": ("folder",),
    "cancel": (),
    "alpha": ("folder", "alpha", "path"),
    "export": ("folder", "result", "output"),
    "load": ("folder", "path"),
    "apply": ("folder", "result", "items"),
    "jacobian": ("folder", "result"),
    "mask": ("folder", "image", "method"),
    "evaluate": ("folder", "result"),
    "series": ("folder", "images"),
    "shutdown": (),
}
"""Commands the worker takes on stdin, and the entries that each needs besides its request id.

`register` names a job folder; with `resample: true` the moving image is also written on the fixed grid, and the
`result` event names that file as `resampled`, and with `preview: true` coarse displacement fields come on the way as
`preview` events, each in the place of the one before. `alpha` names the result folder of a conditioned method, an alpha
and the file that gets the displacement field there; with `spacing`, in mm, on a grid of about that. A newer one takes
the place of one that still waits, which is then `cancelled`. `export`, `load`, `apply`, `jacobian` and `mask` name an
empty job folder to work in, and what `inrreg.transform_tasks` says. `evaluate` names a job folder with what judges the
result folder `result`, at `alpha` if given; with `report`, the report goes to that file. `series` names a job folder
and the images in it that are registered in their order to the job's fixed one, with `landmarks` points of that.
"""

EVENTS = {
    "hello": ("versions", "devices"),
    "progress": ("stage", "step", "steps", "loss", "terms", "seconds", "eta"),
    "heartbeat": ("seconds",),
    "preview": ("path",),
    "warning": ("code", "message"),
    "result": ("folder", "metrics"),
    "done": (),
    "alpha": ("alpha", "path"),
    "cancelled": (),
    "error": ("code", "message", "hint"),
    "log": ("text",),
}
"""Events the worker answers with on stdout, and the entries that each carries.

`devices` is a list of {id, name}, GPUs first; `step` counts over the whole run, not within a stage; `terms` holds the
parts of `loss` by name; `seconds` and `eta` are from the start of the job and to its end; `folder` is the finished
result folder. A task that is no registration ends in `done`, with what its function in `inrreg.tasks` returns.
"""

_NUMBER, _MAYBE = (int, float), (int, float, type(None))
_TYPES: dict[str, Any] = {
    "folder": str,
    "path": str,
    "stage": str,
    "code": str,
    "message": str,
    "hint": str,
    "text": str,
    "resampled": str,
    "result": str,
    "output": str,
    "report": str,
    "image": str,
    "method": str,
    "items": list,
    "seconds": _NUMBER,
    "step": int,
    "steps": int,
    "loss": _MAYBE,
    "eta": _MAYBE,
    "versions": dict,
    "terms": dict,
    "metrics": dict,
    "devices": list,
}
"""What an entry of a message is, by its name. Numbers that JSON cannot hold are sent as None."""


@dataclass(frozen=True)
class Message:
    """A command or an event: one JSON object on one line, with the ids that tell a stale answer."""

    kind: str
    data: dict[str, Any] = field(default_factory=dict)
    request: str = ""
    job: str = ""

    def encode(self) -> str:
        """The message as one line of ASCII JSON without its newline.

        Raises `ValueError` where the data holds NaN or an entry that is the envelope's.
        """
        envelope = {"version": VERSION, "kind": self.kind, "request": self.request, "job": self.job}
        if taken := sorted(set(envelope) & set(self.data)):
            raise ValueError(f"message data cannot hold {', '.join(taken)}")
        # ASCII, since log text and paths may hold line separators and surrogates that UTF-8 cannot carry.
        return json.dumps({**envelope, **self.data}, allow_nan=False)

    @classmethod
    def decode(cls, line: str, kinds: dict[str, tuple[str, ...]]) -> Message:
        """The message in a line, checked against `COMMANDS` or `EVENTS`.

        Raises `ValueError` for anything that is not one of them, complete and of this version.
        """
        try:
            data = json.loads(line, parse_constant=_refuse_constant)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not isinstance(data, dict) or data.pop("version", None) != VERSION:
            raise ValueError(f"not a message of version {VERSION}")
        kind, request, job = (data.pop(name, "") for name in ("kind", "request", "job"))
        if not all(isinstance(text, str) for text in (kind, request, job)) or kind not in kinds:
            raise ValueError(f"unknown kind of message {kind!r}")
        if missing := [name for name in kinds[kind] if name not in data]:
            raise ValueError(f"{kind} lacks {', '.join(missing)}")
        if wrong := [name for name, value in data.items() if name in _TYPES and not isinstance(value, _TYPES[name])]:
            raise ValueError(f"{kind} has another type of {', '.join(wrong)}")
        if not all(_is_device(device) for device in data.get("devices", ())):
            raise ValueError(f"{kind} names no devices")
        return cls(kind, data, request, job)


def _is_device(device: Any) -> bool:
    return isinstance(device, dict) and all(isinstance(device.get(name), str) for name in ("id", "name"))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
