"""The worker over pipes, without Qt: protocol, cancellation, heartbeat, errors and its end."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("SimpleITK")
import numpy as np
import SimpleITK

from inrreg import methods, protocol, relay, tasks, worker
from inrreg.protocol import EVENTS, Job, Message

FAKES = Path(__file__).resolve().parents[1] / "fakes"


class Client:
    """A worker process with its events in a queue."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, str(FAKES / "fake_worker.py"), *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self.events: queue.Queue[Message] = queue.Queue()
        self.stderr: list[bytes] = []
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=lambda: self.stderr.extend(self.process.stderr), daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.events.put(Message.decode(line.decode("utf-8"), EVENTS))

    def send(self, kind: str, request: str = "", **data) -> None:
        self.process.stdin.write(Message(kind, data, request, "job").encode().encode() + b"\n")

    def wait(self, *kinds: str, timeout: float = 10) -> tuple[Message, list[Message]]:
        """The next event of one of these kinds, and those before it."""
        passed = []
        end = time.monotonic() + timeout
        while True:
            event = self.events.get(timeout=max(0.01, end - time.monotonic()))
            if event.kind in kinds:
                return event, passed
            passed.append(event)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=5)


@pytest.fixture
def client():
    client = Client()
    yield client
    client.close()


@pytest.fixture(autouse=True)
def fake_method(monkeypatch):
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(FAKES / "methods")])
    protocol.presets.cache_clear()
    yield
    protocol.presets.cache_clear()


def make_job(folder: Path, **overrides) -> Path:
    folder.mkdir(parents=True)
    for index, name in enumerate(("fixed", "moving")):
        z, y, x = np.mgrid[:12, :16, :20]
        image = SimpleITK.GetImageFromArray((100 * np.sin(x / 3 + index) + y + z).astype(np.int16))
        image.SetSpacing((1.5, 1.0, 2.0))
        SimpleITK.WriteImage(image, str(folder / f"{name}.nrrd"))
    Job("fixed.nrrd", "moving.nrrd", preset="fake", overrides=overrides, threads=1, id="job").save(folder)
    return folder


def test_hello_names_versions_and_devices(client):
    hello, _ = client.wait("hello")
    assert {"python", "numpy"} <= set(hello.data["versions"])
    assert hello.data["devices"][-1]["id"] == "cpu"


def test_a_job_gives_progress_and_a_result_that_reads_back(client, tmp_path):
    client.wait("hello")
    folder = make_job(tmp_path / "jöb ü")
    client.send("register", "r1", folder=str(folder), resample=True)
    result, before = client.wait("result", "error")
    assert result.kind == "result", result.data
    assert {event.request for event in [*before, result]} == {"r1"}
    steps = [event.data["step"] for event in before if event.kind == "progress"]
    assert steps == list(range(1, 21))
    assert [event.data["code"] for event in before if event.kind == "warning"] == ["overlap"]
    assert result.data["metrics"] == {"loss": 0.5, "jacobian_min": None, "steps": [0, 1]}
    assert Path(result.data["folder"]) == folder.resolve() / "result"
    moving = SimpleITK.ReadImage(str(folder / "moving.nrrd"))
    field = SimpleITK.ReadImage(str(folder / "result" / "displacement.nrrd"), SimpleITK.sitkVectorFloat64)
    expected = SimpleITK.Resample(
        moving,
        SimpleITK.ReadImage(str(folder / "fixed.nrrd")),
        SimpleITK.DisplacementFieldTransform(field),
        SimpleITK.sitkLinear,
        0.0,
    )
    warped = SimpleITK.ReadImage(result.data["resampled"])
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(warped), SimpleITK.GetArrayFromImage(expected))


def test_jobs_follow_one_another_in_one_process(client, tmp_path):
    for number in range(2):
        client.send("register", f"r{number}", folder=str(make_job(tmp_path / str(number))))
        assert client.wait("result")[0].request == f"r{number}"


def test_a_second_job_while_busy_is_refused_and_the_first_goes_on(client, tmp_path):
    client.send("register", "r1", folder=str(make_job(tmp_path / "1", steps=60)))
    client.wait("progress")
    client.send("register", "r2", folder=str(make_job(tmp_path / "2")))
    error, _ = client.wait("error")
    assert (error.request, error.data["code"]) == ("r2", "busy")
    assert client.wait("result")[0].request == "r1"


def test_cancel_is_answered_between_steps_and_leaves_no_result(client, tmp_path):
    folder = make_job(tmp_path / "1", steps=10000)
    client.send("register", "r1", folder=str(folder))
    client.wait("progress")
    client.send("cancel", "stale")
    start = time.monotonic()
    client.send("cancel", "r1")
    cancelled, _ = client.wait("cancelled")
    assert cancelled.request == "r1"
    assert time.monotonic() - start < 1
    assert not (folder / "result").exists()
    client.send("register", "r2", folder=str(make_job(tmp_path / "2")))
    assert client.wait("result")[0].request == "r2"


def test_the_heart_beats_in_a_hung_step_and_end_of_stdin_ends_it(client, tmp_path):
    client.send("register", "r1", folder=str(make_job(tmp_path / "1", behaviour="hang")))
    assert client.wait("heartbeat")[0].request == "r1"
    start = time.monotonic()
    client.process.stdin.close()
    client.process.wait(timeout=2)
    assert time.monotonic() - start < 1


def test_a_step_that_seizes_the_interpreter_is_ended_and_says_where(tmp_path):
    client = Client("--seized=1.5")
    client.send("register", "r1", folder=str(make_job(tmp_path / "1", behaviour="seized")))
    client.wait("hello")
    assert client.process.wait(timeout=20) != 0
    assert b"in behave" in b"".join(client.stderr)


def test_a_long_job_whose_heart_beats_is_not_ended(tmp_path):
    client = Client("--seized=1.5")
    client.send("register", "r1", folder=str(make_job(tmp_path / "1", steps=40, pause=0.1)))
    assert client.wait("result", "error", timeout=20)[0].kind == "result"
    client.close()


@pytest.mark.parametrize(
    ("wanted", "loaded"), [((False, False), ["engine", "optimizer"]), ((False, True), ["engine"]), ((True,), [])]
)
def test_what_a_first_job_needs_is_loaded_until_one_comes(wanted, loaded, monkeypatch):
    asked, done = iter(wanted), []
    monkeypatch.setattr(worker, "_engine", lambda: done.append("engine"))
    monkeypatch.setattr(worker, "_optimizer", lambda: done.append("optimizer"))
    worker.warm_up(lambda: next(asked))
    assert done == loaded


def test_loading_ahead_that_fails_is_left_to_the_job(monkeypatch):
    def broken():
        raise OSError("a library is missing")

    monkeypatch.setattr(worker, "_engine", broken)
    worker.warm_up(lambda: False)


def test_shutdown_ends_it(client):
    client.wait("hello")
    client.send("shutdown")
    assert client.process.wait(timeout=2) == 0


@pytest.mark.parametrize(
    ("behaviour", "code", "word"),
    [
        ("user-error", "overlap", "hardly overlap"),
        ("memory", "memory", "too little free memory"),
        ("gpu-memory", "gpu-memory", "graphics card"),
        ("internal", "internal", "ZeroDivisionError"),
        ("incomplete", "result", "model.json"),
    ],
)
def test_every_failure_becomes_an_error_in_words(client, tmp_path, behaviour, code, word):
    client.send("register", "r1", folder=str(make_job(tmp_path / "1", behaviour=behaviour)))
    error, _ = client.wait("error")
    assert error.request == "r1"
    assert error.data["code"] == code
    assert word in error.data["message"]
    assert error.data["hint"]
    if behaviour == "internal":
        time.sleep(0.1)
        assert b"Traceback" in b"".join(client.stderr)


def test_what_libraries_print_lands_on_stderr(client, tmp_path):
    client.send("register", "r1", folder=str(make_job(tmp_path / "1", behaviour="prints")))
    client.wait("result")
    time.sleep(0.1)
    text = b"".join(client.stderr)
    assert b"printed by a library" in text
    assert b"file descriptor 1" in text


@pytest.mark.parametrize(
    "line", [b"nonsense\n", b"\xff\xfe\n", b'{"version": 1, "kind": "dance"}\n', b"3\n", b"\n{}\n"]
)
def test_a_damaged_command_is_an_error_not_the_end(client, tmp_path, line):
    client.wait("hello")
    client.process.stdin.write(line)
    assert client.wait("error")[0].data["code"] == "command"
    client.send("register", "r1", folder=str(make_job(tmp_path / "1", steps=1)))
    client.wait("result")


def test_a_job_folder_that_does_not_exist(client, tmp_path):
    client.send("register", "r1", folder=str(tmp_path / "nowhere"))
    assert client.wait("error")[0].data["code"] == "file"


def test_without_torch_it_says_hello_and_then_what_to_do(tmp_path):
    client = Client("--no-torch")
    assert client.wait("hello")[0].data["devices"] == []
    error, _ = client.wait("error")
    assert error.data["code"] == "torch"
    assert "PyTorch" in error.data["hint"]
    client.close()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_it_ends_with_its_parent_even_when_that_is_killed(tmp_path):
    script = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, {str(FAKES / 'fake_worker.py')!r}], stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    time.sleep(0.5)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 2
    while time.monotonic() < end and alive(child):
        time.sleep(0.05)
    assert not alive(child)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody reaps counts as ended."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(os.name == "nt", reason="hosts are reached over a POSIX shell")
@pytest.mark.parametrize(("said", "least"), [(b"a line\na line\nand half a", 0.5), (b"", 0.1)])
def test_a_lasting_worker_hears_a_line_once_and_ends_a_while_after_its_last_connection(tmp_path, said, least):
    os.mkfifo(tmp_path / relay.COMMANDS)
    code = "from inrreg import relay; print(list(relay.commands(0.5, 0.1)))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE)
    (tmp_path / relay.COMMANDS).write_bytes(said)
    start = time.monotonic()
    heard = process.communicate(timeout=10)[0]
    assert process.returncode == 0
    assert time.monotonic() - start >= least
    assert heard.decode().strip() == ("[b'a line\\n']" if said else "[]")


def test_libraries_find_an_empty_standard_input():
    """While the command thread reads the real one: on Windows a look at a pipe that is being read does not return."""
    code = (
        "import os; from inrreg.worker import guarded_stdin; private = guarded_stdin();"
        "print(os.read(0, 10), private.readline())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=b"a command\n", capture_output=True, timeout=60, check=True
    )
    assert done.stdout.split(b"\n")[0].strip() == rb"b'' b'a command\n'"


@pytest.fixture
def job_with_everything(tmp_path):
    """A real, short job with masks and an initial transform, in a folder with a long name beyond ASCII."""
    pytest.importorskip("torch")
    folder = tmp_path / ("Jürgen Ö 登録 " + "x" * 150) / "job-1"
    make_job(folder)
    for name in ("fixed", "moving"):
        image = SimpleITK.ReadImage(str(folder / f"{name}.nrrd"))
        image.SetSpacing((6, 6, 8))
        SimpleITK.WriteImage(image, str(folder / f"{name}.nrrd"))
    mask = image * 0 + 1
    for name in ("fixed_mask", "moving_mask"):
        SimpleITK.WriteImage(mask, str(folder / f"{name}.nrrd"))
    SimpleITK.WriteTransform(SimpleITK.TranslationTransform(3, (0.5, 0.0, 0.0)), str(folder / "initial_transform.tfm"))
    files = {name: f"{name}.nrrd" for name in ("fixed", "moving", "fixed_mask", "moving_mask")}
    overrides = {"steps": [2, 2, 1], "width": 16}
    job = Job(**files, initial_transform="initial_transform.tfm", overrides=overrides, threads=1, id="job")
    job.save(folder)
    return folder


def test_simpleitk_hears_relative_names_in_ascii_only(job_with_everything, monkeypatch):
    """On Windows its readers fail on others, and nothing on this computer would show it."""
    heard = []

    def listen(owner, name, position):
        known = getattr(owner, name)

        def told(*arguments, **options):
            heard.append(str(arguments[position]))
            return known(*arguments, **options)

        monkeypatch.setattr(owner, name, told)

    for name, position in (("ReadImage", 0), ("WriteImage", 1), ("ReadTransform", 0), ("WriteTransform", 1)):
        listen(SimpleITK, name, position)
    listen(SimpleITK.ImageFileReader, "SetFileName", 1)
    before = Path.cwd()
    data = tasks.register(job_with_everything, {"resample": True}, lambda *_: None, lambda: False)
    assert len(heard) >= 10
    assert [name for name in heard if not name.isascii() or os.path.isabs(name)] == []
    assert Path.cwd() == before
    for name in tasks.RESULT_FILES:
        assert (Path(data["folder"]) / name).is_file()
    assert Path(data["resampled"]).is_file()
    recorded = protocol.read_json(Path(data["folder"]) / "job.json")
    assert recorded["fixed"] == str(job_with_everything.resolve() / "fixed.nrrd")


def test_resampling_can_be_cancelled_and_keeps_to_its_threads(tmp_path, monkeypatch):
    folder = make_job(tmp_path / "1")
    job = Job(str(folder / "fixed.nrrd"), str(folder / "moving.nrrd"), preset="fake", threads=1)
    field = SimpleITK.Image([4, 4, 4], SimpleITK.sitkVectorFloat32)
    field.SetSpacing((10, 10, 10))
    SimpleITK.WriteImage(field, str(folder / "displacement.nrrd"))
    threads = []
    known = SimpleITK.ResampleImageFilter.SetNumberOfThreads
    monkeypatch.setattr(
        SimpleITK.ResampleImageFilter,
        "SetNumberOfThreads",
        lambda self, count: (threads.append(count), known(self, count))[1],
    )
    path = tasks.resample(job, folder, folder / "cancelled.nrrd", lambda: True)
    assert not path.exists()
    assert not list(folder.glob("partial-*"))
    assert tasks.resample(job, folder, folder / "done.nrrd").is_file()
    assert threads == [1, 1]
