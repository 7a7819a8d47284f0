from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio
from prometheus_client import CollectorRegistry

from consulmesh.channel import MeshChannel
from consulmesh.context import CallContext, TraceContext, use, within
from consulmesh.metrics import RpcMetrics
from consulmesh.testing import channel_to, running, serving
from tests.consulmesh.echo import Context, EchoStub, add_echo, text, until


class Upstream:
    """Remembers what reached it; streams go on until somebody ends them."""

    def __init__(self) -> None:
        self.calls = 0
        self.remaining: float | None = None
        self.metadata: dict[str, str] = {}
        self.ended = asyncio.Event()

    async def unary(self, request: StringValue, context: Context) -> StringValue:
        """Answers at once."""
        self._seen(context)
        return request

    async def spread(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        """Repeats the request without end."""
        self._seen(context)
        try:
            while True:
                yield request
                await asyncio.sleep(0.001)
        finally:
            self.ended.set()

    async def chat(
        self, requests: AsyncIterator[StringValue], context: Context
    ) -> AsyncIterator[StringValue]:
        """Echoes."""
        self._seen(context)
        try:
            async for request in requests:
                yield request
        finally:
            self.ended.set()

    async def collect(self, requests: AsyncIterator[StringValue], context: Context) -> StringValue:
        """Joins."""
        self._seen(context)
        try:
            return text("".join([request.value async for request in requests]))
        finally:
            self.ended.set()

    def _seen(self, context: Context) -> None:
        self.calls += 1
        self.remaining = context.time_remaining()
        self.metadata = {
            key: str(value) for key, value in tuple(context.invocation_metadata() or ())
        }


@pytest.fixture
def upstream() -> Upstream:
    """Who is called."""
    return Upstream()


@pytest.fixture
async def port(upstream: Upstream) -> AsyncIterator[int]:
    """Where it listens."""
    handlers: dict[str, Any] = {
        name: getattr(upstream, name) for name in ("unary", "spread", "chat", "collect")
    }
    async with running(add_echo(**handlers)) as (_, port):
        yield port


@pytest.fixture
async def stub(port: int) -> AsyncIterator[EchoStub]:
    """Its client."""
    async with channel_to(port) as channel:
        yield EchoStub(channel)


async def test_a_unary_call_without_any_deadline_gets_five_seconds(
    upstream: Upstream, stub: EchoStub
) -> None:
    """No call waits forever because nobody thought of it."""
    await stub.Unary(text("x"))

    assert upstream.remaining is not None
    assert 4.5 < upstream.remaining <= 5.05  # gRPC rounds up on the wire


async def test_a_stream_without_any_deadline_has_none(upstream: Upstream, stub: EchoStub) -> None:
    """Watches may last."""
    call = stub.Spread(text("x"))
    await call.read()
    call.cancel()

    assert upstream.remaining is None


@pytest.mark.parametrize(
    ("explicit", "route", "deadline", "least"),
    [
        (2.0, None, None, 2.0),
        (None, 1.5, None, 1.5),
        (2.0, 1.5, None, 1.5),
        (1.0, 1.5, 3.0, 1.0),
        (2.0, 1.5, 0.5, 0.495),
        (None, None, 20.0, 19.8),
        (None, 30.0, None, 30.0),
    ],
)
async def test_the_least_of_all_limits_counts(
    upstream: Upstream,
    port: int,
    explicit: float | None,
    route: float | None,
    deadline: float | None,
    least: float,
) -> None:
    """A call's own timeout, its route's, and what is left of the deadline less a margin."""
    context = CallContext(
        deadline=None if deadline is None else time.monotonic() + deadline, request_id="r"
    )
    async with channel_to(port, route_timeouts=lambda _method: route) as channel:
        with use(context):
            await EchoStub(channel).Unary(text("x"), timeout=explicit)

    assert upstream.remaining is not None
    assert least - 0.3 < upstream.remaining <= least * 1.02  # gRPC rounds up on the wire


@pytest.mark.parametrize(("seconds", "explicit"), [(0.0, None), (0.004, 5.0), (-1.0, None)])
async def test_a_call_with_no_time_left_is_not_sent(
    upstream: Upstream, stub: EchoStub, seconds: float, explicit: float | None
) -> None:
    """It fails as DEADLINE_EXCEEDED, and the upstream hears nothing of it."""
    with within(seconds), pytest.raises(aio.AioRpcError) as caught:
        await stub.Unary(text("x"), timeout=explicit)

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "No time is left" in (caught.value.details() or "")
    assert upstream.calls == 0


@pytest.mark.parametrize("kind", ["Unary", "Spread", "Collect", "Chat"])
async def test_no_kind_of_call_is_sent_without_time(
    upstream: Upstream, stub: EchoStub, kind: str
) -> None:
    """A timeout of nothing fails all four kinds before they begin."""
    with pytest.raises(aio.AioRpcError) as caught:
        getattr(stub, kind)(text("x"), timeout=0)

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert upstream.calls == 0


async def test_what_a_caller_says_itself_wins(upstream: Upstream, stub: EchoStub) -> None:
    """Own metadata is sent as it is, and only what is missing is added."""
    trace = TraceContext.root().traceparent()
    own: Sequence[tuple[str, str]] = (("traceparent", trace), ("x-own", "1"))
    await stub.Unary(text("x"), metadata=own)
    sent = upstream.metadata
    await stub.Unary(text("x"), metadata=aio.Metadata(*own))

    assert (sent["traceparent"], sent["x-own"], sent["mesh-caller"]) == (trace, "1", "test")
    assert upstream.metadata["traceparent"] == trace


async def test_defaults_are_not_sent(upstream: Upstream, stub: EchoStub) -> None:
    """What the receiver assumes anyway costs nothing on the wire."""
    await stub.Unary(text("x"))

    assert {"traceparent", "mesh-caller"} <= set(upstream.metadata)
    assert not {"x-request-id", "mesh-criticality", "authorization"} & set(upstream.metadata)


async def test_all_kinds_of_call_give_their_messages(stub: EchoStub) -> None:
    """The handles of streaming calls read, write and iterate as gRPC's own."""
    requests = [text("a"), text("b")]
    collected = await stub.Collect(iter(requests))
    chatted = [message.value async for message in stub.Chat(iter(requests))]
    call = stub.Chat()
    await call.write(text("c"))
    read = await call.read()
    await call.done_writing()
    end = await call.read()
    writer = stub.Collect()
    await writer.write(text("d"))
    await writer.done_writing()

    assert collected.value == "ab"
    assert chatted == ["a", "b"]
    assert read.value == "c"
    assert end is aio.EOF
    assert (await writer).value == "d"
    assert await call.code() is grpc.StatusCode.OK
    assert (await call.trailing_metadata())["mesh-instance"] == "tested-1/0.0.0"


@pytest.mark.parametrize("kind", ["Spread", "Chat", "Collect"])
async def test_a_stream_that_nobody_holds_is_cancelled(
    upstream: Upstream, stub: EchoStub, kind: str
) -> None:
    """Its handler ends although the channel stays open."""
    call = getattr(stub, kind)(text("x")) if kind == "Spread" else getattr(stub, kind)()
    if kind != "Spread":
        await call.write(text("x"))
    if kind != "Collect":
        await call.read()
    await until(lambda: upstream.calls == 1)
    open_still = not upstream.ended.is_set()
    del call
    gc.collect()
    await asyncio.wait_for(upstream.ended.wait(), 20)

    assert open_still
    assert upstream.calls == 1


async def test_a_stream_is_held_by_whoever_iterates_over_it(stub: EchoStub) -> None:
    """A collection in the middle does not end a stream that is being read."""
    got = 0
    async for _ in stub.Spread(text("x")):
        gc.collect()
        got += 1
        if got == 5:
            break

    assert got == 5


async def test_an_awaited_upload_is_held_by_whoever_awaits_it(stub: EchoStub) -> None:
    """The handle lives while its result is awaited."""

    async def slowly() -> AsyncIterator[StringValue]:
        for value in "abc":
            await asyncio.sleep(0.005)
            gc.collect()
            yield text(value)

    assert (await stub.Collect(slowly())).value == "abc"


async def test_calls_are_counted_by_outcome(upstream: Upstream, port: int) -> None:
    """The metrics of a client say upstream, method, code and duration, and what is active."""
    registry = CollectorRegistry()

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(
            name, {"server_address": "up", "rpc_method": "test.v1.EchoService/Unary", **labels}
        )

    async with channel_to(port, upstream="up", metrics=RpcMetrics(registry)) as channel:
        stub = EchoStub(channel)
        await stub.Unary(text("x"))
        pending = stub.Unary(text("x"))
        active = value("rpc_client_active_calls")
        pending.cancel()
        with pytest.raises(aio.AioRpcError):
            await stub.Unary(text("x"), timeout=0)
        call = stub.Spread(text("x"))
        await call.read()
        call.cancel()

    total = "rpc_client_call_duration_seconds_count"
    assert active == 1
    assert value("rpc_client_active_calls") == 0
    assert value(total, rpc_response_status_code="OK") == 1
    assert value(total, rpc_response_status_code="CANCELLED") == 1
    assert value(total, rpc_response_status_code="DEADLINE_EXCEEDED") == 1
    assert upstream.calls == 2


async def test_a_channel_is_one_of_grpcs() -> None:
    """Generated stubs, readiness and states work on it; closing twice is allowed."""
    async with serving(add_echo()) as channel:
        await channel.channel_ready()
        state = channel.get_state()
        await channel.close()

    assert isinstance(channel, aio.Channel)
    assert state is grpc.ChannelConnectivity.READY
    assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
    assert repr(channel) == "<MeshChannel test -> tested>"


async def test_an_upstream_that_is_away_fails_as_unavailable() -> None:
    """At once, and not when the time is up."""
    channel = MeshChannel(
        aio.insecure_channel("127.0.0.1:1"),
        upstream="away",
        caller="test",
        metrics=RpcMetrics(CollectorRegistry()),
    )
    async with channel:
        with pytest.raises(aio.AioRpcError) as caught:
            await EchoStub(channel).Unary(text("x"))

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
