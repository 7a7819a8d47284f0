"""Use cases of the timetable and of seats, against ports; standard library only.

Each use case that changes something is one unit: it reads, decides and writes in one transaction,
in which nobody else writes.
"""

from schedule.service.ports import (
    CancelFlight,
    DelayFlight,
    HoldSeats,
    PageEnd,
    Records,
    RouteDay,
    Store,
    UseCase,
)
from schedule.service.seats import Seats
from schedule.service.timetable import Timetable

__all__ = [
    "CancelFlight",
    "DelayFlight",
    "HoldSeats",
    "PageEnd",
    "Records",
    "RouteDay",
    "Seats",
    "Store",
    "Timetable",
    "UseCase",
]
