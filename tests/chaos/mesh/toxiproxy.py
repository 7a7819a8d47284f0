"""Toxiproxy as a process: proxies on loopback whose connections can be made slow, mute or cut.

The program is TOXIPROXY_BIN or the copy in `.tools/bin`; where there is neither it is built, if
there is a Go toolchain to do it. Source: https://github.com/Shopify/toxiproxy
"""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from consulmesh.testing.ports import free_port
from tools.binaries import BIN, get, go_on_path

PATIENCE: Final = 30.0  # seconds in which it starts


class Proxy:
    """One listener that passes on to one address; `port` is where it listens."""

    def __init__(self, http: aiohttp.ClientSession, name: str, port: int) -> None:
        self.port = port
        self._http = http
        self._path = f"/proxies/{name}"

    async def open(self, *, enabled: bool = True) -> None:
        """Pass on; or close the port and cut all connections."""
        await self._http.post(self._path, json={"enabled": enabled})

    async def lead_to(self, port: int) -> None:
        """Pass on to another port of loopback; connections that there are, are cut."""
        await self._http.post(self._path, json={"upstream": f"127.0.0.1:{port}"})

    @asynccontextmanager
    async def toxic(self, kind: str, *streams: str, **attributes: int) -> AsyncIterator[None]:
        """Give what passes a toxic for the block, on each of the streams: upstream, downstream."""
        names = [await self._add(kind, stream, attributes) for stream in streams]
        try:
            yield
        finally:
            for name in names:
                await self._http.delete(f"{self._path}/toxics/{name}")

    async def _add(self, kind: str, stream: str, attributes: dict[str, int]) -> str:
        toxic: dict[str, Any] = {"type": kind, "stream": stream, "attributes": attributes}
        async with self._http.post(f"{self._path}/toxics", json=toxic) as answer:
            name: str = (await answer.json())["name"]
        return name


class Toxiproxy:
    """A running Toxiproxy."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self._names = map("proxy-{}".format, itertools.count(1))

    async def proxy(self, upstream_port: int, *, port: int = 0) -> Proxy:
        """Listen on a port, a free one unless it is given, for one on loopback."""
        name = next(self._names)
        proxy = {
            "name": name,
            "listen": f"127.0.0.1:{port}",
            "upstream": f"127.0.0.1:{upstream_port}",
            "enabled": True,
        }
        async with self._http.post("/proxies", json=proxy) as answer:
            listen: str = (await answer.json())["listen"]
        return Proxy(self._http, name, int(listen.rpartition(":")[2]))


def toxiproxy_program() -> Path | None:
    """Return the program, which is built if need be; None where it can't be."""
    named = os.environ.get("TOXIPROXY_BIN")
    found = Path(named) if named else BIN / "toxiproxy"
    if found.is_file():
        return found
    return get("toxiproxy") if go_on_path() else None


@asynccontextmanager
async def toxiproxy(program: Path) -> AsyncIterator[Toxiproxy]:
    """Run it for the block."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        program,
        *("-host", "127.0.0.1", "-port", str(port)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with aiohttp.ClientSession(url, raise_for_status=True) as http:
            await _answers(http)
            yield Toxiproxy(http)
    finally:
        process.kill()
        await process.wait()


async def _answers(http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await http.get("/version")
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)
            else:
                return
