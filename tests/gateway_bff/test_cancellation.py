import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from starlette.types import Message

from gateway_bff.connection import ClientGone, Connected
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import SETTINGS, Gateway
from tests.gateway_bff.fakes import forever

QUOTE = {"itinerary_id": examples.ITINERARY, "passengers": 2}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_client_that_leaves_cancels_its_unary_call(gateway: Gateway, method: str) -> None:
    """Closing the connection while an upstream works cancels that work."""
    gateway.fakes.pricing.answers |= {"GetQuote": forever, "CreateQuote": forever}
    path = "/v1/quotes" if method == "POST" else f"/v1/quotes/{examples.QUOTE}"
    body = QUOTE if method == "POST" else None

    request = asyncio.create_task(gateway.client.request(method, path, json=body))
    await gateway.fakes.pricing.started.wait()
    request.cancel()
    gone = await asyncio.wait_for(gateway.fakes.pricing.cancelled.wait(), 20)

    assert gone
    (context,) = gateway.fakes.pricing.contexts
    assert context.deadline is not None
    assert time.monotonic() < context.deadline


async def test_an_upstream_that_hangs_is_504_in_time(impatient: Gateway) -> None:
    """With a budget of 800 ms, a quote from a pricing that does not answer fails after it."""
    impatient.fakes.pricing.answers["CreateQuote"] = forever

    begun = time.monotonic()
    async with impatient.client.post("/v1/quotes", json=QUOTE) as response:
        problem = await response.json()
    took = time.monotonic() - begun
    await asyncio.wait_for(impatient.fakes.pricing.cancelled.wait(), 20)

    assert response.status == 504
    assert problem["code"] == "DEADLINE_EXCEEDED"
    assert problem["type"] == "https://flightmesh.dev/problems/deadline-exceeded"
    assert 0.7 < took < 10


async def test_the_deadline_travels(gateway: Gateway) -> None:
    """The upstream learns what is left of the route's budget, which a hop takes one percent of."""
    gateway.fakes.pricing.answers["CreateQuote"] = examples.quote_created()

    begun = time.monotonic()
    async with gateway.client.post("/v1/quotes", json=QUOTE) as response:
        await response.read()
    ended = time.monotonic()
    (context,) = gateway.fakes.pricing.contexts
    budget = SETTINGS.budgets["quote"]

    assert response.status == 201
    assert context.deadline is not None
    assert begun + 0.95 * budget < context.deadline < ended + 1.02 * budget


class Line:
    """A connection whose client leaves when the test says so."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def receive(self) -> Message:
        """ASGI's receive: nothing, until the client leaves."""
        await self.left.wait()
        return {"type": "http.disconnect"}


@pytest.fixture
def line() -> Line:
    """A fresh one."""
    return Line()


async def test_work_of_a_client_that_is_there_is_not_touched(line: Line) -> None:
    """Without a disconnect the block runs to its end, watched or not."""
    with Connected(line.receive):
        await asyncio.sleep(0.01)
        done = True

    assert done


async def test_a_client_that_left_becomes_an_exception_of_its_own(line: Line) -> None:
    """The block is cancelled, its task is not."""
    line.left.set()

    with pytest.raises(ClientGone), Connected(line.receive):
        await asyncio.Event().wait()
    task = asyncio.current_task()

    assert task is not None
    assert task.cancelling() == 0


async def test_nobody_watches_a_short_request(line: Line) -> None:
    """The connection is looked at only after a while."""
    line.left.set()

    with Connected(line.receive, after=timedelta(seconds=1)):
        await asyncio.sleep(0.01)
        done = True

    assert done


async def test_another_cancellation_passes_through(line: Line) -> None:
    """Cancelling the task from elsewhere stays a cancellation."""
    begun = asyncio.Event()

    async def work() -> None:
        with Connected(line.receive):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)

    assert isinstance(outcome, asyncio.CancelledError)


async def test_an_answer_that_came_first_wins(line: Line) -> None:
    """Work that ends although its client left leaves no cancellation behind."""

    async def stubborn() -> AsyncIterator[int]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield 1

    line.left.set()
    with Connected(line.receive):
        async for each in stubborn():
            got = each
    await asyncio.sleep(0)
    task = asyncio.current_task()

    assert got == 1
    assert task is not None
    assert task.cancelling() == 0
