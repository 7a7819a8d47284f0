"""Requests that are served: what the attack begins with, so that it gets beyond the first check.

Those that make something are carried out: there are holds, quotes, fares, bookings and pages of
them, whose ids and tokens are known from the answers.
"""

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Final

from envoy.service.status.v3 import csds_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.timeofday_pb2 import TimeOfDay
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]  # it has no stubs
from grpc_reflection.v1alpha import (  # type: ignore[import-untyped]  # it has no stubs
    reflection_pb2,
)
from xds.service.orca.v3 import orca_pb2

from consulmesh.wellknown import date_message, money
from flights.booking.v1 import booking_pb2 as booking
from flights.pricing.v1 import pricing_pb2 as pricing
from flights.schedule.v1 import schedule_pb2 as schedule
from flights.search.v1 import search_pb2 as search
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY
from streams.v1 import inbox_pb2 as inbox
from streams.v1.stream_pb2 import Cursor
from tests.chaos.timetable import first_day, id_of

ROLES: Final = ("customer", "operator")

Ask = Callable[[Message], Any]
"""Carries a unary call out, and returns the answer."""

_API: Final = "flights.schedule.v1.ScheduleService"
_DAY: Final = first_day()
_FLIGHTS: Final = [id_of(number, _DAY) for number in range(1, 9)]
_csds: Any = csds_pb2
_channelz: Any = channelz_pb2
_health: Any = health_pb2
_orca: Any = orca_pb2
_reflection: Any = reflection_pb2


def served(ask: Ask) -> tuple[list[Message], list[Message]]:
    """Requests of every method, and answers to some of them."""
    asked: list[Message] = []
    answers: list[Message] = []

    def carried_out(request: Message) -> Any:
        answer = ask(request)
        asked.append(request)
        answers.append(answer)
        return answer

    _make(carried_out)
    asked += _reads()
    return asked, answers


def _make(ask: Ask) -> None:
    """Let there be what ids are of."""
    seats = schedule.SegmentSeats(flight_id=_FLIGHTS[0], cabin=CABIN_ECONOMY, seats=1)
    for number in range(2):
        hold: Any = {"booking_id": f"bkg_{number}", "saga_epoch": 1}
        ask(schedule.HoldSeatsRequest(**hold, segments=[seats], hold_duration=Duration(seconds=60)))
    ask(schedule.ConfirmHoldRequest(booking_id="bkg_0", saga_epoch=1))
    ask(schedule.ReleaseHoldRequest(booking_id="bkg_1", saga_epoch=1))
    moved: Any = {"request_id": "moved", "flight_id": _FLIGHTS[1], "reason": "fog"}
    flight = ask(schedule.UpdateFlightRequest(**moved, delay=Duration(seconds=60))).flight
    moved |= {"request_id": "moved again", "etag": flight.etag}
    later = Timestamp(seconds=flight.departure_time.seconds + 60)
    ask(schedule.UpdateFlightRequest(**moved, departure_time=later))
    ask(schedule.CancelFlightRequest(request_id="cancelled", flight_id=_FLIGHTS[7], reason="fog"))
    ask(
        schedule.ListFlightsRequest(
            origin="JFK", destination="LAX", departure_date=date_message(_DAY), page_size=2
        )
    )
    base = money(Decimal(100), "USD")
    fare: Any = {"origin": "JFK", "destination": "LAX", "base": base}
    etag = ask(pricing.UpdateFareRequest(request_id="fare", **fare)).fare.etag
    ask(pricing.UpdateFareRequest(request_id="fare again", etag=etag, **fare))
    quotes = [_quoted(ask, f"quote {number}") for number in range(4)]
    redemption: Any = {"quote_id": quotes[0].quote_id, "booking_id": "bkg_0", "saga_epoch": 1}
    ask(pricing.RedeemQuoteRequest(**redemption, accept_time=quotes[0].create_time))
    ask(pricing.ReleaseQuoteRequest(**redemption))
    booked = [_booked(ask, quote.quote_id) for quote in quotes[1:]]
    ask(booking.CancelBookingRequest(request_id="give back", booking_id=booked[0].booking_id))
    ask(booking.ListBookingsRequest(page_size=1))
    ask(booking.GetBookingRequest(booking_id=booked[1].booking_id))
    query = _query()
    ask(search.SearchItinerariesRequest(query=query, page_size=2))
    ask(search.SearchRoundTripsRequest(query=query, return_date=query.departure_date, page_size=2))


def _quoted(ask: Ask, request_id: str) -> Any:
    segments = [pricing.QuoteSegment(flight_id=_FLIGHTS[2], cabin=CABIN_ECONOMY)]
    asked = pricing.CreateQuoteRequest(request_id=request_id, segments=segments, passengers=1)
    return ask(asked).quote


def _booked(ask: Ask, quote_id: str) -> Any:
    return ask(
        booking.CreateBookingRequest(
            request_id=f"book {quote_id}",
            quote_id=quote_id,
            passengers=[booking.Passenger(given_name="Ann", family_name="Lee")],
            contact=booking.Contact(email="ann@example.org"),
            wait=Duration(seconds=5),
        )
    ).booking


def _query() -> search.ItineraryQuery:
    return search.ItineraryQuery(
        origin="JFK",
        destination="LAX",
        departure_date=date_message(_DAY),
        passengers=1,
        cabin=CABIN_ECONOMY,
    )


def _reads() -> Iterator[Message]:
    """What changes nothing, and what gives no ids."""
    yield schedule.GetFlightRequest(flight_id=_FLIGHTS[3])
    yield schedule.BatchGetFlightsRequest(flight_ids=_FLIGHTS)
    yield pricing.GetPricesRequest(flight_ids=_FLIGHTS, cabin=CABIN_ECONOMY)
    cursor = Cursor(epoch="another", seq=1)
    for watch in (
        schedule.WatchFlightsRequest,
        pricing.WatchPricesRequest,
        booking.WatchBookingEventsRequest,
    ):
        yield watch(cursor=cursor, changes_only=True)
    yield booking.ListUnfinishedSagasRequest(page_size=3)
    yield inbox.ListDeadLettersRequest(page_size=3)
    yield inbox.ReplayDeadLettersRequest(source="schedule", keys=_FLIGHTS[:2])
    query = _query()
    query.departs_from.CopyFrom(TimeOfDay(hours=6))
    query.departs_before.CopyFrom(TimeOfDay(hours=12, minutes=30))
    query.max_stops = 1
    query.carriers.append("AA")
    position = search.SourcePosition(source="pricing", cursor=cursor)
    yield search.StreamItinerariesRequest(query=query, min_positions=[position])
    yield search.SearchFareCalendarRequest(query=query, min_positions=[position])
    yield search.SearchItinerariesRequest(query=query, preferred_positions=[position])
    yield search.SearchAirportsRequest(query="new y", page_size=3)
    yield _health.HealthCheckRequest(service=_API)
    yield _orca.OrcaLoadReportRequest(report_interval=Duration(nanos=100_000_000))
    yield _csds.ClientStatusRequest(node={"id": "test"})
    yield _channelz.GetTopChannelsRequest(start_channel_id=1, max_results=1)
    yield _channelz.GetServersRequest(max_results=1)
    for number in range(1, 40):
        yield _channelz.GetServerRequest(server_id=number)
        yield _channelz.GetServerSocketsRequest(server_id=number, max_results=1)
        yield _channelz.GetChannelRequest(channel_id=number)
        yield _channelz.GetSubchannelRequest(subchannel_id=number)
        yield _channelz.GetSocketRequest(socket_id=number)
    reflected = _reflection.ServerReflectionRequest
    yield reflected(list_services="")
    yield reflected(file_containing_symbol=_API)
    yield reflected(file_by_filename="flights/schedule/v1/schedule.proto")
    yield reflected(all_extension_numbers_of_type="google.protobuf.MethodOptions")
    yield reflected(
        file_containing_extension={
            "containing_type": "google.protobuf.FileOptions",
            "extension_number": 1,
        }
    )
