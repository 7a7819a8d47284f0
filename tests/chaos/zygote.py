"""A process that has everything imported and forks services from itself: `-m tests.chaos.zygote`.

It reads one request a line, `{"id": 7, "launch": "…"}`, and writes one line for each thing that
happens to a child: `{"id": 7, "event": "started", "pid": 4711}`, then `serving` (said by the child
itself), `stopped` and `continued` (SIGSTOP, SIGCONT), and at last `ended` with a `status` as
`subprocess` has it.

It has one thread and has made no channel or server, so that a fork of it is a process like any
other. No child outlives it, and it does not outlive whoever reads its lines.
"""

import ctypes
import functools
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, Final, Never

import consulmesh
from tests.chaos import services
from tests.chaos.launch import Launch

_PR_SET_PDEATHSIG: Final = 1
_OURS: Final = ("MESH_", "DATABASE_", "CONSUL_", "GRPC_")
_WATCHED: Final = os.WNOHANG | os.WUNTRACED | os.WCONTINUED

LATER: Final = (
    "alembic.command",
    "alembic.config",
    "alembic.context",
    "eventstream.postgres",
    "eventstream.schema",
    "psycopg",
)
"""What services import only where they need it: most children do."""

_libc = ctypes.CDLL(None, use_errno=True)


class Zygote:
    """State: the ids of the children by process id, and the part of a line that was read."""

    def __init__(self) -> None:
        self._children: dict[int, int] = {}
        self._partial = b""
        self._signals, self._wakeup = socket.socketpair()
        self._signals.setblocking(False)  # noqa: FBT003 - it takes no name
        self._wakeup.setblocking(False)  # noqa: FBT003 - it takes no name

    def run(self) -> None:
        """Fork on request until the requests end."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup.fileno())
        with selectors.DefaultSelector() as selector:
            selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self._requests)
            selector.register(self._signals, selectors.EVENT_READ, self._news)
            while all(key.data() for key, _ in selector.select()):
                pass
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)

    def _requests(self) -> bool:
        read = os.read(sys.stdin.fileno(), 1 << 16)
        *lines, self._partial = (self._partial + read).split(b"\n")
        for line in lines:
            request = json.loads(line)
            self._fork(request["id"], Launch.load(request["launch"]))
        return bool(read)

    def _fork(self, number: int, launch: Launch) -> None:
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            self._signals.close()
            self._wakeup.close()
            _be(number, launch, parent)
        self._children[pid] = number
        _say(number, "started", pid=pid)

    def _news(self) -> bool:
        self._signals.recv(1 << 16)
        while self._children:
            pid, status = os.waitpid(-1, _WATCHED)
            if not pid:
                break
            self._report(pid, status)
        return True

    def _report(self, pid: int, status: int) -> None:
        if os.WIFSTOPPED(status):
            _say(self._children[pid], "stopped")
        elif os.WIFCONTINUED(status):
            _say(self._children[pid], "continued")
        else:
            _say(self._children.pop(pid), "ended", status=os.waitstatus_to_exitcode(status))


def _say(number: int, event: str, **rest: Any) -> None:
    """Write a line: in one go, so that those of several processes don't mix."""
    os.write(1, json.dumps({"id": number, "event": event, **rest}).encode() + b"\n")


def _be(number: int, launch: Launch, parent: int) -> Never:
    """Become the service."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    news = os.dup(1)
    _redirect(Path(launch.folder) / f"{launch.service}-{launch.slot}.log")
    os.environ.update(launch.environ)
    line = json.dumps({"id": number, "event": "serving"}).encode() + b"\n"
    tell = functools.partial(os.write, news, line)
    status = 1
    try:
        consulmesh.run(functools.partial(services.run, launch, tell))
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - told as the interpreter would
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)  # whatever else: nothing of the zygote must run here


def _redirect(log: Path) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, target)


def main() -> None:
    """Entry point."""
    for name in [name for name in os.environ if name.startswith(_OURS)]:
        del os.environ[name]
    for name in LATER:
        importlib.import_module(name)
    if len(list(Path("/proc/self/task").iterdir())) != 1:
        sys.exit("something that was imported has started a thread: forks would lack it")
    gc.freeze()
    Zygote().run()


if __name__ == "__main__":
    main()
