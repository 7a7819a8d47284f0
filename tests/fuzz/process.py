"""The services under attack, seen from outside: their process, a client, what they have logged."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import psutil

from consulmesh.local_issuer import LocalIssuer
from tests.fuzz.served import COLLECT

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 30.0  # seconds in which the process does what it does at once
SPARE: Final = 10  # tasks
MEBIBYTE: Final = 1 << 20
_DEFECTS: Final = ('"event":"handler_failed"', '"event":"job_failed"', "Traceback (most recent")
_CHANNEL: Final = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a process has now; `memory` is resident, in octets."""

    tasks: int
    descriptors: int
    memory: int


class Process:
    """The process of `served`. State: how much of its log was read."""

    def __init__(self, child: "subprocess.Popen[bytes]", folder: Path, log: Path) -> None:
        self._child = child
        self._log = log
        self._read = 0
        self._seen = psutil.Process(child.pid)
        self.ports: Mapping[str, int] = json.loads(self._line())
        self._issuer = LocalIssuer(folder / "issuer")
        self._channels: dict[str, grpc.Channel] = {}

    def channel(self, service: str) -> grpc.Channel:
        """The channel to a service."""
        if service not in self._channels:
            address = f"127.0.0.1:{self.ports[service]}"
            self._channels[service] = grpc.insecure_channel(address, options=_CHANNEL)
        return self._channels[service]

    def user(self, *roles: str) -> tuple[tuple[str, str], ...]:
        """The metadata of Ann's calls."""
        return (("authorization", f"Bearer {self._issuer.token('ann', roles)}"),)

    def state(self, *, collected: bool = False) -> State:
        """What it has now, or after it has collected its garbage."""
        assert self._child.stdin is not None
        self._child.stdin.write(COLLECT if collected else b"\n")
        self._child.stdin.flush()
        tasks = int(self._line())
        memory = self._seen.memory_info().rss
        return State(tasks=tasks, descriptors=self._seen.num_fds(), memory=memory)

    def settled(self, before: State) -> State:
        """Wait until it has no more tasks and descriptors than before; return what it has then.

        A few tasks more are those of its own work, which comes and goes.
        """
        until = time.monotonic() + PATIENCE
        while True:
            now = self.state()
            settled = now.tasks <= before.tasks + SPARE and now.descriptors <= before.descriptors
            if settled or time.monotonic() > until:
                return now
            time.sleep(0.05)

    def defects(self) -> list[str]:
        """The lines of its log since the last time that tell of errors nobody expected."""
        with self._log.open("rb") as lines:
            lines.seek(self._read)
            new = lines.read()
        self._read += len(new)
        found = new.decode(errors="replace").splitlines()
        return [line for line in found if any(defect in line for defect in _DEFECTS)]

    def close(self) -> int:
        """Let it leave; returns its exit status."""
        for channel in self._channels.values():
            channel.close()
        assert self._child.stdin is not None
        self._child.stdin.close()
        return self._child.wait(PATIENCE)

    def _line(self) -> bytes:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        assert line, f"it has ended: {self._log.read_text()[-4000:]}"
        return line


@contextmanager
def started(folder: Path) -> Iterator[Process]:
    """The services for the block, with their files in a folder."""
    log = folder / "log"
    LocalIssuer(folder / "issuer")
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "gen")))}
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.served", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            env=environ,
            start_new_session=True,
        ) as child,
    ):
        try:
            process = Process(child, folder, log)
            yield process
            assert process.close() == 0
        finally:
            child.kill()
