from pathlib import Path

from consulmesh.wellknown import amount, instant
from flights.booking.v1 import booking_pb2 as pb
from flights.pricing.v1 import pricing_pb2
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY
from tests.booking.system import booking_system
from tests.contracts.pricing_parties import FLIGHTS, PricingParty


async def test_price_changed(pricing: PricingParty, tmp_path: Path) -> None:
    """The fresh quote of a rejection is for the same party and flights, and can be booked."""
    url = f"sqlite:///{tmp_path}/booking.db"
    async with booking_system(tmp_path, url, pricing.channel) as system:
        system.schedule.capacity |= {(flight, CABIN_ECONOMY): 9 for flight in FLIGHTS}
        instance = await system.start(clock=pricing.now)
        request = await system.request(passengers=3, flights=FLIGHTS)
        old = await pricing.stub.GetQuote(pricing_pb2.GetQuoteRequest(quote_id=request.quote_id))
        await pricing.expire(old.quote)

        rejected = (await instance.stub.CreateBooking(request, metadata=system.user())).booking
        request.request_id = "again"
        request.quote_id = rejected.rejection.fresh_quote_id
        fresh = await pricing.stub.GetQuote(pricing_pb2.GetQuoteRequest(quote_id=request.quote_id))
        booked = (await instance.stub.CreateBooking(request, metadata=system.user())).booking

    assert rejected.rejection.reason == "PRICE_CHANGED"
    assert fresh.quote.expire_time.ToNanoseconds() > old.quote.expire_time.ToNanoseconds()
    assert booked.status == pb.BOOKING_STATUS_CONFIRMED
    assert [one.flight_id for one in booked.segments] == list(FLIGHTS)
    assert amount(booked.total) == amount(fresh.quote.total)
    assert len(booked.passengers) == 3


async def test_clocks_of_booking_and_pricing(pricing: PricingParty, tmp_path: Path) -> None:
    """A quote is judged by booking's clock at the acceptance, whatever pricing's says later."""
    url = f"sqlite:///{tmp_path}/booking.db"
    async with booking_system(tmp_path, url, pricing.channel) as system:
        system.schedule.capacity |= {(flight, CABIN_ECONOMY): 9 for flight in FLIGHTS}
        accepted = pricing.now()
        instance = await system.start(clock=lambda: accepted)
        request = await system.request(flights=FLIGHTS)
        old = await pricing.stub.GetQuote(pricing_pb2.GetQuoteRequest(quote_id=request.quote_id))
        await pricing.expire(old.quote)
        now = await pricing.stub.GetQuote(pricing_pb2.GetQuoteRequest(quote_id=request.quote_id))

        booking = (await instance.stub.CreateBooking(request, metadata=system.user())).booking

    in_time = accepted < instant(now.quote.expire_time)
    assert booking.rejection.reason == ("" if in_time else "PRICE_CHANGED")
