"""D4: every instance of every service and both gateways are restarted while people book."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import pytest

from bench.recorded_api import RecordedApi
from consulmesh.testing.ports import free_port
from tests.chaos.figures import LONG, at_most, figure
from tests.chaos.whole_system.edge import URL, Edge
from tests.chaos.whole_system.system import WholeSystem
from tests.e2e.conftest import run
from tools.binaries import ROOT
from tools.programs import SERVICES, UNLIMITED, Settings

ROUNDS: Final = 3
LOAD: Final = 0.4  # of the capacity
DELAY: Final = "2s"  # for the edge to look elsewhere: it asks every 250 ms
LEAVES_WITHIN: Final = 40.0  # seconds


class Gateway:
    """A gateway beside the system's own. All mutable state: its process."""

    def __init__(self, settings: Settings) -> None:
        self.port = free_port()
        self._environment = {
            **UNLIMITED,
            "CONSUL_HTTP_ADDR": settings.consul_url,
            "MESH_STATE_DIR": str(settings.run),
            "MESH_PORT": str(self.port),
            "MESH_SHUTDOWN_DELAY": DELAY,
        }
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    @asynccontextmanager
    async def of(cls, settings: Settings) -> AsyncIterator["Gateway"]:
        """A gateway for the block."""
        gateway = cls(settings)
        await gateway._start()
        try:
            yield gateway
        finally:
            await gateway._stop()

    async def restart(self, edge: Edge) -> None:
        """SIGTERM it, wait for its end, and start it again; returns when it is ready."""
        await self._stop()
        await edge.until(self.port, ready=False)
        await self._start()
        await edge.until(self.port, ready=True)

    async def _start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway_bff"),
            cwd=ROOT,
            env={**os.environ, **self._environment},
            stdout=asyncio.subprocess.DEVNULL,
        )

    async def _stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        assert await asyncio.wait_for(self._process.wait(), LEAVES_WITHIN) == 0


@pytest.mark.skipif(not LONG, reason="tests/e2e/test_operating.py is the short form")
@pytest.mark.timeout(1800)
async def test_everything_is_restarted_in_turn(system: WholeSystem) -> None:
    """No request fails that is tried once, and no booking is wrong, while all processes are new."""
    async with AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(Gateway.of(system.settings)) for _ in range(2)]
        edge = await stack.enter_async_context(Edge.before([each.port for each in gateways]))
        http = await stack.enter_async_context(edge.client())
        api = RecordedApi(http, URL, system.recorder, pauses=())
        async with system.load(LOAD, api):
            for _ in range(ROUNDS):
                done = await asyncio.to_thread(run, system.settings, "restart")
                assert done.returncode == 0, done.stdout + done.stderr
                for gateway in gateways:
                    await gateway.restart(edge)
    report = await system.judged()
    failed = f"{api.tally.failures}" if api.tally.failures else at_most(api.tally.raw)
    restarted = ROUNDS * (2 * len(SERVICES) + len(gateways))
    figure(
        "D4",
        f"{system.engine}: {restarted} processes restarted; capacity {system.capacity:.0f}/s, "
        f"{api.tally}; {len(report.violations)} violations in {report.counts['bookings']:,} "
        f"bookings; a request fails: {failed}",
    )

    assert report.holds, report
    assert not api.tally.unexpected
    assert not api.tally.failures
