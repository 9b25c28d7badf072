"""Settings, jobs and messages: what is accepted, what is refused, and that writing and reading agree."""

import dataclasses
import json
import math
from dataclasses import dataclass

import pytest

from inrreg import protocol
from inrreg.protocol import COMMANDS, EVENTS, Job, Message, Preset, Settings, UserError, setting


@dataclass(frozen=True)
class Example(Settings):
    steps: int = setting(100, "Adam steps", low=1, high=1000)
    weight: float = setting(0.5, "regularization", unit="mm", low=0.0)
    symmetric: bool = setting(False, "both directions")
    loss: str = setting("ncc", "similarity")
    spacing: tuple = setting((8.0, 4.0), "lattice spacing", unit="mm", low=0.5)


@pytest.fixture(autouse=True)
def one_preset(monkeypatch):
    """Jobs are checked against these settings, whatever methods exist."""
    example = Preset("fast", Example(), "no source", "tests", "example")
    monkeypatch.setattr(protocol, "presets", lambda: {"fast": example})


def refusal(call, *arguments, **entries) -> UserError:
    with pytest.raises(UserError) as caught:
        call(*arguments, **entries)
    return caught.value


# ---------------------------------------------------------------------------------------- settings


def test_defaults_are_plain_json():
    settings = Example()
    assert settings.to_dict() == {
        "similarity": "auto",
        "steps": 100,
        "weight": 0.5,
        "symmetric": False,
        "loss": "ncc",
        "spacing": (8.0, 4.0),
    }
    restored = Example().override(json.loads(json.dumps(settings.to_dict())))
    assert restored == settings


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "7", 7),
        ("weight", "1e-2", 0.01),
        ("weight", "3", 3.0),
        ("symmetric", "True", True),
        ("symmetric", "no", False),
        ("loss", "lncc", "lncc"),
        ("spacing", "8,4, 2", (8.0, 4.0, 2.0)),
        ("spacing", "3", (3.0,)),
    ],
)
def test_text_overrides(name, text, value):
    result = getattr(Example().override({name: text}), name)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 1.5),
        ("steps", "1.5"),
        ("steps", True),
        ("steps", None),
        ("weight", "heavy"),
        ("weight", True),
        ("weight", math.nan),
        ("weight", "inf"),
        pytest.param("weight", 10**400, id="weight-huge"),
        ("symmetric", 1),
        ("symmetric", "maybe"),
        ("loss", 3),
        ("spacing", ()),
        ("spacing", ""),
        ("spacing", 3.0),
        ("spacing", "8,,4"),
        ("spacing", (8.0, "x")),
    ],
)
def test_wrong_types_are_refused(name, value):
    error = refusal(Example().override, {name: value})
    assert error.code == "setting"
    assert name in error.message


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 0), ("steps", 1001), ("weight", -0.1), ("spacing", (8.0, 0.1)), ("spacing", "8,0.1")]
)
def test_values_out_of_range_are_refused(name, value):
    error = refusal(Example().override, {name: value})
    assert error.code == "setting"
    assert name in error.message


def test_bounds_belong_to_the_range():
    assert Example(steps=1).steps == 1
    assert Example(steps=1000).steps == 1000


def test_an_int_is_a_float_setting():
    assert type(Example(weight=2).weight) is float


def test_unknown_settings_are_refused_with_the_known_ones():
    error = refusal(Example().override, {"stepz": 3})
    assert "stepz" in error.message
    assert "steps" in error.hint


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Example().steps = 3


def test_a_user_error_reads_as_one_text():
    error = UserError("file", "It is missing.", "Look again.")
    assert str(error) == "It is missing. Look again."
    assert str(UserError("file", "It is missing.")) == "It is missing."


# ----------------------------------------------------------------------------------------- presets


def test_an_unknown_preset_names_those_that_exist():
    error = refusal(protocol.preset, "slow")
    assert error.code == "preset"
    assert "fast" in error.hint


# -------------------------------------------------------------------------------------------- jobs


def test_job_roundtrip_through_a_folder(tmp_path):
    job = Job(
        fixed="fixed.nrrd", moving="in/moving.nrrd", overrides={"steps": 3}, seed=5, time_budget=2, ensemble=3, id="ü"
    )
    job.save(tmp_path)
    loaded = Job.load(tmp_path)
    assert loaded.fixed == str((tmp_path / "fixed.nrrd").resolve())
    assert loaded.moving == str((tmp_path / "in" / "moving.nrrd").resolve())
    assert dataclasses.replace(loaded, fixed=job.fixed, moving=job.moving) == job
    assert loaded.settings().steps == 3
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("name", Job.FILES)
@pytest.mark.parametrize("escape", ["../secret.nrrd", "/etc/passwd", "in/../../secret.nrrd"])
def test_job_files_outside_the_folder_are_refused(tmp_path, name, escape):
    # Labels and landmarks come in pairs, so all files are named and one of them escapes.
    entries = {entry: f"{entry}.nrrd" for entry in Job.FILES} | {name: escape}
    Job(**entries).save(tmp_path)
    error = refusal(Job.load, tmp_path)
    assert error.code == "job"
    assert name in error.message


def test_job_files_behind_a_link_out_of_the_folder_are_refused(tmp_path):
    inside = tmp_path / "job"
    inside.mkdir()
    (tmp_path / "secret.nrrd").write_text("")
    (inside / "fixed.nrrd").symlink_to(tmp_path / "secret.nrrd")
    Job(fixed="fixed.nrrd", moving="moving.nrrd").save(inside)
    assert refusal(Job.load, inside).code == "job"


@pytest.mark.parametrize(
    "entries",
    [
        {"fixed": ""},
        {"moving": ""},
        {"fixed": 3},
        {"fixed": None},
        {"threads": 1.0},
        {"threads": True},
        {"threads": -1},
        {"seed": -1},
        {"seed": "1"},
        {"time_budget": -1.0},
        {"time_budget": math.nan},
        {"time_budget": math.inf},
        {"time_budget": True},
        {"time_budget": 10**400},
        {"ensemble": 0},
        {"ensemble": 26},
        {"ensemble": 3.0},
        {"prealign": "elastic"},
        {"overrides": [1]},
        {"overrides": {"steps": 0}},
        {"overrides": {"nonsense": 1}},
        {"preset": "slow"},
        {"fixed_labels": "only.nrrd"},
        {"moving_landmarks": "only.csv"},
    ],
)
def test_bad_job_entries_are_refused(entries):
    refusal(Job, **{"fixed": "fixed.nrrd", "moving": "moving.nrrd"} | entries)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "job",
        {},
        {"fixed": "a", "moving": "b"},
        {"version": protocol.VERSION + 1, "fixed": "a", "moving": "b"},
        {"version": protocol.VERSION, "fixed": "a"},
        {"version": protocol.VERSION, "fixed": "a", "moving": "b", "FILES": []},
        {"version": protocol.VERSION, "fixed": "a", "moving": "b", "color": "red"},
    ],
)
def test_anything_else_is_not_a_job(data):
    assert refusal(Job.from_dict, data).code == "job"


def test_a_job_file_name_with_a_null_byte_is_refused(tmp_path):
    Job(fixed="a\0b", moving="moving.nrrd").save(tmp_path)
    assert refusal(Job.load, tmp_path).code == "job"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"version": ', b"[" * 100_000])
def test_a_damaged_job_file_is_refused(tmp_path, content):
    (tmp_path / "job.json").write_bytes(content)
    assert refusal(Job.load, tmp_path).code == "file"


def test_a_missing_job_file_is_refused(tmp_path):
    assert refusal(Job.load, tmp_path).code == "file"


def test_a_job_file_with_a_nan_is_refused(tmp_path):
    text = json.dumps({**Job(fixed="a", moving="b").to_dict(), "time_budget": math.nan})
    (tmp_path / "job.json").write_text(text)
    refusal(Job.load, tmp_path)


def test_json_files_hold_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        protocol.write_json(tmp_path / "metrics.json", {"mean": math.nan})
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------- messages


def test_message_roundtrip():
    message = Message("warning", {"code": "overlap", "message": "Überlappung\nklein"}, request="r1", job="j1")
    line = message.encode()
    assert "\n" not in line
    assert Message.decode(line, EVENTS) == message


TEXTS = ("folder", "path", "stage", "code", "message", "hint", "text", "result", "output", "image", "method")
VALUES = dict.fromkeys(TEXTS, "") | {key: {} for key in ("versions", "terms", "metrics")} | {"devices": [], "items": []}


def test_every_kind_needs_its_entries():
    for kinds in (COMMANDS, EVENTS):
        for kind, names in kinds.items():
            values = {name: VALUES.get(name, 0) for name in names}
            whole = Message(kind, values)
            assert Message.decode(whole.encode(), kinds) == whole
            for name in names:
                with pytest.raises(ValueError, match=name):
                    Message.decode(Message(kind, {key: values[key] for key in set(names) - {name}}).encode(), kinds)


@pytest.mark.parametrize(
    ("kind", "entries"),
    [
        ("heartbeat", {"seconds": "1"}),
        ("result", {"folder": 3, "metrics": {}}),
        ("result", {"folder": "x", "metrics": []}),
        ("hello", {"versions": {}, "devices": 3}),
        ("hello", {"versions": {}, "devices": [3]}),
        ("hello", {"versions": {}, "devices": [{"id": 1, "name": "GPU"}]}),
        ("error", {"code": "x", "message": None, "hint": ""}),
    ],
)
def test_entries_of_another_type_are_refused(kind, entries):
    with pytest.raises(ValueError, match=r"type|devices"):
        Message.decode(Message(kind, entries).encode(), EVENTS)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "free text from a library",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        '{"version": 1}',
        '{"version": 99, "kind": "cancelled"}',
        '{"version": 1, "kind": "register", "folder": "x"}',
        '{"version": 1, "kind": ["cancelled"]}',
        '{"version": 1, "kind": "cancelled", "request": 3}',
        '{"version": 1, "kind": "heartbeat", "seconds": NaN}',
        "[" * 100_000,
    ],
)
def test_garbage_is_not_an_event(line):
    with pytest.raises(ValueError):  # noqa: PT011 - the reader tells messages from text by this type alone
        Message.decode(line, EVENTS)


def test_a_message_cannot_carry_nan():
    with pytest.raises(ValueError, match="JSON"):
        Message("heartbeat", {"seconds": math.nan}).encode()


@pytest.mark.parametrize("name", ["version", "kind", "request", "job"])
def test_data_cannot_replace_the_envelope(name):
    with pytest.raises(ValueError, match=name):
        Message("cancelled", {name: "other"}).encode()


def test_tuples_need_one_entry_for_each_stage():
    @dataclass(frozen=True)
    class Staged(Settings):
        steps: tuple = setting((10, 20), "steps of each stage", low=1)
        spacing: tuple = setting((8.0, 4.0), "spacing of each stage", unit="mm")

    assert Staged().override({"steps": "1,2,3", "spacing": "8,4,2"}).steps == (1, 2, 3)
    error = refusal(Staged().override, {"steps": "1,2,3"})
    assert error.code == "setting"
    assert "steps has 3, spacing has 2" in error.message
