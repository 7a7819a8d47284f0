"""The gRPC side of search: requests into domain values, answers into messages."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import date, time
from typing import Final, Literal

import grpc
from google.type.date_pb2 import Date
from google.type.timeofday_pb2 import TimeOfDay

from consulmesh.wellknown import calendar_date, date_message
from flight_search.domain import (
    DEFAULT_STOPS,
    MOST_CARRIERS,
    Cabin,
    InvalidQueryError,
    ItineraryQuery,
    OtherShardError,
    Position,
    PositionNotReachedError,
    SortOrder,
    invalid,
)
from flight_search.rendering import (
    BASES,
    CABINS,
    Rendering,
    airport_message,
    day_fare_message,
    position_message,
)
from flight_search.service import ItinerarySearch
from flights.search.v1 import search_pb2 as pb
from flights.search.v1.search_pb2_grpc import SearchServiceServicer

STATUS_CODES: Final[Mapping[type[Exception], grpc.StatusCode]] = {
    InvalidQueryError: grpc.StatusCode.INVALID_ARGUMENT,
    OtherShardError: grpc.StatusCode.FAILED_PRECONDITION,
    PositionNotReachedError: grpc.StatusCode.DEADLINE_EXCEEDED,
    sqlite3.DatabaseError: grpc.StatusCode.UNAVAILABLE,
}
MOST_POSITIONS: Final = 20
ORDERS: dict[int, SortOrder] = {
    pb.SORT_ORDER_UNSPECIFIED: SortOrder.PRICE,
    pb.SORT_ORDER_PRICE: SortOrder.PRICE,
    pb.SORT_ORDER_DEPARTURE: SortOrder.DEPARTURE,
    pb.SORT_ORDER_DURATION: SortOrder.DURATION,
}
CABINS_ASKED: dict[int, Cabin] = {message: cabin for cabin, message in CABINS.items()}


class SearchServicer(SearchServiceServicer):
    """Serves `flights.search.v1.SearchService`."""

    def __init__(self, search: ItinerarySearch) -> None:
        self._search = search
        self._rendering = Rendering()

    async def SearchItineraries(
        self,
        request: pb.SearchItinerariesRequest,
        context: grpc.aio.ServicerContext[
            pb.SearchItinerariesRequest, Awaitable[pb.SearchItinerariesResponse]
        ],
    ) -> pb.SearchItinerariesResponse:
        """A page of itineraries, sorted."""
        page = await self._search.page(
            _query(request.query),
            order=_order(request.sort_order),
            page_size=request.page_size,
            token=request.page_token,
            at_least=_positions("min_positions", request.min_positions),
            preferred=_positions("preferred_positions", request.preferred_positions),
        )
        passengers, basis = request.query.passengers, page.price_basis
        render = self._rendering.itinerary
        return pb.SearchItinerariesResponse(
            itineraries=[render(found, passengers, basis) for found in page.itineraries],
            next_page_token=page.next_page_token,
            positions=[position_message(position) for position in page.positions],
            origins=page.origins,
            destinations=page.destinations,
        )

    async def StreamItineraries(
        self,
        request: pb.StreamItinerariesRequest,
        context: grpc.aio.ServicerContext[
            pb.StreamItinerariesRequest, AsyncIterator[pb.StreamItinerariesResponse]
        ],
    ) -> AsyncIterator[pb.StreamItinerariesResponse]:
        """Every itinerary as it is found, direct ones first."""
        query, at_least = _query(request.query), _positions("min_positions", request.min_positions)
        passengers, render = request.query.passengers, self._rendering.itinerary
        async with aclosing(self._search.stream(query, at_least=at_least)) as batches:
            async for batch in batches:
                basis = batch.price_basis
                yield pb.StreamItinerariesResponse(
                    itineraries=[render(found, passengers, basis) for found in batch.itineraries],
                    positions=[position_message(position) for position in batch.positions],
                )

    async def SearchRoundTrips(
        self,
        request: pb.SearchRoundTripsRequest,
        context: grpc.aio.ServicerContext[
            pb.SearchRoundTripsRequest, Awaitable[pb.SearchRoundTripsResponse]
        ],
    ) -> pb.SearchRoundTripsResponse:
        """A page of ways there and back."""
        page = await self._search.round_trips(
            _query(request.query),
            _day(request.return_date),
            order=_order(request.sort_order),
            page_size=request.page_size,
            token=request.page_token,
            at_least=_positions("min_positions", request.min_positions),
        )
        passengers, basis = request.query.passengers, page.price_basis
        render = self._rendering.round_trip
        return pb.SearchRoundTripsResponse(
            round_trips=[render(*trip, passengers, basis) for trip in page.trips],
            next_page_token=page.next_page_token,
            positions=[position_message(position) for position in page.positions],
        )

    async def SearchFareCalendar(
        self,
        request: pb.SearchFareCalendarRequest,
        context: grpc.aio.ServicerContext[
            pb.SearchFareCalendarRequest, Awaitable[pb.SearchFareCalendarResponse]
        ],
    ) -> pb.SearchFareCalendarResponse:
        """The lowest price on each day of a month."""
        month = _day(_first_of(request.query.departure_date))
        calendar = await self._search.fares(
            replace(_query(request.query), departure_date=month),
            at_least=_positions("min_positions", request.min_positions),
        )
        return pb.SearchFareCalendarResponse(
            days=[day_fare_message(day, price) for day, price in calendar.prices],
            unreachable=map(date_message, calendar.unreachable),
            price_basis=BASES[calendar.price_basis],
            positions=[position_message(position) for position in calendar.positions],
        )

    async def SearchAirports(
        self,
        request: pb.SearchAirportsRequest,
        context: grpc.aio.ServicerContext[
            pb.SearchAirportsRequest, Awaitable[pb.SearchAirportsResponse]
        ],
    ) -> pb.SearchAirportsResponse:
        """Airports by code, city or name."""
        found = self._search.airports(request.query, request.page_size)
        return pb.SearchAirportsResponse(airports=[airport_message(airport) for airport in found])


def _query(message: pb.ItineraryQuery) -> ItineraryQuery:
    return ItineraryQuery(
        origin=message.origin,
        destination=message.destination,
        departure_date=_day(message.departure_date),
        passengers=message.passengers,
        cabin=CABINS_ASKED.get(message.cabin),
        max_stops=message.max_stops if message.HasField("max_stops") else DEFAULT_STOPS,
        carriers=_carriers(message.carriers),
        departs_from=_clock(message, "departs_from"),
        departs_before=_clock(message, "departs_before"),
    )


def _day(message: Date) -> date | None:
    try:
        return calendar_date(message)
    except ValueError:
        return None


def _first_of(month: Date) -> Date:
    return Date(year=month.year, month=month.month, day=1)


def _clock(
    message: pb.ItineraryQuery, field: Literal["departs_from", "departs_before"]
) -> time | None:
    if not message.HasField(field):
        return None
    clock: TimeOfDay = getattr(message, field)
    try:
        return time(clock.hours, clock.minutes, clock.seconds)
    except ValueError:
        raise invalid(f"query.{field}", "INVALID_TIME", "must be a time of the clock") from None


def _order(value: int) -> SortOrder:
    if order := ORDERS.get(value):
        return order
    raise invalid("sort_order", "INVALID_SORT_ORDER", "must be a sort order")


def _carriers(messages: Sequence[str]) -> tuple[str, ...]:
    _check_count("query.carriers", messages, MOST_CARRIERS)
    return tuple(sorted(set(messages)))


def _positions(field: str, messages: Sequence[pb.SourcePosition]) -> list[Position]:
    _check_count(field, messages, MOST_POSITIONS)
    return [
        Position(source=message.source, epoch=message.cursor.epoch, seq=message.cursor.seq)
        for message in messages
    ]


def _check_count(field: str, entries: Sequence[object], most: int) -> None:
    """Lists are not gone through before it is known that they are short."""
    if len(entries) > most:
        raise invalid(field, "OUT_OF_RANGE", f"must be at most {most}")
