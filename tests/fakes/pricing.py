"""Pricing's part in a booking, in memory: CreateQuote, GetQuote, RedeemQuote and ReleaseQuote."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from consulmesh.wellknown import instant, money, timestamp
from flights.pricing.v1 import pricing_pb2 as pb
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceServicer
from tests.fakes.faults import Faults, NotFound, Refused

FARE = Decimal("180.00")
TAXES = Decimal("29.10")


class FakePricing(PricingServiceServicer):
    """Quotes at one price for everything. Other RPCs are UNIMPLEMENTED.

    State: `quotes` by id, `requests` by request id, `epochs` and `released` by quote and booking.
    """

    def __init__(self, lifetime: timedelta = timedelta(minutes=10)) -> None:
        self.faults = Faults()
        self.lifetime = lifetime
        self.quotes: dict[str, pb.Quote] = {}
        self.requests: dict[str, str] = {}
        self.epochs: Counter[tuple[str, str]] = Counter()
        self.released: set[tuple[str, str]] = set()

    def expire(self, quote_id: str) -> None:
        """Let a quote have run out a while ago."""
        past = datetime.now(UTC) - timedelta(hours=1)
        self.quotes[quote_id].expire_time.CopyFrom(timestamp(past))

    async def CreateQuote(
        self, request: pb.CreateQuoteRequest, context: Any
    ) -> pb.CreateQuoteResponse:
        """A price that holds."""
        async with self.faults.of("CreateQuote"):
            if request.request_id not in self.requests:
                quote = self._make(list(request.segments), request.passengers)
                self.requests[request.request_id] = quote.quote_id
            return pb.CreateQuoteResponse(quote=self.quotes[self.requests[request.request_id]])

    async def GetQuote(self, request: pb.GetQuoteRequest, context: Any) -> pb.GetQuoteResponse:
        """One quote."""
        async with self.faults.of("GetQuote"):
            return pb.GetQuoteResponse(quote=self._quote(request.quote_id))

    async def RedeemQuote(
        self, request: pb.RedeemQuoteRequest, context: Any
    ) -> pb.RedeemQuoteResponse:
        """Bind a quote to a booking."""
        async with self.faults.of("RedeemQuote"):
            quote = self._quote(request.quote_id)
            claim = self._see(request)
            if claim in self.released:
                raise Refused("QUOTE_RELEASED")
            if quote.booking_id not in {"", request.booking_id}:
                raise Refused("QUOTE_REDEEMED")
            if not quote.booking_id:
                self._check_valid(quote, instant(request.accept_time))
                quote.booking_id = request.booking_id
            return pb.RedeemQuoteResponse(quote=quote)

    async def ReleaseQuote(
        self, request: pb.ReleaseQuoteRequest, context: Any
    ) -> pb.ReleaseQuoteResponse:
        """Undo it, and leave a tombstone."""
        async with self.faults.of("ReleaseQuote"):
            quote = self._quote(request.quote_id)
            self.released.add(self._see(request))
            if quote.booking_id == request.booking_id:
                quote.booking_id = ""
            return pb.ReleaseQuoteResponse()

    def _quote(self, quote_id: str) -> pb.Quote:
        if quote_id not in self.quotes:
            raise NotFound("QUOTE_NOT_FOUND")
        return self.quotes[quote_id]

    def _see(self, request: pb.RedeemQuoteRequest | pb.ReleaseQuoteRequest) -> tuple[str, str]:
        claim = (request.quote_id, request.booking_id)
        if request.saga_epoch < self.epochs[claim]:
            raise Refused("STALE_EPOCH")
        self.epochs[claim] = request.saga_epoch
        return claim

    def _check_valid(self, quote: pb.Quote, accept_time: datetime) -> None:
        if accept_time < instant(quote.expire_time):
            return
        segments = [
            pb.QuoteSegment(flight_id=line.flight_id, cabin=line.cabin) for line in quote.lines
        ]
        fresh = self._make(segments, quote.passengers)
        raise Refused("QUOTE_EXPIRED", {"fresh_quote_id": fresh.quote_id})

    def _make(self, segments: list[pb.QuoteSegment], passengers: int) -> pb.Quote:
        now = datetime.now(UTC)
        quote = pb.Quote(
            quote_id=f"quo_{len(self.quotes):026d}",
            passengers=passengers,
            lines=[
                pb.QuoteLine(
                    flight_id=one.flight_id,
                    cabin=one.cabin,
                    fare=money(FARE, "USD"),
                    taxes=money(TAXES, "USD"),
                )
                for one in segments
            ],
            total=money((FARE + TAXES) * len(segments) * passengers, "USD"),
            create_time=timestamp(now),
            expire_time=timestamp(now + self.lifetime),
        )
        self.quotes[quote.quote_id] = quote
        return quote
