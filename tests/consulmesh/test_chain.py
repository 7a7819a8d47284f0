"""Three servers in a row: what travels with a call, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from consulmesh.context import CallContext, Criticality, TraceContext, current, remaining, use
from consulmesh.errors import Status
from consulmesh.logs import AccessRecord
from consulmesh.testing import channel_to, running
from tests.consulmesh.echo import EchoStub, add_echo, text, until

HOPS = 3
PATIENCE = 20  # seconds, less than the deadline of a call that is cancelled


class Chain:
    """Servers hop-1 → hop-2 → hop-3; the last one's handler waits until it is cancelled."""

    def __init__(self) -> None:
        self.contexts: dict[str, CallContext] = {}
        self.remaining: dict[str, float | None] = {}
        self.log: list[tuple[str, AccessRecord]] = []
        self.reached = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.answer: str | None = None  # instead of waiting

    async def last(self, _request: StringValue, _context: object) -> StringValue:
        """The innermost unary handler."""
        self._seen(f"hop-{HOPS}")
        if self.answer is None:
            await self._wait()
        return text(self.answer or "")

    async def last_stream(
        self, _request: StringValue, _context: object
    ) -> AsyncIterator[StringValue]:
        """The innermost streaming handler."""
        self._seen(f"hop-{HOPS}")
        yield text("first")
        await self._wait()

    def unary(self, hop: int, upstream: EchoStub) -> Callable[..., Awaitable[StringValue]]:
        """A handler between."""

        async def handler(request: StringValue, _context: object) -> Any:
            self._seen(f"hop-{hop}")
            return await upstream.Unary(request)

        return handler

    def spread(self, hop: int, upstream: EchoStub) -> Callable[..., AsyncIterator[StringValue]]:
        """A streaming handler between."""

        async def handler(request: StringValue, _context: object) -> AsyncIterator[StringValue]:
            self._seen(f"hop-{hop}")
            call = upstream.Spread(request)
            try:
                async for message in call:
                    yield message
            finally:
                call.cancel()

        return handler

    async def connected(self, stub: EchoStub) -> None:
        """Make one call through all servers, and forget it."""
        self.answer = "connected"
        await stub.Unary(text("x"))
        await self.settled()
        self.answer = None
        self.log.clear()

    async def settled(self) -> dict[str, str]:
        """The code that each server logged, once all have."""
        await until(lambda: len(self.log) >= HOPS)
        return {service: record.code for service, record in self.log}

    def logged(self, service: str, record: AccessRecord) -> None:
        """The access log of all servers."""
        self.log.append((service, record))

    def _seen(self, hop: str) -> None:
        self.contexts[hop] = current()
        self.remaining[hop] = remaining()

    async def _wait(self) -> None:
        self.reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@pytest.fixture
async def chain() -> AsyncIterator[tuple[Chain, EchoStub]]:
    """The servers, and the client of the first."""
    chain = Chain()
    async with AsyncExitStack() as stack:
        handlers: tuple[Any, Any] = (chain.last, chain.last_stream)
        for hop in range(HOPS, 0, -1):
            service = f"hop-{hop}"
            _, port = await stack.enter_async_context(
                running(
                    add_echo(unary=handlers[0], spread=handlers[1]),
                    service=service,
                    instance_id=f"{service}-1",
                    access_log=partial(chain.logged, service),
                )
            )
            channel = await stack.enter_async_context(
                channel_to(port, upstream=service, caller=f"hop-{hop - 1}", relay_token=hop == 2)
            )
            stub = EchoStub(channel)
            handlers = (chain.unary(hop - 1, stub), chain.spread(hop - 1, stub))
        yield chain, stub


async def test_the_deadline_shrinks_with_each_hop(chain: tuple[Chain, EchoStub]) -> None:
    """Each server has a little less than the one before, so that the innermost times out first."""
    seen, stub = chain
    seen.answer = "done"
    await stub.Unary(text("x"), timeout=10.0)
    first, second, third = (seen.remaining[f"hop-{hop}"] or 0 for hop in (1, 2, 3))

    # on the wire gRPC rounds a timeout up by at most 1 %; the margin is 1 % of what is left
    assert 10.1 >= first > second > third > 5.0
    assert first - second >= 0.05
    assert second - third >= 0.025


async def test_a_timeout_cancels_the_last_handler(chain: tuple[Chain, EchoStub]) -> None:
    """Nobody goes on working, and every server on the way logs what it was."""
    seen, stub = chain
    await seen.connected(stub)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Unary(text("x"), timeout=1)

    await asyncio.wait_for(seen.cancelled.wait(), PATIENCE)
    codes = await seen.settled()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert codes == dict.fromkeys(("hop-1", "hop-2", "hop-3"), "DEADLINE_EXCEEDED")


async def test_a_client_that_goes_away_cancels_the_last_handler(
    chain: tuple[Chain, EchoStub],
) -> None:
    """Cancellation reaches the third server long before its deadline, and is logged as one."""
    seen, stub = chain
    call = stub.Unary(text("x"), timeout=30)
    await seen.reached.wait()
    call.cancel()

    await asyncio.wait_for(seen.cancelled.wait(), PATIENCE)
    codes = await seen.settled()
    assert codes == dict.fromkeys(("hop-1", "hop-2", "hop-3"), "CANCELLED")


async def test_a_cancelled_task_cancels_the_last_handler(chain: tuple[Chain, EchoStub]) -> None:
    """It does not matter whether the call is cancelled or the task that awaits it."""
    seen, stub = chain
    task = asyncio.ensure_future(stub.Unary(text("x"), timeout=30))
    await seen.reached.wait()
    task.cancel()

    await asyncio.wait_for(seen.cancelled.wait(), PATIENCE)
    await seen.settled()
    assert task.cancelled()


async def test_a_reader_that_stops_cancels_the_stream_two_hops_away(
    chain: tuple[Chain, EchoStub],
) -> None:
    """Leaving the loop after the first message is enough: a stream without owner is cancelled."""
    seen, stub = chain
    async for _ in stub.Spread(text("x")):
        await seen.reached.wait()
        break

    await asyncio.wait_for(seen.cancelled.wait(), PATIENCE)
    codes = await seen.settled()
    assert codes == dict.fromkeys(("hop-1", "hop-2", "hop-3"), "CANCELLED")


async def test_trace_request_id_and_criticality_travel(chain: tuple[Chain, EchoStub]) -> None:
    """All hops share trace, id, criticality and baggage; each has its own span and caller."""
    seen, stub = chain
    seen.answer = "done"
    origin = CallContext(
        trace=TraceContext.root(),
        request_id="req-1",
        criticality=Criticality.SHEDDABLE,
        baggage="preview=1",
    )
    with use(origin):
        await stub.Unary(text("x"))
    contexts = [seen.contexts[f"hop-{hop}"] for hop in (1, 2, 3)]

    assert {context.trace.trace_id for context in contexts} == {origin.trace.trace_id}
    assert {context.request_id for context in contexts} == {"req-1"}
    assert {context.baggage for context in contexts} == {"preview=1"}
    assert {context.criticality for context in contexts} == {Criticality.SHEDDABLE}
    assert len({context.trace.span_id for context in [origin, *contexts]}) == 4
    assert [context.caller for context in contexts] == ["hop-0", "hop-1", "hop-2"]


async def test_a_token_goes_no_further_than_asked(chain: tuple[Chain, EchoStub]) -> None:
    """Only the channel to hop-2 relays tokens: hop-1 gets the one that was put there by hand."""
    seen, stub = chain
    seen.answer = "done"
    await stub.Unary(text("x"), metadata=(("authorization", "Bearer of-ann"),))

    assert [seen.contexts[f"hop-{hop}"].token for hop in (1, 2, 3)] == ["of-ann", "of-ann", None]


async def test_an_upstreams_unavailability_passes_through_all_hops(
    chain: tuple[Chain, EchoStub],
) -> None:
    """The client sees the innermost reason and not INTERNAL, from the instance that it called."""
    seen, stub = chain
    call = stub.Unary(text("x"), timeout=0.2)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call

    await seen.settled()
    status = Status.of(caught.value)
    assert status.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_chain_leaves_no_tasks(chain: tuple[Chain, EchoStub]) -> None:
    """After calls that end in every way, as many tasks run as before."""
    seen, stub = chain
    seen.answer = "done"
    await stub.Unary(text("x"))
    before = len(asyncio.all_tasks())
    seen.log.clear()

    seen.answer = None
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Unary(text("x"), timeout=0.05)
    async for _ in stub.Spread(text("x")):
        break
    task = asyncio.ensure_future(stub.Unary(text("x")))
    await asyncio.sleep(0.01)
    task.cancel()

    await until(lambda: len(asyncio.all_tasks()) <= before)
    assert task.cancelled()
