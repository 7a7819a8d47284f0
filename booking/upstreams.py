"""Pricing and schedule as the saga sees them: each answer is yes, no, or not known.

A refusal is only what a contract names: FAILED_PRECONDITION or NOT_FOUND with one of the reasons
listed here, said by the service itself. STALE_EPOCH means that the saga has another owner. All else
(deadlines, lost connections, overload, errors nobody has thought of) leaves the outcome open.
"""

from collections.abc import Awaitable, Mapping
from datetime import timedelta
from typing import TypeVar

import grpc

from booking.domain import (
    Quote,
    QuoteNotFound,
    Refused,
    Rejection,
    Saga,
    Segment,
    Superseded,
    Unanswered,
)
from booking.messages import CURRENCY, cabin_message, cabin_value
from consulmesh import wellknown
from consulmesh.errors import Status
from flights.pricing.v1 import pricing_pb2
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceStub
from flights.schedule.v1 import schedule_pb2
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub

_T = TypeVar("_T")

_REFUSALS = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND)
_REDEEM = {
    "QUOTE_EXPIRED": "PRICE_CHANGED",
    "QUOTE_REDEEMED": "QUOTE_REDEEMED",
    "QUOTE_RELEASED": "QUOTE_RELEASED",
    "QUOTE_NOT_FOUND": "QUOTE_NOT_FOUND",
}
_HOLD = {
    "SEATS_UNAVAILABLE": "SEATS_UNAVAILABLE",
    "FLIGHT_CANCELLED": "FLIGHT_CANCELLED",
    "FLIGHT_DEPARTED": "FLIGHT_DEPARTED",
    "FLIGHT_NOT_FOUND": "FLIGHT_NOT_FOUND",
    "HOLD_RELEASED": "SEATS_UNAVAILABLE",
}
_CONFIRM = {
    "FLIGHT_CANCELLED": "FLIGHT_CANCELLED",
    "HOLD_EXPIRED": "SEATS_UNAVAILABLE",
    "HOLD_RELEASED": "SEATS_UNAVAILABLE",
    "HOLD_NOT_FOUND": "SEATS_UNAVAILABLE",
}


class PricingQuotes:
    """Quotes of the pricing service. Each step has so many seconds for its answer."""

    def __init__(self, channel: grpc.aio.Channel, deadline: float = 2.0) -> None:
        self._stub = PricingServiceStub(channel)
        self._deadline = deadline

    async def quote(self, quote_id: str) -> Quote:
        """One quote, for a handler: `QuoteNotFound`; other errors are the call's own."""
        request = pricing_pb2.GetQuoteRequest(quote_id=quote_id)
        try:
            response = await self._stub.GetQuote(request, timeout=self._deadline)
        except grpc.aio.AioRpcError as error:
            if Status.of(error).reason == "QUOTE_NOT_FOUND":
                raise QuoteNotFound("no such quote") from error
            raise
        return _quote(response.quote)

    async def redeem(self, saga: Saga) -> Quote:
        """Bind the quote to the booking: the price it is sold at."""
        request = pricing_pb2.RedeemQuoteRequest(
            quote_id=saga.booking.quote_id,
            booking_id=saga.booking.booking_id,
            saga_epoch=saga.epoch,
            accept_time=wellknown.timestamp(saga.booking.create_time),
        )
        call = self._stub.RedeemQuote(request, timeout=self._deadline)
        response = await _answer(call, _REDEEM)
        try:
            return _quote(response.quote)
        except ValueError as error:
            raise Unanswered(f"quote not understood: {error}") from error

    async def release(self, saga: Saga) -> None:
        """Undo the redemption; a quote that pricing does not have is as good as released."""
        request = pricing_pb2.ReleaseQuoteRequest(
            quote_id=saga.booking.quote_id,
            booking_id=saga.booking.booking_id,
            saga_epoch=saga.epoch,
        )
        call = self._stub.ReleaseQuote(request, timeout=self._deadline)
        try:
            await _answer(call, {"QUOTE_NOT_FOUND": "QUOTE_NOT_FOUND"})
        except Refused:
            return


class ScheduleSeats:
    """Seats of the schedule service: one call for all segments of a booking."""

    def __init__(self, channel: grpc.aio.Channel, hold: timedelta, deadline: float = 2.0) -> None:
        self._stub = ScheduleServiceStub(channel)
        self._hold = wellknown.duration(hold)
        self._deadline = deadline

    async def hold(self, saga: Saga) -> None:
        """Set every seat aside, or none."""
        seats = len(saga.booking.passengers)
        request = schedule_pb2.HoldSeatsRequest(
            booking_id=saga.booking.booking_id,
            saga_epoch=saga.epoch,
            segments=[_seats(segment, seats) for segment in saga.booking.segments],
            hold_duration=self._hold,
        )
        response = await _answer(self._stub.HoldSeats(request, timeout=self._deadline), _HOLD)
        _expect(response.hold, schedule_pb2.HOLD_STATE_HELD, schedule_pb2.HOLD_STATE_CONFIRMED)

    async def confirm(self, saga: Saga) -> None:
        """Sell what is held: the pivot."""
        request = schedule_pb2.ConfirmHoldRequest(
            booking_id=saga.booking.booking_id, saga_epoch=saga.epoch
        )
        response = await _answer(self._stub.ConfirmHold(request, timeout=self._deadline), _CONFIRM)
        _expect(response.hold, schedule_pb2.HOLD_STATE_CONFIRMED)

    async def release(self, saga: Saga) -> None:
        """Give back what is held or sold."""
        request = schedule_pb2.ReleaseHoldRequest(
            booking_id=saga.booking.booking_id, saga_epoch=saga.epoch
        )
        await _answer(self._stub.ReleaseHold(request, timeout=self._deadline), {})


async def _answer(call: Awaitable[_T], refusals: Mapping[str, str]) -> _T:
    """Yes; or `Refused` with our reason for one of theirs, `Superseded`, or `Unanswered`."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        status = Status.of(error)
        if status.code in _REFUSALS and status.reason == "STALE_EPOCH":
            raise Superseded(status.message) from error
        if status.code in _REFUSALS and status.reason in refusals:
            raise Refused(_rejection(status, refusals[status.reason])) from error
        raise Unanswered(f"{status.code.name} {status.reason}".rstrip()) from error


def _expect(hold: schedule_pb2.Hold, *states: schedule_pb2.HoldState.ValueType) -> None:
    """A success that does not say what it must is no answer."""
    if hold.state not in states:
        raise Unanswered(f"unexpected hold state {hold.state}")


def _rejection(status: Status, reason: str) -> Rejection:
    fresh = status.metadata.get("fresh_quote_id", "")
    return Rejection(reason=reason, message=status.message, fresh_quote_id=fresh)


def _seats(segment: Segment, seats: int) -> schedule_pb2.SegmentSeats:
    return schedule_pb2.SegmentSeats(
        flight_id=segment.flight_id, cabin=cabin_message(segment.cabin), seats=seats
    )


def _quote(message: pricing_pb2.Quote) -> Quote:
    if message.total.currency_code != CURRENCY:
        raise ValueError(f"a quote in {message.total.currency_code}")
    return Quote(
        quote_id=message.quote_id,
        passengers=message.passengers,
        segments=tuple(
            Segment(
                flight_id=line.flight_id,
                cabin=cabin_value(line.cabin),
                fare=wellknown.amount(line.fare),
                taxes=wellknown.amount(line.taxes),
            )
            for line in message.lines
        ),
        total=wellknown.amount(message.total),
    )
