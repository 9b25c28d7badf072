"""Where the worker runs: on this computer, or on a host that the system's ssh reaches, by its keys and encryption.

A host needs this package, and gives each worker a folder of its own, which goes with it. A worker that was given
something to do outlives a connection that is lost, for a while, and another one can follow it. Job folders travel as
tar over the same ssh, and results come back the same way: nothing else is opened.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import uuid
from pathlib import Path
from typing import Any

from inrreg import relay
from inrreg.protocol import UserError

LOST = 255
"""What ssh ends with when the connection fails."""

_HOST = re.compile(r"(?P<login>[A-Za-z0-9_][A-Za-z0-9_.@%:-]*?)(:(?P<python>[/~][\w./~+-]*))?")
"""A login as ssh takes it, or a name from its configuration; after a colon, the Python that has this package."""

_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=5")
"""Never a question that nobody would see; a line that is cut is noticed within some 15 s."""


class Here:
    """This computer: files need not travel."""

    name = ""

    def command(self) -> list[str]:
        """Program and arguments that start the worker. Raises `UserError` where Slicer's Python is not found."""
        # Inside Slicer, sys.executable may be Slicer itself; its Python is on the path there.
        program = shutil.which("PythonSlicer") or sys.executable
        if "python" not in Path(program).name.lower():
            raise UserError("python", "Slicer's Python was not found.", "Reinstall Slicer.")
        return [program, "-m", "inrreg.worker"]

    def follow(self, heard: int) -> list[str]:
        """Program and arguments that reach the worker again, which has been `heard` to give so many events.

        Empty where it has ended with the connection.
        """
        return []

    def send(self, folder: Path) -> str:
        """Bring a job folder to where the worker runs, and say what it is called there."""
        return str(folder)

    def fetch(self, folder: Path, data: dict[str, Any]) -> dict[str, Any]:
        """Bring what an event names in a job folder to this computer, and give the event with the names here."""
        return data

    def explain(self, words: list[str]) -> UserError | None:
        """What the last words of a process that ended mean, where that is known."""
        return None

    def interrupt(self) -> None:
        """End what travels."""


class Host:
    """A host, `login` or `login:/path/to/python`. Raises `UserError` (code `host`) for what is no such name.

    `send` and `fetch` are made to run off the GUI thread; they raise `UserError` (code `host`).
    """

    def __init__(self, name: str) -> None:
        match = _HOST.fullmatch(name.strip())
        if match is None:
            hint = "Write user@server, or user@server:/path/to/python."
            raise UserError("host", f"'{name}' is no name of a host.", hint)
        self.name = name.strip()
        self._login, self._python = match["login"], match["python"] or "python3"
        self._folder = ""
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()

    def command(self) -> list[str]:
        """As `Here.command`, in a new folder, which goes when the worker ends.

        Only a relay is the connection's: without one the worker, whose words go to files, ends after a while.
        """
        self._folder = folder = f".cache/inrreg/{uuid.uuid4().hex}"
        script = (
            f"umask 077; mkdir -p {folder} && cd {folder} && "
            f"mkfifo {relay.COMMANDS} && : > {relay.JOURNAL} && : > {relay.WORDS} || exit; "
            f"(trap '' HUP; {self._python} -m inrreg.worker --lasting 2> {relay.WORDS}; cd; rm -rf {folder}) "
            f"< /dev/null > /dev/null 2>&1 & {self._python} -m inrreg.relay 0"
        )
        return self._ssh(script)

    def follow(self, heard: int) -> list[str]:
        """As `Here.follow`."""
        missing = "{ echo 'The worker is no longer there.' >&2; exit 1; }"
        return self._ssh(f"cd {self._folder} 2> /dev/null || {missing}; {self._python} -m inrreg.relay {heard}")

    def send(self, folder: Path) -> str:
        """As `Here.send`: relative to the worker's folder on the host."""
        here = f"[ -p {self._folder}/{relay.COMMANDS} ]"  # else nobody would take the files away again
        script = (
            f"{self._python} -c 'import inrreg.relay' || exit; "
            f"for n in 1 2 3 4 5 6 7 8 9 10; do {here} && break; sleep 1; done; "
            f"umask 077; {here} && tar -x -f - -C {self._folder}"
        )
        with (
            self._run(script, stdin=subprocess.PIPE) as process,
            tarfile.open(fileobj=process.stdin, mode="w|") as archive,
        ):
            archive.add(folder, folder.name)
        return folder.name

    def fetch(self, folder: Path, data: dict[str, Any]) -> dict[str, Any]:
        """As `Here.fetch`: whatever entry is a path in the job's folder on the host."""
        inside = f"/{self._folder}/{folder.name}/"
        names = {
            key: value.split(inside, 1)[1] for key, value in data.items() if isinstance(value, str) and inside in value
        }
        if not names:
            return data
        wanted = " ".join(f"'{name}'" for name in names.values() if re.fullmatch(r"[\w.-]+", name))
        script = f"tar -c -f - -C {self._folder}/{folder.name} {wanted}"
        with (
            self._run(script, stdout=subprocess.PIPE) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as archive,
        ):
            for member in archive:
                # Nothing outside the folder, no links, no devices, whoever the host is.
                archive.extract(tarfile.data_filter(member, str(folder)), folder)
        return {**data, **{key: str(folder / name) for key, name in names.items()}}

    def explain(self, words: list[str]) -> UserError | None:
        """As `Here.explain`: what ssh, or the shell behind it, said."""
        text = "\n".join(words)
        for pattern, sentence, hint in _TROUBLE:
            if re.search(pattern, text, re.IGNORECASE):
                return UserError("host", sentence.format(name=self.name), hint.format(login=self._login))
        return None

    def interrupt(self) -> None:
        """As `Here.interrupt`."""
        with self._lock:
            for process in self._running:
                process.kill()

    def _ssh(self, script: str) -> list[str]:
        program = shutil.which("ssh")
        if program is None:
            raise UserError("host", "This computer has no ssh.", "Install OpenSSH's client.")
        return [program, *_OPTIONS, self._login, script]

    @contextlib.contextmanager
    def _run(self, script: str, **pipes: Any) -> Any:
        """A command on the host, over a pipe; its failure, or the pipe's, is told in words."""
        with contextlib.ExitStack() as stack:
            process = subprocess.Popen(
                self._ssh(script), stderr=subprocess.PIPE, **{"stdin": subprocess.DEVNULL, **pipes}
            )
            with self._lock:
                self._running.add(process)
            stack.callback(self._forget, process)
            broken: BaseException | None = None
            try:
                yield process
                if process.stdin:
                    process.stdin.close()
            except (OSError, tarfile.TarError) as error:
                broken = error
            words = process.stderr.read().decode("utf-8", "replace").splitlines()
            if process.wait() or broken is not None:
                last = words[-1] if words else str(broken or f"ssh ended with {process.returncode}")
                hint = "Check the connection, and register again."
                known = self.explain(words)
                raise known or UserError("host", f"Files could not travel to or from {self.name} ({last}).", hint)

    def _forget(self, process: subprocess.Popen) -> None:
        with self._lock:
            self._running.discard(process)
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()
        process.kill()
        process.wait()


_TROUBLE = (
    (
        "Permission denied",
        "{name} refused this computer's key.",
        "Set up a key for it: 'ssh {login}' must work in a terminal without a password.",
    ),
    (
        "Host key verification failed",
        "{name} is not a known host, or not the one that it was.",
        "Connect once in a terminal with 'ssh {login}', and check what it says.",
    ),
    (
        "Could not resolve|No route|refused|timed out|unreachable",
        "{name} cannot be reached.",
        "Check the name and the network: 'ssh {login}' must work in a terminal.",
    ),
    (
        "No module named .?inrreg",
        "{name} lacks this module's engine.",
        "Install it there, or name the Python that has it: {login}:/path/to/python.",
    ),
    (
        "not found|No such file",
        "{name} has no such Python.",
        "Name the Python that has this module's engine: {login}:/path/to/python.",
    ),
    (
        "worker is no longer there",
        "The connection to {name} was lost, and the registration there has ended.",
        "Register again.",
    ),
    (
        "closed by remote|Connection (to .* )?closed|reset by peer|broken pipe|not responding",
        "The connection to {name} was lost.",
        "Check the network, and register again.",
    ),
)
"""What ssh says, in our words, and what to do about it."""
