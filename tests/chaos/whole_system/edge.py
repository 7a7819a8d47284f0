"""What stands in front of several gateways: it asks whether they are ready, and balances."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from bench.subject import POLL

EVERY: Final = 0.25  # seconds between two looks at a gateway
HOST: Final = "gateways.test"
URL: Final = f"http://{HOST}"


class Edge(AbstractResolver):
    """Gateways behind one name. Each connection goes to the next one that is ready, once.

    As proxies do by default it keeps no connection, and asks /readyz all the time. All mutable
    state: which gateways are ready by their last answer.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self.ready: set[int] = set()
        self._ports = ports
        self._turn = itertools.cycle(ports)

    @classmethod
    @asynccontextmanager
    async def before(cls, ports: Sequence[int]) -> AsyncIterator["Edge"]:
        """Balance for the block, which begins when all are ready."""
        edge = cls(ports)
        async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
            looking = [group.create_task(edge._look(http, port)) for port in ports]
            for port in ports:
                await edge.until(port, ready=True)
            try:
                yield edge
            finally:
                for each in looking:
                    each.cancel()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[aiohttp.ClientSession]:
        """A client of `URL`."""
        connector = aiohttp.TCPConnector(
            resolver=self, use_dns_cache=False, force_close=True, limit=0
        )
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            yield http

    async def until(self, port: int, *, ready: bool, patience: float = 60) -> None:
        """Wait until a gateway is ready by its last answer, or is not."""
        async with asyncio.timeout(patience):
            while (port in self.ready) is not ready:  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(POLL)

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,
    ) -> list[ResolveResult]:
        """Return the gateway whose turn it is; OSError where none is ready."""
        assert host == HOST
        for _ in self._ports:
            if (chosen := next(self._turn)) in self.ready:
                break
        else:
            raise OSError("no gateway is ready")
        found: Any = {
            "hostname": host,
            "host": "127.0.0.1",
            "port": chosen,
            "family": family,
            "proto": 0,
            "flags": socket.AI_NUMERICHOST,
        }
        return [found]

    async def close(self) -> None:
        """There is nothing to close."""

    async def _look(self, http: aiohttp.ClientSession, port: int) -> None:
        """Ask one gateway all the time."""
        while True:
            try:
                async with http.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    ready = answer.status == 200
            except aiohttp.ClientError:
                ready = False
            (self.ready.add if ready else self.ready.discard)(port)
            await asyncio.sleep(EVERY)
