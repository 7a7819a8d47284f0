"""What a quote that has run out is answered with, and which clock says that it has."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from consulmesh.errors import Status
from consulmesh.wellknown import timestamp
from flights.pricing.v1 import pricing_pb2 as pb
from flights.schedule.v1 import schedule_pb2
from tests.pricing.conftest import World
from tests.pricing.test_servicer import made, redemption, refusal
from tests.pricing.timetable import flight, removed

MINUTE = timedelta(minutes=1)


def redeem(
    world: World, quote: pb.Quote, at: datetime | None = None, booking_id: str = "bkg_1"
) -> Any:
    """Redeem a quote for a booking that was accepted at that instant, or now."""
    request = redemption(quote, booking_id)
    request.accept_time.CopyFrom(timestamp(at or world.clock()))
    return world.stub.RedeemQuote(request)


async def fresh(world: World, refused: Status) -> pb.Quote:
    """The quote that a refusal offers."""
    request = pb.GetQuoteRequest(quote_id=refused.metadata["fresh_quote_id"])
    return (await world.stub.GetQuote(request)).quote


@pytest.mark.parametrize(
    ("available", "dearer"), [(100, False), (10, True)], ids=["same price", "dearer"]
)
async def test_an_expired_quote_is_refused_at_any_price(
    world: World, available: int, *, dearer: bool
) -> None:
    """The fresh quote is at the price of now, also where that has not changed."""
    await world.fly(flight())
    old = await made(world)
    world.clock.forward(11 * MINUTE)
    await world.fly(flight(version=2, available=available))
    refused = await refusal(redeem(world, old))
    offered = await fresh(world, refused)
    bound = (await redeem(world, offered, booking_id="bkg_2")).quote

    assert refused.reason == "QUOTE_EXPIRED"
    assert (offered.total.units > old.total.units) == dearer
    assert bound.total == offered.total
    assert offered.expire_time == timestamp(world.clock() + 10 * MINUTE)


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        (flight(version=2, available=1), "SEATS_UNAVAILABLE"),
        (flight(version=2, cancelled=True), "FLIGHT_CANCELLED"),
        (flight(version=2, days=0), "FLIGHT_DEPARTED"),
        (None, "FLIGHT_NOT_FOUND"),
    ],
    ids=["sold out", "cancelled", "departed", "gone"],
)
async def test_where_no_quote_can_be_made_the_refusal_says_why(
    world: World, then: schedule_pb2.Flight | None, reason: str
) -> None:
    """It is QUOTE_EXPIRED all the same, with the reason beside it, and again when repeated."""
    await world.fly(flight())
    old = await made(world)
    world.clock.forward(11 * MINUTE)
    await (world.apply(removed("flt_a")) if then is None else world.fly(then))
    refused = [await refusal(redeem(world, old)) for _ in range(2)]

    assert [r.reason for r in refused] == ["QUOTE_EXPIRED"] * 2
    assert [r.metadata for r in refused] == [{"fresh_quote_refused": reason}] * 2
    assert "flt_a" in refused[0].message


async def test_duplicates_are_offered_one_fresh_quote(world: World) -> None:
    """Twenty at once, of one booking: one quote; another booking gets its own."""
    await world.fly(flight())
    old = await made(world)
    world.clock.forward(11 * MINUTE)
    refused = await asyncio.gather(*(refusal_of(redeem(world, old)) for _ in range(20)))
    other = await refusal(redeem(world, old, booking_id="bkg_2"))
    offered = {r.metadata["fresh_quote_id"] for r in refused}

    assert len(offered) == 1
    assert other.metadata["fresh_quote_id"] not in offered


async def refusal_of(call: Any) -> Status:
    """How a call fails, in a task of its own."""
    return await refusal(call)


@pytest.mark.parametrize("skew", [timedelta(hours=1), timedelta(days=1)])
async def test_a_slow_clock_at_the_caller_stretches_a_quote_by_ten_minutes(
    world: World, skew: timedelta
) -> None:
    """A booking that says that it was accepted long ago is believed for that long, not longer."""
    await world.fly(flight())
    first, second = await made(world, "one"), await made(world, "two")
    accepted = world.clock() - skew
    world.clock.forward(19 * MINUTE)
    bound = (await redeem(world, first, accepted)).quote
    world.clock.forward(MINUTE)
    refused = await refusal(redeem(world, second, accepted))
    again = (await redeem(world, first, accepted)).quote

    assert refused.reason == "QUOTE_EXPIRED"
    assert "fresh_quote_id" in refused.metadata
    assert bound == again


@pytest.mark.parametrize("skew", [timedelta(hours=1), timedelta(days=1)])
async def test_a_fast_clock_at_the_caller_is_refused_cleanly(world: World, skew: timedelta) -> None:
    """A booking from the future finds every quote expired; nothing is bound."""
    await world.fly(flight())
    quote = await made(world)
    refused = await refusal(redeem(world, quote, world.clock() + skew))
    after = (await world.stub.GetQuote(pb.GetQuoteRequest(quote_id=quote.quote_id))).quote

    assert refused.reason == "QUOTE_EXPIRED"
    assert after == quote


@pytest.mark.parametrize("step", [timedelta(days=-1), timedelta(hours=1), timedelta(days=1)])
async def test_a_clock_step_at_pricing_ends_in_a_clean_answer(
    world: World, step: timedelta
) -> None:
    """A quote of before the step is redeemed or refused, and one of after it is as any other."""
    await world.fly(flight())
    before = await made(world, "one")
    accepted = world.clock()
    world.clock.forward(step)
    outcome = await answer(redeem(world, before, accepted))
    after = await made(world, "two")
    bound = (await redeem(world, after, booking_id="bkg_2")).quote

    assert outcome == ("QUOTE_EXPIRED" if step > timedelta(0) else "")
    assert bound.booking_id == "bkg_2"


async def answer(call: Any) -> str:
    """The reason of a refusal; "" for yes."""
    results = await asyncio.gather(call, return_exceptions=True)
    failed = [r for r in results if isinstance(r, BaseException)]
    return Status.of(failed[0]).reason if failed else ""  # type: ignore[arg-type] # it is gRPC's
