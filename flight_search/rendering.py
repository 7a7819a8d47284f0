"""Domain values as messages. Building messages is most of what a search costs, so they are kept.

The read model gives the same object for the same state of the same flights, and a message is made
once for each object, party size and price basis.
"""

from base64 import urlsafe_b64encode
from datetime import date
from decimal import Decimal
from functools import lru_cache

from consulmesh.wellknown import date_message, duration, money, timestamp
from flight_search.domain import Airport, Cabin, Itinerary, Position, PriceBasis, Segment
from flights.search.v1 import search_pb2 as pb
from flights.type.v1 import cabin_pb2
from streams.v1.stream_pb2 import Cursor

CURRENCY = "USD"
KEPT_SEGMENTS, KEPT_ITINERARIES = 8_192, 8_192
CABINS = {
    Cabin.ECONOMY: cabin_pb2.CABIN_ECONOMY,
    Cabin.PREMIUM_ECONOMY: cabin_pb2.CABIN_PREMIUM_ECONOMY,
    Cabin.BUSINESS: cabin_pb2.CABIN_BUSINESS,
    Cabin.FIRST: cabin_pb2.CABIN_FIRST,
}
BASES = {
    PriceBasis.LIVE: pb.PRICE_BASIS_LIVE,
    PriceBasis.INDICATIVE: pb.PRICE_BASIS_INDICATIVE,
}


class Rendering:
    """Renders itineraries and keeps the messages, the least recently used ones not for long.

    Messages are shared: they may be put into responses, never changed.
    """

    def __init__(self) -> None:
        self.itinerary = lru_cache(KEPT_ITINERARIES)(self._itinerary)
        self._segment = lru_cache(KEPT_SEGMENTS)(_segment)

    def _itinerary(self, itinerary: Itinerary, passengers: int, basis: PriceBasis) -> pb.Itinerary:
        return pb.Itinerary(
            itinerary_id=itinerary_id(itinerary),
            segments=[self._segment(segment) for segment in itinerary.segments],
            duration=duration(itinerary.duration),
            price_per_passenger=money(itinerary.price, CURRENCY),
            price_total=money(itinerary.price * passengers, CURRENCY),
            price_basis=BASES[basis],
        )

    def round_trip(
        self, outbound: Itinerary, inbound: Itinerary, passengers: int, basis: PriceBasis
    ) -> pb.RoundTrip:
        """A way there and a way back, and what they are together."""
        price = outbound.price + inbound.price
        return pb.RoundTrip(
            outbound=self.itinerary(outbound, passengers, basis),
            inbound=self.itinerary(inbound, passengers, basis),
            price_per_passenger=money(price, CURRENCY),
            price_total=money(price * passengers, CURRENCY),
        )


def day_fare_message(day: date, price: Decimal) -> pb.DayFare:
    """The lowest price on a day."""
    return pb.DayFare(date=date_message(day), lowest_price=money(price, CURRENCY))


def itinerary_id(itinerary: Itinerary) -> str:
    """What a quote is made from: see `ItineraryKey`."""
    flight_ids = [segment.flight_id for segment in itinerary.segments]
    key = pb.ItineraryKey(flight_ids=flight_ids, cabin=CABINS[itinerary.cabin])
    return "itn_" + urlsafe_b64encode(key.SerializeToString(deterministic=True)).decode().rstrip(
        "="
    )


def position_message(position: Position) -> pb.SourcePosition:
    """How far a source was followed; no lag while it has not been heard of."""
    return pb.SourcePosition(
        source=position.source,
        cursor=Cursor(epoch=position.epoch, seq=position.seq),
        lag=None if position.lag is None else duration(position.lag),
    )


def airport_message(airport: Airport) -> pb.Airport:
    """An airport."""
    return pb.Airport(
        code=airport.code,
        name=airport.name,
        city=airport.city,
        country=airport.country,
        time_zone=airport.time_zone,
        served=airport.served,
    )


def _segment(segment: Segment) -> pb.Segment:
    return pb.Segment(
        flight_id=segment.flight_id,
        carrier=segment.carrier,
        number=segment.number,
        aircraft=segment.aircraft,
        origin=segment.origin,
        destination=segment.destination,
        departure_time=timestamp(segment.departure),
        arrival_time=timestamp(segment.arrival),
        departure_utc_offset_minutes=segment.departure_offset_minutes,
        arrival_utc_offset_minutes=segment.arrival_offset_minutes,
        delayed=segment.delayed,
        seats_available=segment.seats_available,
    )
