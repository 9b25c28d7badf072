"""A registration on another host, over the system's ssh, to a server of this computer with the real keys and files."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import FAKES, ROOT, snapshot

from inrreg.protocol import Message

SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if Path("/usr/sbin/sshd").exists() else None)
pytestmark = pytest.mark.skipif(SSHD is None or shutil.which("ssh") is None, reason="there is no ssh server here")


class Server:
    """An ssh server of this user alone, the client's configuration for it, and the Python that it starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("host", "user", "stranger"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        shutil.copy(folder / "user.pub", folder / "authorized")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\n"
            f"AuthorizedKeysFile {folder}/authorized\n"
            f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\n"
        )
        kind, key = (folder / "host.pub").read_text().split()[:2]
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")
        # Only absolute paths reach the server's shell.
        self.python = folder / "python"
        self.python.write_text(
            f"#!/bin/sh\nexport PYTHONPATH='{ROOT / 'INRRegistration'}'\n"
            f'case "$2" in inrreg.worker) shift 2; set -- "{FAKES / "fake_worker.py"}" "$@";; esac\n'
            f'exec "{sys.executable}" "$@"\n'
        )
        self.python.chmod(0o755)
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self.use("user")
        self.process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 10
        while socket.socket().connect_ex(("127.0.0.1", self.port)):
            assert time.monotonic() < end
            time.sleep(0.05)

    def use(self, key: str) -> None:
        """What the client's configuration says: the system's ssh reads it from the home folder else."""
        (self.folder / "config").write_text(
            f"Host scanner\n  HostName 127.0.0.1\n  Port {self.port}\n  User {getpass.getuser()}\n"
            f"  IdentityFile {self.folder}/{key}\n  IdentitiesOnly yes\n  UserKnownHostsFile {self.folder}/known\n"
        )

    @property
    def host(self) -> str:
        return f"scanner:{self.python}"

    def cut(self) -> None:
        """Cut every connection, as a network does: without a word."""
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout.split()
        subprocess.run(["kill", "-9", *children], check=True)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@pytest.fixture(scope="module")
def known_server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("ssh"))
    yield server
    server.stop()


@pytest.fixture
def server(known_server, tmp_path, monkeypatch):
    binaries = tmp_path / "bin"
    binaries.mkdir()
    real = shutil.which("ssh")
    (binaries / "ssh").write_text(f'#!/bin/sh\nexec {real} -F "{known_server.folder}/config" "$@"\n')
    (binaries / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    known_server.use("user")
    from INRRegistrationLib import process

    monkeypatch.setattr(process, "RETRY", 300)
    return known_server


@pytest.fixture
def asked(slicer, monkeypatch):
    """What the user was asked, and agreed to."""
    questions = []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, *_, **__: not questions.append(text))
    return questions


def remote_folders() -> list[Path]:
    return list(Path.home().glob(".cache/inrreg/*"))


def run_on(user, host):
    user.ui.hostEdit.setText(host)
    user.ui.hostEdit.editingFinished.emit()


def test_a_registration_travels_there_and_back(user, slicer, pair, server, asked):
    before = remote_folders()
    run_on(user, server.host)
    user.choose(*pair)
    transform = user.register()
    assert pair[1].GetParentTransformNode() is transform
    assert user.ui.volumeSelector.currentNode() is not None
    assert "file descriptor" not in user.ui.logText.plainText
    assert [server.host in text for text in asked] == [True]
    (here,) = set(remote_folders()) - set(before)
    assert not user.process.running
    first = transform.GetAttribute("INRRegistration.Result")
    assert (Path(first) / "model.json").is_file()
    user.register()
    assert len(asked) == 1
    # Nothing stays on the host once the connection is gone.
    run_on(user, "scanner")
    with pytest.raises(AssertionError):
        user.register()  # there is no inrreg for that Python
    user.wait(lambda: not here.exists())
    run_on(user, "")


def test_previews_come_and_the_slider_answers_as_with_a_worker_here(user, slicer, pair, server, asked):
    run_on(user, server.host)
    user.choose(*pair, "fake-alpha", steps=60, pause=0.02)
    user.click()
    user.wait(lambda: pair[1].GetParentTransformNode() is not None)
    preview = pair[1].GetParentTransformNode()
    assert user.panel.run is not None
    user.wait_for_end(60)
    assert not user.error, user.error
    assert pair[1].GetParentTransformNode() is preview
    tuning = user.panel.sections[0]
    user.wait(lambda: tuning.tuner.fields is not None)
    centre = np.mean(np.reshape(bounds(pair[1]), (3, 2)), 1)
    before = preview.GetTransformFromParent().TransformPoint(centre)
    tuning.ui.alphaSlider.setValue(900)
    assert not tuning.tuner.exact
    user.wait(lambda: tuning.tuner.exact, 60)
    assert np.linalg.norm(np.subtract(preview.GetTransformFromParent().TransformPoint(centre), before)) > 1
    run_on(user, "")


def bounds(volume):
    found = [0.0] * 6
    volume.GetRASBounds(found)
    return found


def test_cancel_ends_in_a_clear_state(user, slicer, pair, server, asked):
    begin(user, server, pair, steps=10_000)
    user.ui.applyButton.click()
    user.wait_for_end()
    assert "Cancelled" in user.ui.statusLabel.text
    run_on(user, "")


def begin(user, server, pair, steps):
    """A registration there of so many steps, each of 10 ms at least, that is under way; the scene before it."""
    run_on(user, server.host)
    user.choose(*pair, steps=steps, pause=0.01)
    before = snapshot(user.slicer)
    user.click()
    user.wait(lambda: "step" in user.ui.statusLabel.text, 40)
    return before


def lose(user, server):
    server.cut()
    user.wait(lambda: "The connection was lost" in user.ui.statusLabel.text, 30)


def end_there():
    """End the workers there, as a connection to them would."""
    for folder in remote_folders():
        (folder / "commands").write_bytes(Message("shutdown").encode().encode() + b"\n")


def test_a_registration_goes_on_over_a_lost_connection_and_is_picked_up(user, slicer, pair, server, asked):
    begin(user, server, pair, steps=300)
    lose(user, server)
    user.screenshot("remote")
    user.wait(lambda: "step" in user.ui.statusLabel.text, 30)
    lose(user, server)
    user.wait_for_end(60)
    assert not user.error, user.error
    assert pair[1].GetParentTransformNode() is not None
    assert user.ui.logText.plainText.count("Warning") == 1
    run_on(user, "scanner")
    with pytest.raises(AssertionError):
        user.register()  # it is at an end with this host, and takes its files away
    user.wait(lambda: not remote_folders())
    run_on(user, "")


def test_what_does_not_come_back_ends_in_a_clear_state(user, slicer, pair, server, asked):
    before = begin(user, server, pair, steps=10_000)
    lose(user, server)
    end_there()
    user.wait_for_end(30)
    assert "and the registration there has ended" in user.error
    assert snapshot(slicer) == before
    begin(user, server, pair, steps=10_000)
    server.use("stranger")
    lose(user, server)
    user.wait(lambda: "Permission denied" in user.ui.logText.plainText, 30)
    user.ui.applyButton.click()
    user.wait_for_end()
    assert "Cancelled" in user.ui.statusLabel.text
    assert snapshot(slicer) == before
    server.use("user")
    end_there()
    user.set_setting("steps", 3)
    user.register()
    run_on(user, "")


@pytest.mark.parametrize(
    ("key", "host", "said"),
    [
        ("stranger", None, "refused this computer&#x27;s key"),
        ("user", "scanner:/nowhere/python", "has no such Python"),
        ("user", "127.0.0.1:/usr/bin/python3", "cannot be reached|not a known host|refused this computer"),
        ("user", "a b; rm", "is no name of a host"),
    ],
)
def test_what_keeps_a_host_away_is_one_sentence(user, slicer, pair, server, asked, key, host, said):
    server.use(key)
    run_on(user, host or server.host)
    user.choose(*pair)
    user.click()
    user.wait_for_end(30)
    assert re.search(said, user.error), user.error
    assert pair[1].GetParentTransformNode() is None
    run_on(user, "")


def test_who_does_not_agree_sends_nothing(user, pair, server, slicer, monkeypatch):
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda *_, **__: False)
    run_on(user, server.host)
    user.choose(*pair)
    user.click()
    assert user.panel.run is None
    assert not user.panel.registrations.worker(server.host).running
    run_on(user, "")
