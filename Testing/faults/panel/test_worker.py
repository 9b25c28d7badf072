"""The worker dies, hangs, floods or talks nonsense."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from Testing.faults.panel.conftest import Left, children
from Testing.module.conftest import snapshot

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
ENDED = "ended unexpectedly"


def kill(user) -> None:
    os.kill(user.process.process_id, signal.SIGKILL)


def begin(user) -> None:
    """A registration under way."""
    user.click()
    user.wait(lambda: user.ui.progressBar.value > 0)


def test_killed_at_its_start(user, pair, left, fake_engine):
    known = list(fake_engine)
    fake_engine[:] = [sys.executable, "-c", "import time; time.sleep(100)"]
    user.choose(*pair)
    left.remember()
    user.click()
    user.wait(lambda: user.panel.run.state == "running")
    kill(user)
    user.wait_for_end()
    assert ENDED in user.error
    assert "Register again" in user.error
    left.check_nothing_happened()
    assert children() == left.processes
    fake_engine[:] = known
    user.register()


def test_killed_in_mid_step(user, pair, left):
    user.choose(*pair, steps=10_000)
    left.remember()
    begin(user)
    kill(user)
    user.wait_for_end()
    assert ENDED in user.error
    left.check_nothing_happened()
    assert children() == left.processes
    user.set_setting("steps", 3)
    user.register()


def test_the_real_engine_killed_in_mid_step(real_user, slicer, pair):
    user = real_user
    user.choose(*pair, "idir-light", steps=5000, points=500, width=16)
    left = Left(slicer)
    user.click()
    user.wait(lambda: user.ui.progressBar.value > 0, timeout=120)
    kill(user)
    user.wait_for_end()
    assert ENDED in user.error
    left.check_nothing_happened()
    assert children() == left.processes
    user.set_setting("steps", 3)
    user.register(timeout=120)


def test_killed_while_it_writes_the_result(user, pair, left, faulty):
    faulty("stuck")
    user.choose(*pair)
    left.remember()
    user.click()
    user.wait(lambda: "half written" in user.ui.logText.plainText)
    assert left.jobs() == ["job-1"]
    kill(user)
    user.wait_for_end()
    assert ENDED in user.error
    left.check_nothing_happened()


def test_killed_while_the_result_is_loaded(user, pair, slicer, monkeypatch):
    """All that was to come from it is there: nothing is lost."""
    from INRRegistrationLib.run import Run

    read = Run._read
    monkeypatch.setattr(Run, "_read", lambda *given: (time.sleep(0.3), read(*given))[1])
    user.choose(*pair)
    user.click()
    user.wait(lambda: user.panel.run.state == "loading")
    kill(user)
    user.wait_for_end()
    assert not user.error
    assert pair[1].GetParentTransformNode() is not None
    user.register()


def test_a_flood_of_events(user, pair, left, faulty):
    """The panel answers all the while: the result comes, and Cancel works in the midst of it."""
    faulty("flood")
    user.choose(*pair)
    user.check_no_long_stop(lambda: user.register(120))
    assert user.ui.logText.plainText.count("\n") < 2000
    left.remember()
    jobs = left.jobs()
    user.click()
    user.wait(lambda: "flood" in user.ui.statusLabel.text.lower())
    user.click()
    user.wait_for_end()
    assert "Cancelled" in user.ui.statusLabel.text
    assert snapshot(user.slicer) == left.scene
    left.check_jobs(*jobs)


def test_garbage_between_the_events(user, pair, faulty):
    faulty("garbage")
    user.choose(*pair)
    user.click()
    lines = []
    user.panel.run.log.connect(lines.append)
    user.wait_for_end(60)
    assert not user.error
    assert pair[1].GetParentTransformNode() is not None
    assert {"before", "after"} <= set(lines)
    assert max(map(len, lines)) <= 1000


def test_stopped_for_longer_than_it_may_be_silent(user, pair, left, monkeypatch):
    """A computer that sleeps, or a debugger: it is told, and goes on to its end."""
    from INRRegistrationLib import process

    monkeypatch.setattr(process, "SILENCE", 1500)
    user.choose(*pair, steps=100)
    begin(user)
    os.kill(user.process.process_id, signal.SIGSTOP)
    user.wait(lambda: "has not answered" in user.ui.statusLabel.text)
    assert user.ui.applyButton.text == "Cancel"
    os.kill(user.process.process_id, signal.SIGCONT)
    user.wait(lambda: "Coarse: step" in user.ui.statusLabel.text)
    user.wait_for_end()
    assert not user.error
    assert pair[1].GetParentTransformNode() is not None


def test_stopped_for_longer_than_a_step_may_last(user, pair, left, fake_engine):
    """It may take itself for seized when it goes on: then it ends in a sentence, else in a result."""
    fake_engine.append("--seized=1.5")
    user.choose(*pair, steps=200)
    left.remember()
    begin(user)
    os.kill(user.process.process_id, signal.SIGSTOP)
    time.sleep(2)
    os.kill(user.process.process_id, signal.SIGCONT)
    user.wait_for_end()
    if user.error:
        assert ENDED in user.error
        left.check_nothing_happened()
    else:
        assert pair[1].GetParentTransformNode() is not None
    print(f"\nstopped for 2 s of 1.5 s: {user.error or 'a result'}")


def test_cancel_ends_a_stopped_worker(user, pair, left):
    user.choose(*pair, steps=10_000)
    left.remember()
    begin(user)
    stopped = user.process.process_id
    os.kill(stopped, signal.SIGSTOP)
    user.click()
    user.wait_for_end()
    assert "Cancelled" in user.ui.statusLabel.text
    left.check_nothing_happened()
    user.wait(lambda: not Path(f"/proc/{stopped}").exists(), timeout=3)
    user.set_setting("steps", 3)
    user.register()


def test_the_clock_moves(user, pair, faulty, monkeypatch):
    """Simulated: the wall clock of panel and worker jumps by 30 years, ahead and back."""
    import itertools

    faulty("clock")
    real, jumps = time.time, itertools.cycle((1e9, -1e9, 0.0))
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    user.choose(*pair, steps=20)
    user.register()
    assert "Done in" in user.ui.statusLabel.text
    assert "min" not in user.ui.statusLabel.text
    user.register()


def test_cancel_pressed_a_hundred_times(user, pair, left):
    """As fast as a button can be pressed: it begins and cancels in turn, and ends in a clear state."""
    user.choose(*pair, steps=10_000)
    left.remember()
    for press in range(100):
        user.ui.applyButton.click()
        if press % 3 == 0:
            user.slicer.app.processEvents()
    user.wait(lambda: user.panel.run is None or user.ui.applyButton.enabled)
    if user.panel.run is not None:
        user.wait(lambda: user.ui.progressBar.value > 0)
        for _ in range(100):
            user.ui.applyButton.click()
            if user.panel.run is not None:
                user.panel.run.cancel()
            else:
                break
    user.wait_for_end()
    assert not user.error
    assert "Cancelled" in user.ui.statusLabel.text
    left.check_nothing_happened()
    user.set_setting("steps", 3)
    user.register()
