"""A real Consul agent for tests: a server of its own on loopback, gone when the test is over.

The program is CONSUL_BIN, `consul` on PATH, or the copy that the project keeps in `.tools/bin`.
"""

import asyncio
import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp

from consulmesh.testing.ports import free_ports

START_TIMEOUT = timedelta(seconds=60)
POLL = 0.02  # seconds; Consul has no way to say that it has a leader
SETTINGS = """
performance { raft_multiplier = 1 }
connect { enabled = true }
default_intention_policy = "deny"
disable_update_check = true
limits { http_max_conns_per_client = 2000 }
"""
SECURE = """
acl {
  enabled = true
  default_policy = "deny"
  tokens {
    initial_management = "%(token)s"
    agent = "%(token)s"
  }
}
"""


class RealConsul:
    """An agent that can be stopped, killed, paused and started again on the same ports.

    It is a cluster by itself unless `role` says otherwise, in words of Consul's command line. A
    secure one has ACLs that deny what nothing allows; `token` may do anything.
    """

    def __init__(
        self,
        program: Path,
        folder: Path,
        *,
        secure: bool = False,
        node: str = "test",
        role: Sequence[str] = ("-server", "-bootstrap-expect=1"),
    ) -> None:
        self.node = node
        self._program = program
        self._folder = folder
        self._role = role
        self._ports = free_ports(4)
        self.token = str(uuid.uuid4()) if secure else None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where its HTTP API listens."""
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def grpc(self) -> str:
        """Where its gRPC API listens, in plain text."""
        return f"127.0.0.1:{self._ports[-1]}"

    @property
    def rpc_address(self) -> str:
        """Where a server listens for other agents, as Consul names it."""
        return f"127.0.0.1:{self._ports[1]}"

    @property
    def gossip_address(self) -> str:
        """Where others join it."""
        return f"127.0.0.1:{self._ports[2]}"

    async def start(self, *, empty: bool = False) -> None:
        """Start it with the data it had or, `empty`, without, and wait until it has a leader."""
        if empty:
            shutil.rmtree(self._data, ignore_errors=True)
        self._data.mkdir(exist_ok=True)
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(), stdout=log, stderr=log, env={"PATH": os.environ["PATH"]}
            )
        await self._elected()

    async def stop(self) -> None:
        """End it with SIGTERM."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """End it with SIGKILL."""
        await self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it: connections stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _command(self) -> list[str]:
        http, server, serf, grpc = self._ports
        settings = self._folder / "settings.hcl"
        secure = SECURE % {"token": self.token} if self.token else ""
        settings.write_text(SETTINGS + secure)
        return [
            str(self._program),
            "agent",
            *self._role,
            f"-node={self.node}",
            "-bind=127.0.0.1",
            f"-data-dir={self._data}",
            f"-config-file={settings}",
            f"-http-port={http}",
            f"-server-port={server}",
            f"-serf-lan-port={serf}",
            f"-grpc-port={grpc}",
            *(f"-{name}-port=-1" for name in ("serf-wan", "dns", "grpc-tls")),
            "-log-level=warn",
        ]

    async def _elected(self) -> None:
        until = time.monotonic() + START_TIMEOUT.total_seconds()
        async with aiohttp.ClientSession() as session:
            while not await self._ready(session):
                if self._process is None or self._process.returncode is not None:
                    raise RuntimeError(f"Consul ended: {self._log.read_text()[-2000:]}")
                if time.monotonic() > until:
                    raise TimeoutError(f"Consul elects no leader: {self._log.read_text()[-2000:]}")
                await asyncio.sleep(POLL)

    async def _ready(self, session: aiohttp.ClientSession) -> bool:
        """Say whether it has a leader that has listed the agent itself."""
        try:
            headers = {"X-Consul-Token": self.token} if self.token else {}
            nodes_url = f"{self.url}/v1/catalog/nodes"
            async with session.get(nodes_url, headers=headers) as response:
                nodes: Any = await response.json() if response.status == HTTPStatus.OK else []
        except aiohttp.ClientError:
            return False
        return bool(nodes)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._signal(signal.SIGCONT)
            self._signal(number)
            await self._process.wait()
            self._process = None


def consul_program() -> Path | None:
    """Return the Consul program to use, None if there is none."""
    checkout = Path(__file__).resolve().parents[2] / ".tools" / "bin" / "consul"
    named = os.environ.get("CONSUL_BIN") or shutil.which("consul")
    found = Path(named) if named else checkout
    return found if found.is_file() else None


@asynccontextmanager
async def real_consul(*, secure: bool = False) -> AsyncIterator[RealConsul]:
    """Start a Consul server for the block. Raises FileNotFoundError where there is no program."""
    if (program := consul_program()) is None:
        raise FileNotFoundError("no Consul: set CONSUL_BIN, or run `make up` once to get it")
    with tempfile.TemporaryDirectory(prefix="consul-") as folder:
        consul = RealConsul(program, Path(folder), secure=secure)
        try:
            await consul.start()
            yield consul
        finally:
            await consul.kill()
