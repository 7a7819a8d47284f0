"""How many connections one address may hold."""

import asyncio
from dataclasses import replace

import pytest

from gateway_bff.upstreams import Upstreams
from tests.gateway_bff.conftest import SETTINGS, Gateway, running_gateway
from tests.gateway_bff.fakes import Fakes

MOST = 3
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
ASK = b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n"


async def connected(gateway: Gateway, source: str = "127.0.0.1") -> Streams:
    """A connection that has been answered, or closed."""
    streams = await asyncio.open_connection("127.0.0.1", gateway.port, local_addr=(source, 0))
    streams[1].write(ASK)
    return streams


async def answered(streams: Streams) -> bool:
    """Whether an answer came before the end."""
    try:
        return (await asyncio.wait_for(streams[0].readline(), 10)).endswith(b"200 OK\r\n")
    except ConnectionResetError:
        return False


async def test_an_address_holds_so_many_connections_and_no_more(
    upstreams: tuple[Upstreams, Fakes],
) -> None:
    """One more is closed, those that are there go on, and one that ends makes room.

    Another address has connections of its own.
    """
    async with running_gateway(*upstreams, replace(SETTINGS, connections=MOST)) as gateway:
        held = [await connected(gateway) for _ in range(MOST)]
        served = [await answered(each) for each in held]
        excess = await connected(gateway)
        refused = not await answered(excess)
        elsewhere = await connected(gateway, "127.0.0.2")
        other = await answered(elsewhere)
        _, writer = held.pop()
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(10):
            while not await answered(again := await connected(gateway)):
                again[1].close()
        for _, writer in (*held, excess, elsewhere, again):
            writer.close()

    assert served == [True] * MOST
    assert refused
    assert other


@pytest.mark.parametrize("more", [{"connections": 0}, {"trusted_proxies": "127.0.0.0/8"}])
async def test_any_number_where_none_is_set_and_of_a_trusted_proxy(
    upstreams: tuple[Upstreams, Fakes], more: dict[str, object]
) -> None:
    """Behind a proxy, everybody's connections come from one address."""
    settings = replace(SETTINGS, **{"connections": 1, **more})  # type: ignore[arg-type]
    async with running_gateway(*upstreams, settings) as gateway:
        held = [await connected(gateway) for _ in range(MOST)]
        served = [await answered(each) for each in held]
        for _, writer in held:
            writer.close()

    assert served == [True] * MOST
