"""How long a call waited before it was taken up, as its server knows it."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio
from hypothesis import given
from hypothesis import strategies as st

from consulmesh.propagation import TIMEOUT, Incoming, _on_the_wire, sendable
from consulmesh.testing import channel_to, running
from tests.consulmesh.echo import SERVICE, Context, EchoStub, add_echo, text

GRAIN = 0.003  # seconds: gRPC core's deadlines have milliseconds, at either end
BUSY_SECONDS = 0.05
ROUND = [0.05, 0.3, 1.0, 2.5, 5.0, 9.99, 10.0, 33.3, 99.9, 100.0, 250.0, 999.0]
"""Timeouts that gRPC can send as they are, and would often send a step longer."""
BETWEEN = [0.9995, 1.005, 2.345, 9.995, 10.05, 12.345, 33.333, 99.95, 100.5, 250.5, 998.5]
"""And some that it cannot."""


class Waits:
    """Admits every call, and remembers what each said about its wait, and when it was taken up."""

    def __init__(self) -> None:
        self.waited: list[float | None] = []
        self.at = 0.0

    def admit(self, _method: str, call: Incoming) -> None:
        """Looks, as an admission does."""
        self.at = time.monotonic()
        self.waited.append(call.waited)


async def echo(request: StringValue, _context: Context) -> StringValue:
    """Answers what it was asked."""
    return request


@pytest.fixture
def waits() -> Waits:
    """What the server saw."""
    return Waits()


@pytest.fixture
async def port(waits: Waits) -> AsyncIterator[int]:
    """Where it listens."""
    async with running(add_echo(unary=echo), admission=waits) as (_, port):
        yield port


@pytest.fixture
async def stub(port: int) -> AsyncIterator[EchoStub]:
    """Its client, connected."""
    async with channel_to(port) as channel:
        await channel.channel_ready()
        yield EchoStub(channel)


async def test_what_an_idle_server_takes_up_has_hardly_waited(waits: Waits, stub: EchoStub) -> None:
    """For a timeout of any size: never less than nothing, nor more than it can have been.

    gRPC core sends hundredths, so that a wait may be too large by that much where a moment on the
    client's side took the timeout below a step.
    """
    source = random.Random(1)
    timeouts = [*ROUND, *BETWEEN, *(10 ** source.uniform(-1, 2.99) for _ in range(200))]
    most = []
    for timeout in timeouts:
        made = await taken_up(waits, stub, timeout)
        most.append(waits.at - made + timeout / 100 + GRAIN)
    known = [waited for waited in waits.waited if waited is not None]
    wrong = [
        seen for seen in zip(timeouts, known, most, strict=True) if not 0 <= seen[1] <= seen[2]
    ]

    assert not wrong
    # nearly always it is not
    assert sorted(known)[len(known) // 2] <= sorted(most)[len(most) // 2]


async def taken_up(waits: Waits, stub: EchoStub, seconds: float) -> float:
    """Make a call that is answered in time; returns when it was made.

    One that a busy machine has kept too long is made again, and forgotten.
    """
    before = len(waits.waited)
    while True:
        made = time.monotonic()
        try:
            await stub.Unary(text("x"), timeout=seconds)
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            await stub.Unary(text("x"), timeout=20)  # after it on the same connection
            del waits.waited[before:]
        else:
            return made


@pytest.mark.parametrize("seconds", [each for each in (*ROUND, *BETWEEN) if each > BUSY_SECONDS])
async def test_what_waited_says_so(waits: Waits, stub: EchoStub, seconds: float) -> None:
    """While the server's event loop is busy, a call waits in gRPC core and counts the time."""
    await stub.Unary(text("x"))
    made = time.monotonic()
    call = asyncio.ensure_future(stub.Unary(text("x"), timeout=seconds))
    await asyncio.sleep(0)  # now it is under way
    time.sleep(BUSY_SECONDS)  # noqa: ASYNC251 - this is what the call has to wait for
    await call
    (_, waited), in_all = waits.waited, waits.at - made

    assert waited is not None
    assert BUSY_SECONDS - 2 * GRAIN <= waited <= in_all + seconds / 200 + GRAIN


async def test_other_clients_do_not_say(waits: Waits, port: int) -> None:
    """A plain grpc.aio tells a server what is left, not what there was."""
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        plain = EchoStub(channel)
        await plain.Unary(text("x"), timeout=5)
        await plain.Unary(text("x"))
        await plain.Unary(text("x"), metadata=((TIMEOUT, "5000"),))  # but there is no deadline

    assert waits.waited == [None] * 3


async def test_a_retry_does_not_say(waits: Waits) -> None:
    """Retries of gRPC core have less time left, and the header of the first attempt."""
    attempts = 0

    async def flaky(request: StringValue, context: Context) -> StringValue:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return request

    config = {
        "methodConfig": [
            {
                "name": [{"service": SERVICE}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.01s",
                    "maxBackoff": "0.01s",
                    "backoffMultiplier": 1,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
    options = [("grpc.service_config", json.dumps(config))]
    async with (
        running(add_echo(unary=flaky), admission=waits) as (_, port),
        aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel,
    ):
        await EchoStub(channel).Unary(text("x"), timeout=5, metadata=((TIMEOUT, "5000"),))

    assert attempts == 3
    assert [waited is None for waited in waits.waited] == [False, True, True]


@pytest.mark.parametrize(
    "said", ["", "soon", "-5000", "5000.0", "5e3", " 5000", "5000ms", "\u0665", "9" * 40, b"5000"]
)
def test_what_is_not_well_formed_says_nothing(said: str | bytes) -> None:
    """What a peer sends is not believed, and never an error."""
    assert Incoming(((TIMEOUT, said),), 4.0, 0.0).waited is None


def test_a_timeout_that_grpc_rounds_more_says_nothing() -> None:
    """From 1000 s on it sends minutes and hours: nobody could tell a wait from the rounding."""
    assert Incoming(((TIMEOUT, "999000"),), 998.0, 0.0).waited == 1.0
    assert Incoming(((TIMEOUT, "1001000"),), 1000.0, 0.0).waited is None


@given(st.floats(0.0, 999.999))
def test_a_timeout_is_moved_away_from_the_edges_of_steps(seconds: float) -> None:
    """Hardly, and never to a longer one; a few milliseconds more or less are sent as the same."""
    moved = sendable(seconds)
    sent = _on_the_wire(moved)

    assert seconds * 1000 * 0.993 - 1 < moved <= seconds * 1000
    assert moved not in (998, 999)  # a millisecond more may be sent as 1.01 s
    assert moved < 1000 or {_on_the_wire(moved + more) for more in (-3, 3)} <= {sent}


@given(
    st.lists(
        st.tuples(
            st.sampled_from([TIMEOUT, "grpc-previous-rpc-attempts", "other"]),
            st.text(max_size=12) | st.integers(0, 10**10).map(str) | st.binary(max_size=4),
        ),
        max_size=4,
    ),
    st.none() | st.floats(-1, 1e7),
)
def test_no_metadata_makes_a_wait_negative(metadata: list[Any], remaining: float | None) -> None:
    """Also where a client says less than it sent."""
    waited = Incoming(metadata, remaining, 0.0).waited

    assert waited is None or waited >= 0
