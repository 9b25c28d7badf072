"""The panel in the stand-in for Slicer, driven as a user would; any uncaught exception fails its test."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import sys
import time
import traceback
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAKES = ROOT / "Testing" / "fakes"
MODULE = ROOT / "INRRegistration" / "INRRegistration.py"
THREADS = Path("/proc/self/task")
SCREENSHOTS = ROOT / "screenshots"
DATA = Path(os.environ.get("INRREG_DATA", ROOT.parent / "shared" / "data"))
sys.path[:0] = [str(ROOT / "Testing" / "host"), str(ROOT / "INRRegistration")]
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

# Not importorskip: what is there but cannot be imported is an error, not a reason to skip all of this.
for name, package in (("PySide6", "PySide6-Essentials"), ("slicer", "slicer-core")):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"the stand-in for Slicer needs {package}", allow_module_level=True)

from standin import application  # noqa: E402
from standin.window import Window  # noqa: E402

from inrreg import methods, protocol  # noqa: E402


@pytest.fixture(autouse=True)
def uncaught(monkeypatch):
    """Exceptions in slots, timers and observers reach only `sys.excepthook`."""
    found = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: found.append("".join(traceback.format_exception(*error))))
    monkeypatch.setattr(sys, "unraisablehook", lambda entry: found.append(repr(entry.exc_value)))
    yield found
    assert not found, "\n".join(found)


@pytest.fixture
def slicer(tmp_path):
    return application.start(tmp_path / "Slicer tëmp")


@pytest.fixture
def fake_engine(monkeypatch):
    """The fake method among the presets, and the worker over the fake engine; its arguments can be changed."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(FAKES / "methods")])
    protocol.presets.cache_clear()
    arguments = [sys.executable, str(FAKES / "fake_worker.py")]
    application.start_qt()
    from INRRegistrationLib import places

    monkeypatch.setattr(places.Here, "command", lambda self: arguments)
    yield arguments
    protocol.presets.cache_clear()


@pytest.fixture
def own_modules():
    """Reloading for developers forgets our packages; the other tests go on with those they know."""
    packages = ("INRRegistrationLib", "inrreg")

    def loaded():
        return {name: module for name, module in sys.modules.items() if name.split(".")[0] in packages}

    before = loaded()
    yield
    for name in loaded():
        del sys.modules[name]
    sys.modules.update(before)


class User:
    """Someone in front of the panel."""

    def __init__(self, slicer):
        self.slicer = slicer
        self.widget = application.load_module(MODULE)
        self.window = Window(slicer, slicer.modules.inrregistration.widgetRepresentation())
        self.window.show()
        self.gaps = Gaps()

    @property
    def panel(self):
        return self.slicer.modules.INRRegistrationWidget.panel

    @property
    def ui(self):
        return self.panel.ui

    @property
    def process(self):
        return self.panel.registrations.process

    def choose(self, fixed, moving, preset="fake", **settings):
        self.ui.fixedSelector.setCurrentNode(fixed)
        self.ui.movingSelector.setCurrentNode(moving)
        self.ui.presetSelector.setCurrentIndex(self.ui.presetSelector.findData(preset))
        # Another preset's form is only gone after the event loop's next turn.
        self.slicer.app.processEvents()
        for name, value in settings.items():
            self.set_setting(name, value)

    def set_setting(self, name, value):
        editor = self.window.findChild(self.slicer.qMRMLWidget.__mro__[1], f"setting_{name}")
        if isinstance(value, bool):
            editor.setChecked(value)
        else:
            editor.setText(str(value))
            editor.editingFinished.emit()

    def click(self):
        assert self.ui.applyButton.enabled, self.ui.statusLabel.text
        self.ui.applyButton.click()

    def wait(self, condition, timeout=20.0):
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"waited {timeout} s; status: {self.ui.statusLabel.text}"
            self.slicer.app.processEvents()
            time.sleep(0.001)

    def wait_for_end(self, timeout=20.0):
        self.wait(lambda: self.panel.run is None, timeout)

    def register(self, timeout=20.0):
        self.click()
        self.wait_for_end(timeout)
        assert not self.error, self.error
        return self.ui.transformSelector.currentNode()

    def check_no_long_stop(self, action, prepare=lambda: None):
        """Do something during which the event loop stops for 50 ms at most; the stops in milliseconds.

        Once more where it does not: this computer may be a busy one, and a thread is charged for what the system does
        in its name, such as to find it memory.
        """
        for _ in range(2):
            prepare()
            self.gaps.start()
            action()
            worst = self.gaps.stop()
            if max(worst, self.gaps.wall) < 50:
                break
        assert max(worst, self.gaps.wall) < 50
        return worst, self.gaps.wall

    @property
    def error(self):
        """What the red box says; nothing for a warning's amber one."""
        shown = self.ui.errorLabel.visible and "with care" not in self.ui.errorLabel.text
        return self.ui.errorLabel.text if shown else ""

    def screenshot(self, name):
        SCREENSHOTS.mkdir(exist_ok=True)
        self.window.save(SCREENSHOTS / f"{name}.png")

    def leave(self):
        """Exit from Slicer."""
        self.slicer.app.aboutToQuit.emit()
        self.window.takeCentralWidget()
        application.unload_module("INRRegistration")
        self.window.close()


class Gaps:
    """How long the event loop was away, measured from within: the longest stop that a user feels.

    `worst` is in processor time of this thread. `wall` is by the clock, so that waiting counts too, but for waiting
    while other programs have the processor, where the system (Linux) tells that: of this thread, and of those whose
    lock it may wait for meanwhile. Garbage collections count, but only over what has come since the start: what this
    process holds besides, torch and all the tests, is not in Slicer's, and one pass over it takes 100 to 200 ms.
    """

    def __init__(self):
        import qt

        self._timer = qt.QTimer()
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._tick)

    def start(self):
        gc.freeze()
        self.worst, self.wall, self._last = 0.0, 0.0, None
        self._timer.start()

    def stop(self):
        """The longest stop in milliseconds, up to now."""
        self._timer.stop()
        self._tick()
        gc.unfreeze()
        return self.worst

    def _tick(self, *_):
        now = 1000 * time.thread_time(), 1000 * time.perf_counter(), waits()
        if self._last is not None:
            used, passed = now[0] - self._last[0], now[1] - self._last[1]
            waited = sum(max(0.0, each - self._last[2].get(thread, 0.0)) for thread, each in now[2].items())
            self.worst = max(self.worst, used)
            self.wall = max(self.wall, used, passed - waited)
        # Measuring takes its own time, and may be kept waiting.
        self._last = 1000 * time.thread_time(), 1000 * time.perf_counter(), now[2]


def waits():
    """Milliseconds that each thread of this process has waited for a processor; none where the system does not tell."""
    found = {}
    for path in THREADS.glob("*/schedstat"):
        with contextlib.suppress(OSError):  # a thread that has ended
            found[path.parent.name] = int(path.read_text().split()[1]) / 1e6
    return found


@pytest.fixture
def user(slicer, fake_engine):
    someone = User(slicer)
    yield someone
    someone.leave()


@pytest.fixture
def real_user(slicer):
    """In front of the panel with the real worker and engine."""
    pytest.importorskip("torch")
    pytest.importorskip("inrreg.registration", reason="the engine is not there yet")
    someone = User(slicer)
    yield someone
    someone.leave()


@pytest.fixture
def pair(slicer):
    from INRRegistrationLib.selftest import make_pair

    return make_pair()


def snapshot(slicer):
    """The scene as XML: what a user would save."""
    scene = slicer.mrmlScene
    scene.SetSaveToXMLString(1)
    scene.Commit()
    return scene.GetSceneXMLString()
