"""flights.booking.v1.BookingService: messages to use cases and back."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Final

import grpc

from booking import domain
from booking.messages import booking_message, saga_message
from booking.service import BookingService, Position
from consulmesh import context as calls
from consulmesh.errors import PermissionDenied
from consulmesh.users import TokenVerifier
from consulmesh.wellknown import timestamp
from eventstream import STATUS_CODES as STORAGE_CODES
from eventstream import Feed
from flights.booking.v1 import booking_pb2 as pb
from flights.booking.v1.booking_pb2_grpc import BookingServiceServicer

STATUS_CODES: Final[Mapping[type[Exception], grpc.StatusCode]] = {
    **STORAGE_CODES,
    domain.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    domain.InvalidPageToken: grpc.StatusCode.INVALID_ARGUMENT,
    domain.RequestIdReused: grpc.StatusCode.INVALID_ARGUMENT,
    domain.QuoteNotFound: grpc.StatusCode.NOT_FOUND,
    domain.BookingNotFound: grpc.StatusCode.NOT_FOUND,
    domain.PassengerCountMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    domain.NotCancellable: grpc.StatusCode.FAILED_PRECONDITION,
}

_DEFAULT_PAGE = 20
_LARGEST_PAGE = 100
_PARTY = domain.MAX_PASSENGERS + 1  # more need not be read to be refused
_MARGIN = 0.1  # of the time left: what is kept for the answer's way back
_SHORTEST_MARGIN = 0.02  # seconds
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class BookingServicer(BookingServiceServicer):
    """Users by their tokens; nothing of a token is kept but its subject."""

    def __init__(
        self,
        service: BookingService,
        feed: Feed[pb.BookingEvent],
        tokens: TokenVerifier,
        clock: Callable[[], datetime],
    ) -> None:
        self._service = service
        self._feed = feed
        self._tokens = tokens
        self._clock = clock

    async def CreateBooking(
        self,
        request: pb.CreateBookingRequest,
        context: grpc.aio.ServicerContext[
            pb.CreateBookingRequest, Awaitable[pb.CreateBookingResponse]
        ],
    ) -> pb.CreateBookingResponse:
        """Book; answer when it is settled, or when the caller wants to wait no more."""
        user = await self._user(needs="customer")
        asked = domain.BookingRequest.of(
            request_id=request.request_id,
            quote_id=request.quote_id,
            names=[(one.given_name, one.family_name) for one in request.passengers[:_PARTY]],
            email=request.contact.email,
        )
        booking = await self._service.create(user, asked, _patience(request))
        return pb.CreateBookingResponse(booking=booking_message(booking))

    async def GetBooking(
        self,
        request: pb.GetBookingRequest,
        context: grpc.aio.ServicerContext[pb.GetBookingRequest, Awaitable[pb.GetBookingResponse]],
    ) -> pb.GetBookingResponse:
        """One booking of the user."""
        booking = await self._service.get(await self._user(), request.booking_id)
        return pb.GetBookingResponse(booking=booking_message(booking))

    async def ListBookings(
        self,
        request: pb.ListBookingsRequest,
        context: grpc.aio.ServicerContext[
            pb.ListBookingsRequest, Awaitable[pb.ListBookingsResponse]
        ],
    ) -> pb.ListBookingsResponse:
        """The user's bookings, newest first."""
        user = await self._user()
        after = _position(request.page_token) if request.page_token else None
        page, end = await self._service.page(user, after, _page_size(request.page_size))
        return pb.ListBookingsResponse(
            bookings=[booking_message(booking) for booking in page],
            next_page_token="" if end is None else _page_token(end),
        )

    async def CancelBooking(
        self,
        request: pb.CancelBookingRequest,
        context: grpc.aio.ServicerContext[
            pb.CancelBookingRequest, Awaitable[pb.CancelBookingResponse]
        ],
    ) -> pb.CancelBookingResponse:
        """Give a confirmed or affected booking back."""
        user = await self._user()
        booking = await self._service.cancel(user, request.booking_id, request.request_id)
        return pb.CancelBookingResponse(booking=booking_message(booking))

    async def WatchBooking(
        self,
        request: pb.WatchBookingRequest,
        context: grpc.aio.ServicerContext[
            pb.WatchBookingRequest, AsyncIterator[pb.WatchBookingResponse]
        ],
    ) -> AsyncIterator[pb.WatchBookingResponse]:
        """The states of one booking, until it is settled."""
        user = await self._user()
        async with aclosing(self._service.watch(user, request.booking_id)) as states:
            async for booking in states:
                yield pb.WatchBookingResponse(booking=booking_message(booking))

    async def WatchBookingEvents(
        self,
        request: pb.WatchBookingEventsRequest,
        context: grpc.aio.ServicerContext[
            pb.WatchBookingEventsRequest, AsyncIterator[pb.WatchBookingEventsResponse]
        ],
    ) -> AsyncIterator[pb.WatchBookingEventsResponse]:
        """Every change of every booking, for other services: no user is behind this call."""
        cursor = request.cursor if request.HasField("cursor") else None
        async with aclosing(self._feed.watch(cursor, rows=not request.changes_only)) as batches:
            async for batch in batches:
                yield pb.WatchBookingEventsResponse(
                    phase=batch.phase,
                    cursor=batch.cursor,
                    events=batch.events,
                    read_time=batch.read_time,
                )

    async def ListUnfinishedSagas(
        self,
        request: pb.ListUnfinishedSagasRequest,
        context: grpc.aio.ServicerContext[
            pb.ListUnfinishedSagasRequest, Awaitable[pb.ListUnfinishedSagasResponse]
        ],
    ) -> pb.ListUnfinishedSagasResponse:
        """Sagas that have not ended, for operators."""
        await self._user(needs="operator")
        after = _position(request.page_token) if request.page_token else None
        page, end = await self._service.unfinished(after, _page_size(request.page_size))
        return pb.ListUnfinishedSagasResponse(
            sagas=[saga_message(saga) for saga in page],
            next_page_token="" if end is None else _page_token(end),
            read_time=timestamp(self._clock()),
        )

    async def _user(self, *, needs: str | None = None) -> domain.User:
        user = await self._tokens.verify(calls.current().token)
        if needs is not None and needs not in user.roles:
            raise PermissionDenied(f"This needs the role {needs}.")
        return domain.User(issuer=user.issuer, subject=user.subject)


def _patience(request: pb.CreateBookingRequest) -> float | None:
    """How long the caller wants to wait, and can: less what the answer needs to reach it."""
    wanted = request.wait.seconds + request.wait.nanos / 1e9 if request.HasField("wait") else None
    left = calls.remaining()
    if left is None:
        return wanted
    able = left - max(left * _MARGIN, _SHORTEST_MARGIN)
    return able if wanted is None else min(wanted, able)


def _page_size(asked: int) -> int:
    if not 0 <= asked <= _LARGEST_PAGE:
        violation = domain.Violation(
            field="page_size", reason="OUT_OF_RANGE", description=f"0 to {_LARGEST_PAGE}"
        )
        raise domain.InvalidRequest([violation])
    return asked or _DEFAULT_PAGE


def _page_token(position: Position) -> str:
    micros = (position.time - _EPOCH) // _MICROSECOND
    return base64.urlsafe_b64encode(f"{micros} {position.booking_id}".encode()).decode()


def _position(token: str) -> Position:
    try:
        micros, booking_id = base64.urlsafe_b64decode(token).decode().split(" ")
        return Position(time=_EPOCH + int(micros) * _MICROSECOND, booking_id=booking_id)
    except (ValueError, OverflowError):
        raise domain.InvalidPageToken("not a page token of this service") from None
