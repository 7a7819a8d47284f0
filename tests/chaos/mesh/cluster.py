"""A Consul cluster on loopback: three servers, and a client agent that services talk to."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from consulmesh.testing import RealConsul
from consulmesh.testing.real_consul import consul_program

SERVERS: Final = 3
POLL: Final = 0.02  # seconds; an election tells nobody
PATIENCE: Final = 60.0


class Cluster:
    """Agents that know each other; `agent` is the client agent."""

    def __init__(self, servers: list[RealConsul], agent: RealConsul) -> None:
        self.servers = servers
        self.agent = agent

    async def leader(self, *, other_than: RealConsul | None = None) -> RealConsul:
        """Wait until the client agent knows a leader, or another one; return it."""
        by_address = {server.rpc_address: server for server in self.servers}
        async with aiohttp.ClientSession(self.agent.url) as http, asyncio.timeout(PATIENCE):
            while True:
                async with http.get("/v1/status/leader") as answer:
                    address: Any = await answer.json() if answer.ok else ""
                leader = by_address.get(address)
                if leader is not None and leader is not other_than:
                    return leader
                await asyncio.sleep(POLL)


@asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    """Start a cluster for the block. Raises FileNotFoundError where there is no Consul."""
    if (program := consul_program()) is None:
        raise FileNotFoundError("no Consul: set CONSUL_BIN, or run `make up` once to get it")
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="consuls-")))

        def agent(node: str, *role: str) -> RealConsul:
            (folder / node).mkdir()
            made = RealConsul(program, folder / node, node=node, role=role)
            stack.push_async_callback(made.kill)
            return made

        first = agent("server-1", "-server", f"-bootstrap-expect={SERVERS}")
        join = f"-retry-join={first.gossip_address}", "-retry-interval=1s"
        others = [
            agent(f"server-{number}", "-server", f"-bootstrap-expect={SERVERS}", *join)
            for number in range(2, SERVERS + 1)
        ]
        client = agent("client", *join)
        made = Cluster([first, *others], client)
        await asyncio.gather(*(each.start() for each in (*made.servers, client)))
        yield made
