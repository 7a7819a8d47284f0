"""Supervisor's daemon: started, told what to run, asked what runs, shut down."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import psutil
from supervisor.xmlrpc import Faults, SupervisorTransport

from tools.programs import CONSUL, GATEWAY, POSTGRES, Program, Settings, supervisor_config

PATIENCE = 60.0  # seconds for a daemon to start, or for everything to stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an update did, by process name."""

    started: list[str]
    restarted: list[str]
    stopped: list[str]
    kept: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """What supervisor knows of one process; `state` is supervisor's word, as RUNNING or FATAL."""

    name: str
    state: str
    pid: int
    description: str


class Supervisor:
    """One system's supervisor."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._transport = SupervisorTransport(None, None, f"unix://{settings.supervisor_socket}")
        self.rpc: Any = ServerProxy("http://127.0.0.1", transport=self._transport).supervisor

    def pid(self) -> int | None:
        """Process id of the daemon; None when none answers."""
        try:
            return int(self.rpc.getPID())
        except OSError:  # no socket, or nobody behind it
            self.close()
            return None

    def close(self) -> None:
        """Close the connection to the daemon; the next call opens another."""
        self._transport.close()

    def update(self, wanted: list[Program]) -> Change:
        """Make exactly these processes run; those whose settings are the same are left alone."""
        text = supervisor_config(self.settings, wanted)
        file = self.settings.supervisor_config
        file.touch()
        file.chmod(0o600)  # it may hold a database's password
        file.write_text(text)
        if self.pid() is None:
            self._start()
            return Change(started=names(wanted), restarted=[], stopped=[], kept=[])
        added, changed, removed = self.rpc.reloadConfig()[0]
        for name in [*changed, *removed]:
            self._remove(name)
        for name in [*added, *changed]:
            self.rpc.addProcessGroup(name)
        kept = [n for n in names(wanted) if n not in {*added, *changed}]
        self._start_stopped(kept)
        return Change(started=added, restarted=changed, stopped=removed, kept=kept)

    def _start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
        subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", self._config()],
            env=environment,
            check=True,
        )
        until(lambda: self.pid() is not None, "supervisor to answer")

    def _config(self) -> str:
        return str(self.settings.supervisor_config)

    def _remove(self, name: str) -> None:
        self.rpc.stopProcessGroup(name)
        self.rpc.removeProcessGroup(name)

    def _start_stopped(self, kept: Iterable[str]) -> None:
        """Processes that were stopped by hand, or gave up, run again after `make up`."""
        for process in self.states():
            if process.name in kept and process.state in {"STOPPED", "EXITED", "FATAL"}:
                self.rpc.startProcess(process.name, False)  # noqa: FBT003 - XML-RPC has no names

    def states(self) -> list[ProcessState]:
        """Every process, in the order of the configuration."""
        return [
            ProcessState(
                name=info["name"],
                state=info["statename"],
                pid=info["pid"],
                description=info["description"],
            )
            for info in self.rpc.getAllProcessInfo()
        ]

    def stop(self, name: str) -> None:
        """Stop one process and wait for its end; it stays stopped until `start` or an update."""
        with tolerated(Faults.NOT_RUNNING):
            self.rpc.stopProcess(name)

    def start(self, name: str) -> None:
        """Start one process, without waiting until supervisor believes in it."""
        with tolerated(Faults.ALREADY_STARTED):
            self.rpc.startProcess(name, False)  # noqa: FBT003 - XML-RPC has no names

    def _stop_together(self, processes: list[str]) -> None:
        """Stop processes at the same time and wait until all have drained."""
        for name in processes:
            with tolerated(Faults.NOT_RUNNING):
                self.rpc.stopProcess(name, False)  # noqa: FBT003 - XML-RPC has no names
        until(
            lambda: all(p.name not in processes or p.pid == 0 for p in self.states()),
            f"the end of {', '.join(processes)}",
        )

    def shutdown(self) -> bool:
        """End every process, callers before those they call, then the daemon. False: none ran."""
        pid = self.pid()
        if pid is None:
            return False
        daemon = psutil.Process(pid)
        everything = [process.name for process in self.states()]
        last = {CONSUL, POSTGRES}
        self._stop_together([name for name in everything if name == GATEWAY])
        self._stop_together([name for name in everything if name not in {GATEWAY, *last}])
        self._stop_together([name for name in everything if name in last])
        for name in everything:  # it would take a second for each, even if they have stopped
            self.rpc.removeProcessGroup(name)
        self.rpc.shutdown()
        daemon.wait(timeout=PATIENCE)
        return True


def fail_if_given_up(settings: Settings, supervisor: Supervisor) -> None:
    """Exit with the end of its log when supervisor no longer restarts a process."""
    for process in supervisor.states():
        if process.state == "FATAL":
            log = settings.logs / f"{process.name}.log"
            tail = log.read_text().splitlines()[-20:] if log.exists() else []
            sys.exit("\n".join([f"{process.name} does not start:", *tail, f"(from {log})"]))


def names(wanted: list[Program]) -> list[str]:
    """Names of programs."""
    return [program.name for program in wanted]


@contextlib.contextmanager
def tolerated(code: int) -> Iterator[None]:
    """Pass over one of supervisor's faults: what was asked for is the case already."""
    try:
        yield
    except Fault as fault:
        if fault.faultCode != code:
            raise


def until(
    condition: Callable[[], bool], what: str, patience: float = PATIENCE, pause: float = 0.05
) -> None:
    """Poll until the condition holds; supervisor tells nobody of its own accord."""
    limit = time.monotonic() + patience
    while not condition():
        if time.monotonic() > limit:
            sys.exit(f"gave up after {patience:.0f} s waiting for {what}")
        time.sleep(pause)
