"""Services as real processes that start within a moment and can be killed, frozen and awaited.

    async with zygote() as forks:
        process = await forks.start(launch)
        await process.serving()
        process.kill()
        status = await process.ended()

A process is a fork of one that has imported everything. None of them outlives the block.
"""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from asyncio.subprocess import Process as Child
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tests.chaos.launch import Launch

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 60.0  # seconds in which a process does what it does at once
TAIL: Final = 2_000  # characters of a log that say why a process ended


class DiedError(Exception):
    """A process ended that was to go on."""


class Process:
    """One instance of a service.

    State: what is known of it, told by the zygote, whom that wakes; whether it was told to stop.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.pid = 0
        self.status: int | None = None
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._serving = False
        self._stopped = False
        self._told_to_stop = False
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<{self.name} pid={self.pid} status={self.status} stopped={self._stopped}>"

    @property
    def name(self) -> str:
        """The instance's id."""
        return f"{self.launch.service}-{self.launch.slot}"

    @property
    def log(self) -> Path:
        """Where it logs, and its predecessors have."""
        return Path(self.launch.folder) / f"{self.name}.log"

    @property
    def struck(self) -> bool:
        """Whether it has ended or is frozen."""
        return self._stopped or self.status is not None

    async def gone(self) -> None:
        """Wait until it has ended or is frozen."""
        await self._until(lambda: self.struck)

    async def started(self) -> None:
        """Wait until there is a process."""
        await self._until(lambda: self.pid != 0)

    async def serving(self) -> None:
        """Wait until it serves; raises DiedError where it ends first."""
        await self._until(lambda: self._serving or self.status is not None)
        if not self._serving:
            raise DiedError(f"{self.name} ended with {self.status}: {self._logged()[-TAIL:]}")

    async def ended(self, patience: float = PATIENCE) -> int:
        """Wait for its end: its exit status, negative for the signal that ended it."""
        await self._until(lambda: self.status is not None, patience)
        assert self.status is not None
        return self.status

    async def stopped(self, patience: float = PATIENCE) -> None:
        """Wait until it is frozen."""
        await self._until(lambda: self._stopped or self.status is not None, patience)
        if not self._stopped:
            raise DiedError(f"{self.name} ended with {self.status} instead of freezing")

    async def logged(self, event: str) -> None:
        """Wait until it has logged an event, which it does a moment after it has happened."""
        line = f'"event":"{event}"'
        async with asyncio.timeout(PATIENCE):
            while line not in self._logged():  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.02)

    async def continued(self) -> None:
        """Wait until it is not frozen any more."""
        await self._until(lambda: not self._stopped)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Tell it to stop; once, as a second time means at once."""
        if not self._told_to_stop:
            self._told_to_stop = True
            self.send(signal.SIGTERM)

    def kill(self) -> None:
        """As `kill -9`."""
        self.send(signal.SIGKILL)

    def told(self, event: str, rest: dict[str, Any]) -> None:
        """Learn what happened to it."""
        match event:
            case "started":
                self.pid = rest["pid"]
            case "serving":
                self._serving = True
            case "stopped" | "continued":
                self._stopped = event == "stopped"
            case "ended":
                self.status = rest["status"]
        self._news.set()
        self._news = asyncio.Event()

    def _logged(self) -> str:
        """What it has logged, without what its predecessors have."""
        with self.log.open("rb") as lines:
            lines.seek(self._log_start)
            return lines.read().decode(errors="replace")

    async def _until(self, reached: Any, patience: float = PATIENCE) -> None:
        async with asyncio.timeout(patience):
            while not reached():
                await self._news.wait()


class Zygote:
    """Forks processes. State: those that were started, by number."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._processes: list[Process] = []

    async def start(self, launch: Launch) -> Process:
        """Fork an instance; returns once it has a process id."""
        process = Process(launch)
        self._processes.append(process)
        request = {"id": len(self._processes) - 1, "launch": launch.dump()}
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(request).encode() + b"\n")
        await process.started()
        return process

    async def listen(self) -> None:
        """Hear what happens until the zygote ends."""
        assert self._child.stdout is not None
        async for line in self._child.stdout:
            news = json.loads(line)
            self._processes[news.pop("id")].told(news.pop("event"), news)


@asynccontextmanager
async def zygote() -> AsyncIterator[Zygote]:
    """A zygote for the block; whatever it has forked ends with it."""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "gen")))}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.zygote"),
        stdin=PIPE,
        stdout=PIPE,
        cwd=ROOT,
        env=environ,
        start_new_session=True,
    )
    forks = Zygote(child)
    listening = asyncio.create_task(forks.listen())
    try:
        yield forks
    finally:
        assert child.stdin is not None
        child.stdin.close()
        await listening
        await child.wait()
