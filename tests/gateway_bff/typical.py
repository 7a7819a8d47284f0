"""Services that answer everything as they do when all is well."""

import grpc

from flights.booking.v1.booking_pb2 import (
    BOOKING_STATUS_CANCELLED,
    BOOKING_STATUS_CONFIRMED,
    CancelBookingResponse,
    CreateBookingResponse,
    GetBookingResponse,
    ListBookingsResponse,
)
from flights.pricing.v1.pricing_pb2 import GetQuoteResponse, UpdateFareResponse
from flights.schedule.v1.schedule_pb2 import (
    BatchGetFlightsResponse,
    CancelFlightResponse,
    GetFlightResponse,
    UpdateFlightResponse,
)
from flights.search.v1.search_pb2 import (
    SearchAirportsResponse,
    SearchItinerariesResponse,
    StreamItinerariesResponse,
)
from tests.gateway_bff import examples
from tests.gateway_bff.fakes import Fakes, refusal


def answer(fakes: Fakes) -> None:
    """Let each RPC that the gateway calls have its answer."""
    found = [examples.itinerary()]
    fakes.search.answers |= {
        "SearchItineraries": SearchItinerariesResponse(
            itineraries=found, next_page_token="more", positions=examples.positions()
        ),
        "StreamItineraries": [StreamItinerariesResponse(itineraries=found)],
        "SearchAirports": SearchAirportsResponse(airports=[examples.airport()]),
        "SearchRoundTrips": examples.round_trips(),
        "SearchFareCalendar": examples.calendar(),
    }
    fakes.pricing.answers |= {
        "CreateQuote": examples.quote_created(),
        "GetQuote": GetQuoteResponse(quote=examples.quote()),
        "UpdateFare": UpdateFareResponse(fare=examples.fare()),
    }
    flight = examples.flight()
    fakes.schedule.answers |= {
        "GetFlight": GetFlightResponse(flight=flight),
        "BatchGetFlights": BatchGetFlightsResponse(flights=[flight]),
        "UpdateFlight": UpdateFlightResponse(flight=flight),
        "CancelFlight": CancelFlightResponse(flight=flight),
    }
    confirmed = examples.booking(BOOKING_STATUS_CONFIRMED)
    fakes.booking.answers |= {
        "CreateBooking": CreateBookingResponse(booking=confirmed),
        "GetBooking": GetBookingResponse(booking=confirmed),
        "ListBookings": ListBookingsResponse(bookings=[confirmed], next_page_token="more"),
        "CancelBooking": CancelBookingResponse(booking=examples.booking(BOOKING_STATUS_CANCELLED)),
    }


def no_streams(fakes: Fakes) -> None:
    """Let the owners be away, so that no live stream begins: 503."""
    away = refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING")
    fakes.pricing.answers["GetPrices"] = fakes.schedule.answers["BatchGetFlights"] = away
