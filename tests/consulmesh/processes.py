"""Programs of the mesh as processes of their own, and what they log."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from consulmesh import Mesh, MeshConfig
from tests.consulmesh.consuls import AnyConsul
from tests.consulmesh.xds_world import until

ROOT = Path(__file__).resolve().parents[2]


class Process:
    """A process of the mesh, and the lines that it logged."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._reader = asyncio.create_task(self._read())
        self.lines: list[dict[str, Any]] = []

    @classmethod
    async def start(
        cls, module: str, consul: AnyConsul, folder: Path, *arguments: str, **env: str
    ) -> "Process":
        """Run a module with an environment of its own."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", module, *arguments),
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "CONSUL_HTTP_ADDR": consul.url,
                "MESH_STATE_DIR": str(folder),
                **env,
            },
            stdout=asyncio.subprocess.PIPE,
        )
        return cls(process)

    async def logged(self, event: str) -> dict[str, Any]:
        """Wait for a log event; return its line."""
        await until(lambda: any(line["event"] == event for line in self.lines), seconds=20)
        return next(line for line in self.lines if line["event"] == event)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end; return the exit status."""
        async with asyncio.timeout(20):
            await self._reader
            return await self._process.wait()

    async def kill(self) -> None:
        """End it at once, if it still runs."""
        if self._process.returncode is None:
            self._process.kill()
        await self.ended()

    async def _read(self) -> None:
        assert self._process.stdout
        async for line in self._process.stdout:
            self.lines.append(json.loads(line))


@asynccontextmanager
async def shared_ads(consul: AnyConsul, folder: Path, **env: str) -> AsyncIterator[Process]:
    """Run the shared ADS as a process; it is registered when the block begins."""
    process = await Process.start("consulmesh.xds", consul, folder, **env)
    try:
        await process.logged("consul_registered")
        yield process
    finally:
        await process.kill()


@asynccontextmanager
async def caller(consul: AnyConsul, folder: Path) -> AsyncIterator[Mesh]:
    """Join the mesh as who calls."""
    config = MeshConfig(version="1", consul_url=consul.url, state_dir=folder, isolated=True)
    async with Mesh.join("caller", config) as mesh:
        yield mesh


def passing(data: list[dict[str, Any]]) -> set[str]:
    """Return the ids of the passing instances in an answer of Consul's health endpoint."""
    return {
        entry["Service"]["ID"]
        for entry in data
        if all(check["Status"] == "passing" for check in entry["Checks"])
    }
