"""The running system, as benchmarks and end-to-end tests handle it: find, stop, kill, pause."""

import asyncio
import os
import re
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import psutil

from consulmesh.operators import OPERATOR
from tools.announce import worst
from tools.programs import Settings
from tools.supervision import Supervisor

POLL = 0.02  # seconds; what is asked here (supervisor, metrics) tells nobody of its own accord


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One instance by Consul's word. `status` is the worst of its checks."""

    service: str
    instance_id: str
    address: str
    port: int
    version: str
    metrics_port: int | None
    status: str


class Subject:
    """The system under test."""

    def __init__(self, settings: Settings, http: aiohttp.ClientSession) -> None:
        self.settings = settings
        self.http = http
        self._supervisor = Supervisor(settings)

    @classmethod
    @asynccontextmanager
    async def attach(cls, settings: Settings) -> AsyncIterator["Subject"]:
        """The system that runs with these settings."""
        timeout = aiohttp.ClientTimeout(total=30)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
            subject = cls(settings, http)
            try:
                yield subject
            finally:
                subject._supervisor.close()

    async def instances(self, service: str) -> list[Instance]:
        """Every instance that Consul lists for a service."""
        entries = await self.consul("GET", f"/v1/health/service/{service}")
        return [_instance(entry) for entry in entries]

    async def consul(self, method: str, path: str, **given: Any) -> Any:
        """Ask Consul, as an operator; returns what its JSON says."""
        settings = self.settings
        if settings.secure:
            roots = ssl.create_default_context(cafile=settings.credentials.roots)
            token = settings.credentials.token(OPERATOR)
            given |= {"ssl": roots, "headers": {"X-Consul-Token": token}}
        async with self.http.request(method, settings.consul_url + path, **given) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def passing(self, service: str) -> set[str]:
        """Ids of a service's instances that pass."""
        return {i.instance_id for i in await self.instances(service) if i.status == "passing"}

    async def passes(self, service: str, instance_id: str, patience: float = 30) -> float:
        """Wait until an instance passes; returns the seconds."""
        return await self._until(lambda: self._is_passing(service, instance_id), patience)

    async def fails(self, service: str, instance_id: str, patience: float = 30) -> float:
        """Wait until an instance does not pass any more, or is gone; returns the seconds."""

        async def fails() -> bool:
            return not await self._is_passing(service, instance_id)

        return await self._until(fails, patience)

    async def _is_passing(self, service: str, instance_id: str) -> bool:
        return instance_id in await self.passing(service)

    async def endpoints(self, caller: Instance, upstream: str) -> float:
        """How many instances of an upstream a process knows, by its metrics; NaN: none yet."""
        found = await self.metric(caller, "mesh_upstream_endpoints", f'server_address="{upstream}"')
        return float("nan") if found is None else found

    async def metric(self, of: Instance, name: str, labels: str = "") -> float | None:
        """One value of a process's metrics endpoint."""
        url = f"http://{of.address}:{of.metrics_port}/metrics"
        async with self.http.get(url) as answer:
            text = await answer.text()
        labelled = rf"(?:{{[^}}]*{re.escape(labels)}[^}}]*}})?"
        found = re.search(rf"^{name}{labelled} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else None

    async def knows(
        self, caller: Instance, upstream: str, count: int, patience: float = 30
    ) -> float:
        """Wait until a process knows so many instances of an upstream; returns the seconds."""

        async def does() -> bool:
            return await self.endpoints(caller, upstream) == count

        return await self._until(does, patience)

    def pid(self, process: str) -> int:
        """Process id of a running process, by its name at supervisor."""
        return next(s.pid for s in self._supervisor.states() if s.name == process)

    def running(self, service: str) -> list[str]:
        """The instances of a service that supervisor believes in: they have run for 3 s."""
        states = self._supervisor.states()
        return [s.name for s in states if s.state == "RUNNING" and s.name.startswith(f"{service}-")]

    def kill_everything(self) -> int:
        """`kill -9` the supervisor and all that it started; returns how many processes."""
        supervisor = psutil.Process(self._supervisor.pid())
        doomed = [supervisor, *supervisor.children(recursive=True)]
        for process in doomed:
            process.kill()
        psutil.wait_procs(doomed)
        self._supervisor.close()
        return len(doomed)

    def signal(self, process: str, number: signal.Signals) -> None:
        """Send a signal to a process."""
        os.kill(self.pid(process), number)

    async def stop(self, process: str) -> None:
        """Stop a process by supervisor; it stays stopped."""
        await asyncio.to_thread(self._supervisor.stop, process)

    async def start(self, process: str) -> None:
        """Start a stopped process."""
        await asyncio.to_thread(self._supervisor.start, process)

    async def kill_for_good(self, process: str) -> None:
        """`kill -9` a process and let supervisor not bring it back."""
        self.signal(process, signal.SIGKILL)
        await self.stop(process)

    async def restart(self, service: str, process: str) -> None:
        """SIGTERM a process, and wait until its successor passes."""
        old = psutil.Process(self.pid(process))
        old.terminate()
        await asyncio.to_thread(old.wait, 30)
        await self._until(lambda: self._successor_passes(service, process, old.pid), 30)

    async def _successor_passes(self, service: str, process: str, old: int) -> bool:
        running = {s.name: s.pid for s in self._supervisor.states()}
        return running[process] not in {0, old} and await self._is_passing(service, process)

    def memory(self) -> dict[str, float]:
        """Resident memory of every process, in MiB."""
        return {
            s.name: psutil.Process(s.pid).memory_info().rss / 2**20
            for s in self._supervisor.states()
            if s.pid
        }

    async def _until(self, condition: Any, patience: float) -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(patience):
            while not await condition():
                await asyncio.sleep(POLL)
        return loop.time() - began


def _instance(entry: dict[str, Any]) -> Instance:
    service = entry["Service"]
    metrics_port = service["Meta"].get("metrics_port")
    return Instance(
        service=service["Service"],
        instance_id=service["ID"],
        address=service["Address"] or entry["Node"]["Address"],
        port=service["Port"],
        version=service["Meta"].get("version", ""),
        metrics_port=int(metrics_port) if metrics_port else None,
        status=worst(check["Status"] for check in entry["Checks"]),
    )
