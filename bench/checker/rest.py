"""Whether a system has nothing left to do by itself, so that its databases can be judged."""

from typing import Final

from sqlalchemy import Connection

from bench.checker.databases import Urls, rows, snapshot

_SAGAS: Final = "SELECT count(*) FROM saga WHERE step <> 'finished'"
_FLIGHTS: Final = "SELECT count(*) FROM cancelled_flight WHERE pending"
_HEAD: Final = "SELECT epoch, seq FROM flight_head"
_POSITION: Final = "SELECT epoch, seq FROM inbox_position WHERE source = 'schedule'"


def under_way(urls: Urls) -> list[str]:
    """What is not done yet, in words; empty: the system is at rest."""
    with snapshot(urls.booking) as booking:
        work = {
            "sagas are not finished": _count(booking, _SAGAS),
            "cancelled flights have bookings to be marked": _count(booking, _FLIGHTS),
        }
    with snapshot(urls.schedule) as schedule, snapshot(urls.pricing) as pricing:
        behind = list(rows(schedule, _HEAD)) != list(rows(pricing, _POSITION))
    words = [f"{count} {what}" for what, count in work.items() if count]
    return [*words, "pricing is behind schedule"] if behind else words


def _count(connection: Connection, statement: str) -> int:
    [(count,)] = rows(connection, statement)
    return int(count)
