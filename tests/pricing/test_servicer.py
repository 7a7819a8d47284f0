import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import grpc
import pytest

from consulmesh.errors import Status
from consulmesh.wellknown import amount, money, timestamp
from flights.pricing.v1 import pricing_pb2 as pb
from flights.type.v1 import cabin_pb2
from streams.v1 import stream_pb2
from tests.pricing.conftest import World
from tests.pricing.timetable import NOW, flight, removed

ECONOMY = cabin_pb2.CABIN_ECONOMY


def asked(request_id: str = "one", passengers: int = 2, *flights: str) -> pb.CreateQuoteRequest:
    """A request for a quote."""
    segments = [pb.QuoteSegment(flight_id=f, cabin=ECONOMY) for f in flights or ("flt_a",)]
    return pb.CreateQuoteRequest(request_id=request_id, segments=segments, passengers=passengers)


def redemption(quote: pb.Quote, booking_id: str = "bkg_1", epoch: int = 1) -> pb.RedeemQuoteRequest:
    """A request to redeem a quote now."""
    return pb.RedeemQuoteRequest(
        quote_id=quote.quote_id,
        booking_id=booking_id,
        saga_epoch=epoch,
        accept_time=timestamp(NOW),
    )


async def refusal(call: Any) -> Status:
    """How a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return Status.of(raised.value)


async def made(world: World, *arguments: Any) -> pb.Quote:
    """A new quote."""
    return (await world.stub.CreateQuote(asked(*arguments))).quote


async def test_a_quote_is_the_price_that_search_shows(world: World) -> None:
    """The lines of a quote are the prices that GetPrices tells, and the total is their sum."""
    await world.fly(flight("flt_a"), flight("flt_b", origin="LAX", destination="SFO"))
    prices = (await world.stub.GetPrices(pb.GetPricesRequest(flight_ids=["flt_b", "flt_a"]))).prices
    quote = await made(world, "one", 2, "flt_a", "flt_b")
    economy = {p.flight_id: p for p in prices if p.cabin == ECONOMY}

    assert [p.flight_id for p in prices] == ["flt_b", "flt_b", "flt_a", "flt_a"]
    assert [line.fare for line in quote.lines] == [economy["flt_a"].fare, economy["flt_b"].fare]
    one = sum((amount(x.fare) + amount(x.taxes) for x in quote.lines), Decimal(0))
    assert amount(quote.total) == 2 * one
    assert quote.expire_time.seconds - quote.create_time.seconds == 600


async def test_a_request_id_makes_one_quote(world: World) -> None:
    """Asked 20 times at once it is one quote; with other content it is an error."""
    await world.fly(flight())
    quotes = await asyncio.gather(*(made(world, "same") for _ in range(20)))
    reused = await refusal(world.stub.CreateQuote(asked("same", 3)))

    assert len({quote.quote_id for quote in quotes}) == 1
    assert (reused.code, reused.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "REQUEST_ID_REUSED",
    )


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (flight(cancelled=True), "FLIGHT_CANCELLED"),
        (flight(days=-1), "FLIGHT_DEPARTED"),
        (flight(available=1), "SEATS_UNAVAILABLE"),
        (flight("flt_other"), "FLIGHT_NOT_FOUND"),
    ],
)
async def test_a_quote_needs_flights_that_can_be_flown(
    world: World, said: Any, reason: str
) -> None:
    """Each reason of the contract is told as such."""
    await world.fly(said)
    refused = await refusal(world.stub.CreateQuote(asked()))

    assert refused.reason == reason


async def test_a_request_is_checked_field_by_field(world: World) -> None:
    """One answer names everything that is wrong."""
    unknown = cabin_pb2.Cabin.ValueType(77)
    segments = [pb.QuoteSegment(flight_id="", cabin=unknown), pb.QuoteSegment(flight_id="")]
    wrong = pb.CreateQuoteRequest(segments=segments, passengers=10)
    refused = await refusal(world.stub.CreateQuote(wrong))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert {v.field for v in refused.violations} == {
        "request_id",
        "passengers",
        "segments",
        "segments[0].flight_id",
        "segments[0].cabin",
        "segments[1].flight_id",
        "segments[1].cabin",
    }


async def test_unknown_quotes_are_not_found(world: World) -> None:
    """By every RPC that takes one."""
    nothing = pb.Quote(quote_id="quo_none")
    release = pb.ReleaseQuoteRequest(quote_id="quo_none", booking_id="bkg_1", saga_epoch=1)
    calls = (
        world.stub.GetQuote(pb.GetQuoteRequest(quote_id="quo_none")),
        world.stub.RedeemQuote(redemption(nothing)),
        world.stub.ReleaseQuote(release),
    )
    refused = [await refusal(call) for call in calls]

    assert {(r.code, r.reason) for r in refused} == {(grpc.StatusCode.NOT_FOUND, "QUOTE_NOT_FOUND")}


async def test_redeeming_is_repeatable_and_exclusive(world: World) -> None:
    """The same booking gets the same answer, another is refused, a stale epoch too."""
    await world.fly(flight())
    quote = await made(world)
    first = await world.stub.RedeemQuote(redemption(quote, epoch=2))
    again = await world.stub.RedeemQuote(redemption(quote, epoch=2))
    other = await refusal(world.stub.RedeemQuote(redemption(quote, "bkg_2")))
    stale = await refusal(world.stub.RedeemQuote(redemption(quote, epoch=1)))

    assert first.quote.booking_id == "bkg_1"
    assert again == first
    assert (other.reason, stale.reason) == ("QUOTE_REDEEMED", "STALE_EPOCH")


async def test_an_expired_quote_offers_a_fresh_one(world: World) -> None:
    """The refusal names a quote at today's price, the same one however often it is asked."""
    await world.fly(flight())
    quote = await made(world)
    world.clock.forward(timedelta(minutes=11))
    late = redemption(quote)
    late.accept_time.CopyFrom(timestamp(world.clock()))
    first = await refusal(world.stub.RedeemQuote(late))
    again = await refusal(world.stub.RedeemQuote(late))
    fresh = await world.stub.GetQuote(pb.GetQuoteRequest(quote_id=first.metadata["fresh_quote_id"]))

    assert first.reason == "QUOTE_EXPIRED"
    assert again.metadata == first.metadata
    assert fresh.quote.passengers == 2
    assert fresh.quote.create_time == timestamp(world.clock())


async def test_a_release_leaves_a_tombstone_also_before_the_redemption(world: World) -> None:
    """A RedeemQuote that was overtaken by its compensation is refused; others may redeem."""
    await world.fly(flight())
    quote = await made(world)
    release = pb.ReleaseQuoteRequest(quote_id=quote.quote_id, booking_id="bkg_1", saga_epoch=1)
    await world.stub.ReleaseQuote(release)
    await world.stub.ReleaseQuote(release)
    late = await refusal(world.stub.RedeemQuote(redemption(quote)))
    other = await world.stub.RedeemQuote(redemption(quote, "bkg_2"))

    assert late.reason == "QUOTE_RELEASED"
    assert other.quote.booking_id == "bkg_2"


async def test_a_fare_moves_the_prices_of_its_route(world: World) -> None:
    """Doubling the base fare doubles the fares of the route once they are re-priced, no others."""
    await world.fly(flight(), flight("flt_b", origin="LAX", destination="JFK"))
    base = pb.UpdateFareRequest(
        request_id="r1", origin="JFK", destination="LAX", base=money(Decimal(100), "USD")
    )
    await world.stub.UpdateFare(base)
    await world.pricing.follow_fare()
    before = (await world.stub.GetPrices(pb.GetPricesRequest(flight_ids=["flt_a", "flt_b"]))).prices
    base.MergeFrom(pb.UpdateFareRequest(request_id="r2", base=money(Decimal(200), "USD")))
    fare = (await world.stub.UpdateFare(base)).fare
    followed = await world.pricing.follow_fare()
    after = (await world.stub.GetPrices(pb.GetPricesRequest(flight_ids=["flt_a", "flt_b"]))).prices

    assert (followed, fare.etag) == (True, "2")
    assert amount(after[0].fare) == 2 * amount(before[0].fare)
    assert [p.version for p in after] == [before[0].version + 1, before[1].version + 1, 1, 1]


async def test_a_fare_change_is_conditional_and_repeatable(world: World) -> None:
    """A stale etag is ABORTED, a repeated request id changes nothing, an unknown route is told."""
    await world.fly(flight())
    request = pb.UpdateFareRequest(
        request_id="r1", origin="JFK", destination="LAX", base=money(Decimal(100), "USD"), etag="0"
    )
    first = await world.stub.UpdateFare(request)
    again = await world.stub.UpdateFare(request)
    request.request_id = "r2"
    stale = await refusal(world.stub.UpdateFare(request))
    request.etag = "never-given"
    strange = await refusal(world.stub.UpdateFare(request))
    request.etag = "9" * 5000
    endless = await refusal(world.stub.UpdateFare(request))
    request.etag, request.destination = "", "XXX"
    unknown = await refusal(world.stub.UpdateFare(request))

    assert again == first
    assert (stale.code, stale.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert strange.reason == "ETAG_MISMATCH"
    assert [(v.field, v.reason) for v in endless.violations] == [("etag", "TOO_LONG")]
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "ROUTE_NOT_FOUND")


@pytest.mark.parametrize(
    "base",
    [
        money(Decimal(0), "USD"),
        money(Decimal(-1), "USD"),
        money(Decimal("0.001"), "USD"),
        money(Decimal(100), "EUR"),
        money(Decimal(10**9), "USD"),
    ],
    ids=["zero", "negative", "tenth of a cent", "euros", "a billion"],
)
async def test_a_base_fare_is_dollars_and_cents(world: World, base: Any) -> None:
    """Anything else names the field."""
    await world.fly(flight())
    refused = await refusal(
        world.stub.UpdateFare(
            pb.UpdateFareRequest(request_id="r", origin="JFK", destination="LAX", base=base)
        )
    )

    assert [v.field for v in refused.violations] == ["base"]


async def test_watchers_of_changes_only_get_no_prices_to_begin_with(world: World) -> None:
    """The end of the history is all that they are told before the first change."""
    await world.fly(flight("flt_a"))
    call = world.stub.WatchPrices(pb.WatchPricesRequest(changes_only=True))
    try:
        responses = aiter(call)
        first = [await anext(responses) for _ in range(3)]
    finally:
        call.cancel()

    assert [response.phase for response in first] == [
        stream_pb2.PHASE_SNAPSHOT_STARTED,
        stream_pb2.PHASE_SNAPSHOT_COMPLETED,
        stream_pb2.PHASE_BOOKMARK,
    ]
    assert not any(response.events for response in first)


async def test_watchers_get_all_prices_then_every_change(world: World) -> None:
    """A snapshot, then new prices, then the end of a flight; most sold seats are silent."""
    await world.fly(flight("flt_a"), flight("flt_b"))
    call = world.stub.WatchPrices(pb.WatchPricesRequest())
    try:
        responses = aiter(call)
        snapshot = [
            event.prices_changed
            async for response in until(responses, stream_pb2.PHASE_SNAPSHOT_COMPLETED)
            for event in response.events
        ]
        await world.fly(flight("flt_a", version=2, available=99))
        await world.fly(flight("flt_a", version=3, available=20))
        first = await anext(until(responses, stream_pb2.PHASE_EVENTS, only=True))
        await world.apply(removed("flt_b"))
        second = await anext(until(responses, stream_pb2.PHASE_EVENTS, only=True))
    finally:
        call.cancel()

    flown = flight("flt_a")
    assert [prices.flight_id for prices in snapshot] == ["flt_a", "flt_b"]
    for prices in (snapshot[0], first.events[0].prices_changed):
        assert (prices.origin, prices.destination) == (flown.origin, flown.destination)
        assert prices.departure_time == flown.departure_time
    assert [(e.prices_changed.flight_id, e.prices_changed.version) for e in first.events] == [
        ("flt_a", 2)
    ]
    assert [e.prices_removed.flight_id for e in second.events] == ["flt_b"]


async def until(responses: Any, phase: int, *, only: bool = False) -> Any:
    """Responses up to the first of a phase, or only that one."""
    async for response in responses:
        if not only or response.phase == phase:
            yield response
        if response.phase == phase:
            return
