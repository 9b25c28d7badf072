"""The worker process's handle: split lines, noise, stale ids, ends. The other side is a few lines of Python."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from inrreg.protocol import Message

HELLO = Message("hello", {"versions": {}, "devices": [{"id": "cpu", "name": "CPU"}]}).encode()
PREAMBLE = f"""
import json, os, sys, time
def say(kind, request, **data):
    entries = {{"version": 1, "kind": kind, "request": request, "job": "", **data}}
    return (json.dumps(entries, ensure_ascii=False) + "\\n").encode()
def put(data):
    os.write(1, data)
put({HELLO.encode()!r} + b"\\n")
command = json.loads(sys.stdin.readline())
me = command["request"]
"""


@pytest.fixture
def worker(slicer, monkeypatch):
    """A handle on a process that runs some code once it has its command; the events it passes on."""
    from INRRegistrationLib import places, process

    handles = []

    def start(code):
        monkeypatch.setattr(places.Here, "command", lambda self: [sys.executable, "-c", PREAMBLE + code])
        handle = process.WorkerProcess()
        handles.append(handle)
        handle.seen, handle.lines, handle.errors = [], [], []
        handle.event.connect(handle.seen.append)
        handle.output.connect(handle.lines.append)
        handle.ended.connect(handle.errors.append)
        handle.submit("register", "folder")
        return handle

    yield start
    for handle in handles:
        handle.stop()
        handle.wait_for_end()


def wait(slicer, condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        slicer.app.processEvents()
        time.sleep(0.002)


def test_lines_arrive_whole_however_they_are_cut(slicer, worker):
    handle = worker("""
data = say("log", me, text="Grüße aus Zürich")
cut = data.index("ü".encode()) + 1
put(data[:cut])
time.sleep(0.1)
put(data[cut:] + say("cancelled", me)[:5])
time.sleep(0.1)
put(say("cancelled", me)[5:])
sys.stdin.read()
""")
    wait(slicer, lambda: len(handle.seen) == 2)
    assert [message.kind for message in handle.seen] == ["log", "cancelled"]
    assert handle.seen[0].data["text"] == "Grüße aus Zürich"


def test_stale_answers_are_dropped_and_noise_is_logged(slicer, worker):
    handle = worker("""
put(say("result", "another", folder="x", metrics={}) + b"some library prints\\n")
put(say("cancelled", me))
put(say("log", me, text="after the end"))
sys.stdin.read()
""")
    wait(slicer, lambda: handle.seen)
    time.sleep(0.1)
    slicer.app.processEvents()
    assert [message.kind for message in handle.seen] == ["cancelled"]
    assert handle.lines == ["some library prints"]


def test_what_a_dying_process_says_is_heard(slicer, worker):
    handle = worker("""
os.write(2, b"first\\nlast words without newline")
put(say("log", me, text="one more"))
os._exit(3)
""")
    wait(slicer, lambda: handle.errors)
    assert [message.data["text"] for message in handle.seen] == ["one more"]
    assert "last words without newline" in handle.errors[0].message
    assert not handle.running


def test_it_can_be_stopped_and_used_again(slicer, worker):
    handle = worker("sys.stdin.read()")
    wait(slicer, lambda: handle.devices)
    first = handle.process_id
    handle.stop()
    assert not handle.running
    assert handle.process_id == 0
    handle.submit("register", "folder")
    wait(slicer, lambda: handle.process_id not in (0, first))
    assert not handle.errors


@pytest.mark.parametrize("end", ["event loop", "exit"])
def test_what_ignores_closed_stdin_is_killed(slicer, worker, end):
    handle = worker("""
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
put(say("log", me, text="deaf"))
time.sleep(100)
""")
    wait(slicer, lambda: handle.seen)
    identifier = handle.process_id
    handle.stop()
    if end == "exit":
        handle.wait_for_end()
        assert not Path(f"/proc/{identifier}").exists()
    else:
        assert Path(f"/proc/{identifier}").exists()  # it was not waited for
        wait(slicer, lambda: not Path(f"/proc/{identifier}").exists())
