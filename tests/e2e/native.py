"""What stands in files for containers, run as processes: other paths and addresses, same words.

A container that listens at any address gets one of loopback's; names of containers become their
addresses. What a volume would hold lies below a folder of the test.
"""

import asyncio
import os
import random
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import grpc

from consulmesh import Mesh, MeshConfig
from consulmesh.testing.real_consul import consul_program
from flights.schedule.v1.schedule_pb2 import WatchFlightsRequest
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from tools.binaries import ROOT

FEW_FLIGHTS: Final = "synthetic flights=1000 seed=1"
PATIENCE: Final = 90.0  # seconds for whatever is waited for
PAUSE: Final = 0.1
OURS: Final = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "HOME", "TZ")


class Machine:
    """Where containers run as processes: a folder, an address for each name, what was started."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        net = f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}"
        self.addresses = {name: f"{net}.{last}" for last, name in enumerate(names, 2)}
        self.running: dict[str, asyncio.subprocess.Process] = {}
        program = consul_program()
        assert program is not None, "no Consul: set CONSUL_BIN"
        self._path = os.pathsep.join(
            [str(Path(sys.executable).parent), str(program.parent), os.environ["PATH"]]
        )

    def mapped(self, text: str, container: str, mounts: Mapping[str, Path]) -> str:
        """A word of a container's files, for a process; `container` says which address is its."""
        for path, there in sorted(mounts.items(), reverse=True):
            text = re.sub(rf"(?<![\w.-]){re.escape(path)}(?![\w-])", str(there), text)
        for name, address in self.addresses.items():
            text = re.sub(rf"(?:(?<=//)|^){re.escape(name)}(?=:\d)", address, text)
        return re.sub(r"(?<![\d.])(0\.0\.0\.0|127\.0\.0\.1)(?![\d.])", self.at(container), text)

    def at(self, container: str) -> str:
        """The address of a container."""
        return self.addresses[container]

    def environment(self, own: Mapping[str, str]) -> dict[str, str]:
        """What a process is told: the container's own environment, and how to find our code."""
        ours = {name: os.environ[name] for name in OURS if name in os.environ}
        return {"PATH": self._path, **ours, **own}

    async def run(self, words: Sequence[str], own: Mapping[str, str]) -> tuple[int, str]:
        """Run a command to its end; return its exit status and what it said."""
        process = await asyncio.create_subprocess_exec(
            *words,
            cwd=ROOT,
            env=self.environment(own),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
        return process.returncode or 0, said.decode()

    async def start(self, name: str, words: Sequence[str], own: Mapping[str, str]) -> None:
        """Start what is to go on running; its output is in a file."""
        with self._log(name).open("ab") as log:
            self.running[name] = await asyncio.create_subprocess_exec(
                *words,
                cwd=ROOT,
                env=self.environment(own),
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
            )

    async def until(self, words: Sequence[str], own: Mapping[str, str]) -> None:
        """Run a check until it succeeds, as an engine does."""
        try:
            async with asyncio.timeout(PATIENCE):
                while (last := await self.run(words, own))[0]:
                    await asyncio.sleep(PAUSE)
        except TimeoutError:
            raise AssertionError(f"{words} fails: {last[1]}\n{self.last_words()}") from None

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def output(self, name: str) -> str:
        """All that a process has said."""
        return self._log(name).read_text(errors="replace")

    def last_words(self) -> str:
        """The end of every log."""
        return "\n".join(f"--- {name}\n{self.output(name)[-3000:]}" for name in self.running)

    async def stop(self, name: str) -> int:
        """End one as an engine does, by SIGTERM; return its exit status."""
        process = self.running[name]
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(process.wait(), PATIENCE)

    async def aclose(self) -> None:
        """End what still runs."""
        for process in self.running.values():
            if process.returncode is None:
                process.kill()
                await process.wait()


@asynccontextmanager
async def machine(folder: Path, names: Sequence[str]) -> AsyncIterator[Machine]:
    """A machine for the block."""
    made = Machine(folder, names)
    try:
        yield made
    finally:
        await made.aclose()


async def flights_for(environment: Mapping[str, str], folder: Path, caller: str) -> int:
    """Join as a service with its container's environment; how many flights schedule tells it."""
    own = {"MESH_STATE_DIR": str(folder), "MESH_INSTANCE_ID": f"{caller}-test"}
    config = MeshConfig.from_env({**environment, **own}, version="1.0.0")
    told = 0
    async with Mesh.join(caller, replace(config, isolated=True)) as mesh:
        await asyncio.wait_for(mesh.certified(), PATIENCE)
        stub = ScheduleServiceStub(mesh.channel("schedule"))
        call = stub.WatchFlights(WatchFlightsRequest(), wait_for_ready=True, timeout=PATIENCE)
        async for batch in call:
            told += len(batch.events)
            if told:
                call.cancel()
                break
    return told


async def refused(environment: Mapping[str, str], folder: Path, caller: str) -> grpc.StatusCode:
    """The same for who may not; returns the status."""
    try:
        await flights_for(environment, folder, caller)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
