"""What comes in: the shapes that requests are validated by, and that OpenAPI shows.

Unknown parameters and members are refused: a misspelt one would silently change the result.
"""

import datetime as dt
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StringConstraints,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from gateway_bff.schemas import Cabin

_STRING: JsonDict = {"type": "string"}
_ARRAY: JsonDict = {"type": "array"}
_OUTBOUND = "itn_ChRmbHRfYWJjZGVmZ2gyMzQ1NjcyMxAB"
_INBOUND = "itn_ChRmbHRfenl4d3Z1dHM3NjU0MzI3NhAB"
_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def _iso_date(value: Any) -> Any:
    """Pydantic alone would also take a timestamp for a date."""
    if isinstance(value, str) and not _ISO_DATE.fullmatch(value):
        raise PydanticCustomError("malformed", "A date is written YYYY-MM-DD")
    return value


def _printable(value: str) -> str:
    if not value.isprintable():
        raise PydanticCustomError("malformed", "Control characters are not allowed")
    return value


def _whole(value: Any) -> Any:
    """4.0 is an integer to JSON Schema, and what some encoders make of 4."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = BeforeValidator(_whole)
"""For integers; after their bounds, which JSON Schema would not have otherwise."""
Place = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z]{3}$", to_upper=True),
    Field(description="IATA code of an airport or a city.", examples=["JFK"]),
]
Carrier = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9]{2}$", to_upper=True),
    Field(examples=["B6"]),
]
Clock = Annotated[
    str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$"), Field(examples=["06:30"])
]
Day = Annotated[dt.date, BeforeValidator(_iso_date), Field(examples=["2026-12-01"])]
Month = Annotated[
    str, StringConstraints(pattern=r"^[1-9][0-9]{3}-(0[1-9]|1[0-2])$"), Field(examples=["2026-12"])
]
Sort = Literal["price", "departure", "duration"]
Text = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=100),
    AfterValidator(_printable),
    Field(json_schema_extra={"format": "printable"}),
]
Email = Annotated[
    str,
    StringConstraints(pattern=r"^[^@\s]+@[^@\s]+$", max_length=254),
    AfterValidator(_printable),
    Field(json_schema_extra={"format": "printable-address"}),
]
OpaqueId = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
PageSize = Annotated[int, Field(ge=1, le=100, examples=[20])]
PageToken = Annotated[
    str,
    StringConstraints(max_length=2048),
    Field(description="The `next_page_token` of the page before.", examples=[""]),
]


class Request(BaseModel):
    """Anything that comes in."""

    model_config = ConfigDict(extra="forbid")


class AirportParameters(Request):
    """Which airports to look for."""

    q: Annotated[
        str,
        Field(min_length=1, max_length=100, description="Code, city or name.", examples=["new y"]),
        AfterValidator(_printable),
        Field(json_schema_extra={"format": "printable"}),
    ]
    page_size: Annotated[int, Field(ge=1, le=50, examples=[10])] = 10


class PageParameters(Request):
    """Which part of a list."""

    page_size: PageSize = 20
    page_token: PageToken = ""


class JourneyParameters(Request):
    """Where to, for how many, and which flights will do."""

    origin: Place
    destination: Annotated[Place, Field(examples=["LAX"])]
    passengers: Annotated[int, Field(ge=1, le=9, examples=[2])] = 1
    cabin: Annotated[Cabin, Field(examples=["economy"])] = "economy"
    max_stops: Annotated[int, Field(ge=0, le=2, examples=[1])] = 1
    carrier: Annotated[
        list[Carrier],
        Field(
            max_length=10,
            description="Only flights of these; repeat the parameter.",
            examples=[["B6"]],
        ),
    ] = []
    departs_from: Annotated[
        Clock | None,
        Field(
            description="The first departure is then or later, at the origin.", examples=["06:30"]
        ),
    ] = None
    departs_before: Annotated[
        Clock | None,
        Field(description="The first departure is before, at the origin.", examples=["22:00"]),
    ] = None


class SearchParameters(JourneyParameters, PageParameters):
    """Which itineraries to look for."""

    date: Annotated[Day, Field(description="Of the first departure, at the origin.")]
    sort: Annotated[Sort, Field(examples=["price"])] = "price"


class RoundTripParameters(SearchParameters):
    """Which ways there and back to look for; the times of the clock are about the way there."""

    max_stops: Annotated[int, Field(ge=0, le=1, examples=[1])] = 1

    return_date: Annotated[
        Day,
        Field(
            description="Of the first departure of the way back, where that begins.",
            examples=["2026-12-06"],
        ),
    ]


class CalendarParameters(JourneyParameters):
    """Which journeys to look for on each day of a month."""

    max_stops: Annotated[int, Field(ge=0, le=1, examples=[1])] = 1
    month: Annotated[Month, Field(description="Of the first departure, at the origin.")]


class LivePricesParameters(Request):
    """Whose prices to watch."""

    flight_id: Annotated[
        list[OpaqueId],
        Field(
            min_length=1,
            max_length=50,
            description="1 to 50; repeat the parameter.",
            examples=[["flt_abcdefgh23456723"]],
        ),
    ]
    cabin: Annotated[
        Cabin | None, Field(description="One cabin; all without it.", examples=["economy"])
    ] = None


class QuoteRequest(Request):
    """What to quote: one itinerary, or the two of a round trip."""

    model_config = ConfigDict(
        json_schema_extra={
            # one of both; not oneOf, of which client generators make classes
            "if": {"required": ["itinerary_id"], "properties": {"itinerary_id": _STRING}},
            "then": {"properties": {"itinerary_ids": {"type": "null"}}},
            "else": {"required": ["itinerary_ids"], "properties": {"itinerary_ids": _ARRAY}},
            "examples": [
                {"itinerary_id": _OUTBOUND, "passengers": 2},
                {"itinerary_ids": [_OUTBOUND, _INBOUND], "passengers": 2},
            ],
        }
    )

    itinerary_id: OpaqueId | None = None
    itinerary_ids: Annotated[list[OpaqueId], Field(min_length=2, max_length=2)] | None = None
    passengers: Annotated[StrictInt, Field(ge=1, le=9), Whole] = 1

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.itinerary_id is None) == (self.itinerary_ids is None):
            raise PydanticCustomError(
                "required", "Either itinerary_id or itinerary_ids is required"
            )
        return self

    def ids(self) -> list[str]:
        """The itineraries in travel order."""
        return self.itinerary_ids or [self.itinerary_id or ""]


class Traveller(Request):
    """Who travels."""

    given_name: Annotated[Text, Field(examples=["Ann"])]
    family_name: Annotated[Text, Field(examples=["Lee"])]


class ContactDetails(Request):
    """How to reach the one who books."""

    email: Annotated[Email, Field(examples=["ann@example.org"])]


class BookingRequest(Request):
    """What to book, for whom."""

    quote_id: Annotated[OpaqueId, Field(examples=["quo_abcdefghijklmnopqrstuvwxyz"])]
    passengers: Annotated[list[Traveller], Field(min_length=1, max_length=9)]
    contact: ContactDetails


class Amount(Request):
    """An amount of money."""

    currency: Annotated[Literal["USD"], Field(examples=["USD"])]
    amount: Annotated[
        str, StringConstraints(pattern=r"^[0-9]{1,9}(\.[0-9]{1,2})?$"), Field(examples=["140.00"])
    ]


class Change(Request):
    """A change by an operator."""

    etag: Annotated[
        str,
        StringConstraints(max_length=255),
        Field(description="Of what was looked at.", examples=["v3"]),
    ] = ""


class DelayRequest(Change):
    """How much later than published a flight leaves; 0 takes a delay back."""

    minutes: Annotated[StrictInt, Field(ge=0, le=48 * 60, examples=[35]), Whole]
    reason: Annotated[Text, Field(examples=["weather"])]


class CancelRequest(Change):
    """Why a flight does not leave at all."""

    reason: Annotated[Text, Field(examples=["crew"])]


class FareRequest(Change):
    """What a route costs: economy, far from departure, an empty aircraft, without taxes."""

    base: Amount
