"""How many seats a flight has, and in which cabins.

Seats come from the registry where that is believable. Cabins are in no source at all: the split
below is invented, after what airlines commonly fit, and the same for every airline.
"""

from functools import cache

from schedule.domain import Cabin, CabinSeats

SMALLEST_AIRLINER = 40
"""Fewer registered seats mean that the tail number belongs to another aircraft by now: about 2,900
flights are registered as light aircraft."""

CORRECTED = {"ERJ 190-100 IGW": 100, "A321-231": 199}
"""Models whose registered seats (20 and 379) are plainly wrong."""

FALLBACK = {
    "9E": 95,  # CL-600-2D24
    "AA": 172,  # MD-82
    "AS": 149,  # 737-890
    "B6": 182,  # A320
    "DL": 142,  # MD-88
    "EV": 55,  # EMB-145LR
    "F9": 182,  # A320-214
    "FL": 100,  # 717-200
    "HA": 377,  # A330-243
    "MQ": 55,  # EMB-145
    "OO": 80,  # CL-600-2C10
    "UA": 149,  # 737-824
    "US": 179,  # A319-112
    "VX": 182,  # A320-214
    "WN": 140,  # 737-7H4
    "YV": 80,  # CL-600-2C10
}
"""Seats of a carrier's commonest airliner on these routes, for flights without a believable one."""

UNKNOWN_CARRIER = 150

# up to so many seats: percent of the seats in first, business and premium economy
SPLITS = ((60, (0, 0, 0)), (130, (0, 8, 0)), (220, (0, 8, 12)))
WIDE_BODY = (4, 10, 12)


def seats_of(carrier: str, model: str, registered: int | None) -> tuple[str, int, bool]:
    """Model, seats, and whether the registry was believed; the model is "" where it was not."""
    seats = CORRECTED.get(model, registered or 0)
    if seats >= SMALLEST_AIRLINER:
        return model, seats, True
    return "", FALLBACK.get(carrier, UNKNOWN_CARRIER), False


@cache
def cabins_of(seats: int) -> tuple[CabinSeats, ...]:
    """The seats by cabin, in the order of the enum, without empty cabins."""
    shares = next((split for limit, split in SPLITS if seats <= limit), WIDE_BODY)
    first, business, premium = (seats * percent // 100 for percent in shares)
    capacities = {
        Cabin.ECONOMY: seats - first - business - premium,
        Cabin.PREMIUM_ECONOMY: premium,
        Cabin.BUSINESS: business,
        Cabin.FIRST: first,
    }
    return tuple(CabinSeats(cabin=c, capacity=n) for c, n in capacities.items() if n)
