"""flights.pricing.v1.PricingService: messages to use cases and back."""

from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import aclosing
from typing import Final

import grpc

import eventstream
from eventstream import Feed
from flights.pricing.v1 import pricing_pb2 as pb
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceServicer
from pricing import messages, requests
from pricing.domain import errors
from pricing.service import Pricing

Unary = grpc.aio.ServicerContext

STATUS_CODES: Final[Mapping[type[Exception], grpc.StatusCode]] = {
    **eventstream.STATUS_CODES,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Refused: grpc.StatusCode.FAILED_PRECONDITION,
    errors.EtagMismatch: grpc.StatusCode.ABORTED,
    errors.RequestIdReused: grpc.StatusCode.INVALID_ARGUMENT,
}


class PricingServicer(PricingServiceServicer):
    """The service on the wire."""

    def __init__(self, pricing: Pricing, feed: Feed[pb.PriceEvent]) -> None:
        self._pricing = pricing
        self._feed = feed

    async def GetPrices(
        self,
        request: pb.GetPricesRequest,
        context: Unary[pb.GetPricesRequest, Awaitable[pb.GetPricesResponse]],
    ) -> pb.GetPricesResponse:
        """Prices of flights, by flight in the order of the request, then by cabin."""
        flights = await self._pricing.prices(requests.flight_ids(request))
        return pb.GetPricesResponse(
            prices=[
                messages.price_message(flight.state.flight_id, priced)
                for flight in flights
                for priced in flight.prices
                if request.cabin in {0, priced.cabin}
            ]
        )

    async def CreateQuote(
        self,
        request: pb.CreateQuoteRequest,
        context: Unary[pb.CreateQuoteRequest, Awaitable[pb.CreateQuoteResponse]],
    ) -> pb.CreateQuoteResponse:
        """A price that holds."""
        quote = await self._pricing.create_quote(*requests.quote_asked(request))
        return pb.CreateQuoteResponse(quote=messages.quote_message(quote))

    async def GetQuote(
        self,
        request: pb.GetQuoteRequest,
        context: Unary[pb.GetQuoteRequest, Awaitable[pb.GetQuoteResponse]],
    ) -> pb.GetQuoteResponse:
        """One quote."""
        quote = await self._pricing.quote(requests.quote_id(request))
        return pb.GetQuoteResponse(quote=messages.quote_message(quote))

    async def RedeemQuote(
        self,
        request: pb.RedeemQuoteRequest,
        context: Unary[pb.RedeemQuoteRequest, Awaitable[pb.RedeemQuoteResponse]],
    ) -> pb.RedeemQuoteResponse:
        """Bind a quote to one booking."""
        quote = await self._pricing.redeem(*requests.redemption(request))
        return pb.RedeemQuoteResponse(quote=messages.quote_message(quote))

    async def ReleaseQuote(
        self,
        request: pb.ReleaseQuoteRequest,
        context: Unary[pb.ReleaseQuoteRequest, Awaitable[pb.ReleaseQuoteResponse]],
    ) -> pb.ReleaseQuoteResponse:
        """Undo a redemption."""
        await self._pricing.release(*requests.release(request))
        return pb.ReleaseQuoteResponse()

    async def WatchPrices(
        self,
        request: pb.WatchPricesRequest,
        context: Unary[pb.WatchPricesRequest, AsyncIterator[pb.WatchPricesResponse]],
    ) -> AsyncIterator[pb.WatchPricesResponse]:
        """All prices unless they are not wanted, then every change."""
        cursor = request.cursor if request.HasField("cursor") else None
        async with aclosing(self._feed.watch(cursor, rows=not request.changes_only)) as batches:
            async for batch in batches:
                yield pb.WatchPricesResponse(
                    phase=batch.phase,
                    cursor=batch.cursor,
                    events=batch.events,
                    read_time=batch.read_time,
                )

    async def UpdateFare(
        self,
        request: pb.UpdateFareRequest,
        context: Unary[pb.UpdateFareRequest, Awaitable[pb.UpdateFareResponse]],
    ) -> pb.UpdateFareResponse:
        """Set the base fare of a route."""
        fare = await self._pricing.update_fare(*requests.fare_change(request))
        return pb.UpdateFareResponse(fare=messages.fare_message(fare))
