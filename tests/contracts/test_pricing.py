from datetime import datetime, timedelta
from decimal import Decimal

import grpc

from consulmesh.wellknown import amount, instant, timestamp
from flights.pricing.v1 import pricing_pb2 as pb
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY
from tests.contracts.pricing_parties import FLIGHTS, PricingParty
from tests.contracts.refusals import refusal, refused


async def quoted(pricing: PricingParty) -> pb.Quote:
    """A new quote for two on both flights."""
    segments = [pb.QuoteSegment(flight_id=flight, cabin=CABIN_ECONOMY) for flight in FLIGHTS]
    request = pb.CreateQuoteRequest(request_id="one", segments=segments, passengers=2)
    return (await pricing.stub.CreateQuote(request)).quote


def redeem(
    pricing: PricingParty,
    quote_id: str,
    *,
    booking: str = "bkg_1",
    epoch: int = 1,
    at: datetime | None = None,
) -> grpc.aio.UnaryUnaryCall[pb.RedeemQuoteRequest, pb.RedeemQuoteResponse]:
    """Ask for a quote, for a booking accepted at that instant or now."""
    return pricing.stub.RedeemQuote(
        pb.RedeemQuoteRequest(
            quote_id=quote_id,
            booking_id=booking,
            saga_epoch=epoch,
            accept_time=timestamp(at or pricing.now()),
        )
    )


def release(
    pricing: PricingParty, quote_id: str, *, booking: str = "bkg_1", epoch: int = 1
) -> grpc.aio.UnaryUnaryCall[pb.ReleaseQuoteRequest, pb.ReleaseQuoteResponse]:
    """Ask to undo a redemption."""
    return pricing.stub.ReleaseQuote(
        pb.ReleaseQuoteRequest(quote_id=quote_id, booking_id=booking, saga_epoch=epoch)
    )


async def got(pricing: PricingParty, quote_id: str) -> pb.Quote:
    """The quote as it is now."""
    return (await pricing.stub.GetQuote(pb.GetQuoteRequest(quote_id=quote_id))).quote


async def test_quote(pricing: PricingParty) -> None:
    """A quote says for how many it is, and its total is the sum of its lines for all of them."""
    quote = await quoted(pricing)

    found = await got(pricing, quote.quote_id)

    assert found == quote
    assert found.passengers == 2
    assert [line.flight_id for line in found.lines] == list(FLIGHTS)
    assert {one.currency_code for one in (found.total, found.lines[0].fare)} == {"USD"}
    each = sum((amount(line.fare) + amount(line.taxes) for line in found.lines), Decimal(0))
    assert amount(found.total) == 2 * each


async def test_unknown_quote(pricing: PricingParty) -> None:
    """A quote that does not exist can't be got, redeemed or released, and the reason says so."""
    reasons = [
        await refused(pricing.stub.GetQuote(pb.GetQuoteRequest(quote_id="quo_unknown"))),
        await refused(redeem(pricing, "quo_unknown")),
        await refused(release(pricing, "quo_unknown")),
    ]

    assert reasons == ["QUOTE_NOT_FOUND"] * 3


async def test_redeem(pricing: PricingParty) -> None:
    """Redeemed is what was quoted, bound to the booking."""
    quote = await quoted(pricing)

    redeemed = (await redeem(pricing, quote.quote_id)).quote

    assert redeemed.booking_id == "bkg_1"
    assert (redeemed.lines, redeemed.total) == (quote.lines, quote.total)
    assert await got(pricing, quote.quote_id) == redeemed


async def test_redeem_again(pricing: PricingParty) -> None:
    """A repetition, by a later epoch too, returns the first answer."""
    quote = await quoted(pricing)

    answers = [(await redeem(pricing, quote.quote_id, epoch=epoch)).quote for epoch in (1, 1, 2)]

    assert answers == [answers[0]] * 3


async def test_redeem_for_another(pricing: PricingParty) -> None:
    """A quote is redeemed by one booking; the other's release does not free it."""
    quote = await quoted(pricing)
    await redeem(pricing, quote.quote_id)

    reason = await refused(redeem(pricing, quote.quote_id, booking="bkg_2"))
    await release(pricing, quote.quote_id, booking="bkg_2")

    assert reason == "QUOTE_REDEEMED"
    assert (await got(pricing, quote.quote_id)).booking_id == "bkg_1"


async def test_accepted_in_time(pricing: PricingParty) -> None:
    """A quote is judged by when the booking was accepted, however late the saga asks."""
    quote = await quoted(pricing)
    accepted = instant(quote.create_time) + timedelta(seconds=1)
    other = instant(quote.expire_time)
    late = await refused(redeem(pricing, quote.quote_id, booking="bkg_2", at=other))

    redeemed = (await redeem(pricing, quote.quote_id, at=accepted)).quote

    assert late == "QUOTE_EXPIRED"
    assert redeemed.booking_id == "bkg_1"


async def test_expired(pricing: PricingParty) -> None:
    """An expired quote is refused with a fresh one for the same party, which can be redeemed."""
    quote = await quoted(pricing)
    await pricing.expire(quote)

    status = await refusal(redeem(pricing, quote.quote_id))
    fresh = (await redeem(pricing, status.metadata["fresh_quote_id"], booking="bkg_2")).quote

    assert (status.code, status.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "QUOTE_EXPIRED",
    )
    assert fresh.passengers == quote.passengers
    assert [line.flight_id for line in fresh.lines] == list(FLIGHTS)


async def test_redeem_again_after_expiry(pricing: PricingParty) -> None:
    """What was redeemed in time stays redeemed: a lost reply is repeated."""
    quote = await quoted(pricing)
    accepted = pricing.now()
    first = (await redeem(pricing, quote.quote_id, at=accepted)).quote
    await pricing.expire(quote)

    again = (await redeem(pricing, quote.quote_id, at=accepted)).quote

    assert again.booking_id == first.booking_id
    assert again.total == first.total


async def test_release(pricing: PricingParty) -> None:
    """A released quote is free for others, and for good lost to its booking."""
    quote = await quoted(pricing)
    await redeem(pricing, quote.quote_id)

    for _ in range(2):
        await release(pricing, quote.quote_id)
    reason = await refused(redeem(pricing, quote.quote_id))
    other = (await redeem(pricing, quote.quote_id, booking="bkg_2")).quote

    assert reason == "QUOTE_RELEASED"
    assert other.booking_id == "bkg_2"


async def test_release_before_redeem(pricing: PricingParty) -> None:
    """A release leaves a tombstone where nothing was redeemed: a late redemption fails."""
    quote = await quoted(pricing)
    await release(pricing, quote.quote_id)

    reason = await refused(redeem(pricing, quote.quote_id))

    assert reason == "QUOTE_RELEASED"
    assert not (await got(pricing, quote.quote_id)).booking_id


async def test_stale_epoch(pricing: PricingParty) -> None:
    """Once an epoch has spoken for a booking, every step of an older one is refused."""
    quote = await quoted(pricing)
    await redeem(pricing, quote.quote_id, epoch=2)

    reasons = [
        await refused(redeem(pricing, quote.quote_id, epoch=1)),
        await refused(release(pricing, quote.quote_id, epoch=1)),
    ]

    assert reasons == ["STALE_EPOCH"] * 2
    assert (await got(pricing, quote.quote_id)).booking_id == "bkg_1"


async def test_stale_epoch_of_a_tombstone(pricing: PricingParty) -> None:
    """A tombstone remembers its epoch too."""
    quote = await quoted(pricing)
    await release(pricing, quote.quote_id, epoch=3)

    assert await refused(release(pricing, quote.quote_id, epoch=2)) == "STALE_EPOCH"
