"""How the databases find what pricing asks for: never by reading the whole timetable."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from pricing import tables
from pricing.domain.fares import Cabin
from pricing.service import prices
from pricing.store import SqlRepository, snapshot
from pricing.upstreams import Timetable
from tests.pricing.conftest import World
from tests.pricing.timetable import NOW, Clock, changed, flight, removed

LATER = NOW + timedelta(days=5)
Statement = tuple[str, Any]

WORK: dict[str, Callable[[Connection], object]] = {
    "seats sell": lambda c: Timetable(Clock()).apply_many(c, changed(flight(version=2))),
    "a flight leaves": lambda c: Timetable(Clock()).apply_many(c, [removed("flt_a")]),
    "a snapshot begins": lambda c: Timetable(Clock()).start(c, ""),
    "a snapshot ends": lambda c: Timetable(Clock()).sweep(c, ""),
    "what is due": lambda c: SqlRepository(c).due(LATER, 10),
    "what is due next": lambda c: SqlRepository(c).next_due(),
    "days pass": lambda c: prices.reprice(SqlRepository(c), ["flt_a"], LATER),
    "a fare is followed": lambda c: prices.follow_fare(SqlRepository(c), NOW),
    "a route": lambda c: SqlRepository(c).distance("JFK", "LAX"),
    "a page of a snapshot": lambda c: snapshot(c, "flt", 10),
}


@pytest.mark.parametrize("what", WORK)
async def test_no_statement_reads_all_flights(world: World, what: str) -> None:
    """Each finds its flights by an index, however many others there are."""
    await world.fly(*(flight(f"flt_{n}") for n in "abc"))
    await world.pricing.update_fare("r", "JFK", "LAX", Decimal(100), None)
    await world.pricing.create_quote("q", [("flt_a", Cabin.ECONOMY)], 1)
    found = await world.database.write(lambda connection: scans(connection, WORK[what]))

    assert found
    assert [each for each in found if not each[1]] == []


def scans(connection: Connection, work: Callable[[Connection], object]) -> list[tuple[str, bool]]:
    """Accesses to the table of flights in some work, and whether an index narrows each down."""
    with statements(connection) as seen:
        work(connection)
    if connection.dialect.name == "sqlite":
        return [scan for each in seen for scan in on_sqlite(connection, each)]
    connection.execute(text("SET LOCAL enable_seqscan = off"))  # three rows are always scanned
    return [scan for each in seen for scan in on_postgres(connection, each)]


@contextmanager
def statements(connection: Connection) -> Iterator[list[Statement]]:
    """What is executed in the block, with parameters."""
    seen: list[Statement] = []

    def note(_c: object, _cursor: object, sql: str, parameters: Any, *_: object) -> None:
        seen.append((sql, parameters[0] if isinstance(parameters, list) else parameters))

    event.listen(connection, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(connection, "before_cursor_execute", note)


def on_sqlite(connection: Connection, statement: Statement) -> Iterator[tuple[str, bool]]:
    """SEARCH has a key to begin at, SCAN begins at the start."""
    sql, parameters = statement
    for *_, detail in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters):
        if f" {tables.flights.name} " in f"{detail} ":
            yield detail, detail.startswith("SEARCH ")


def on_postgres(connection: Connection, statement: Statement) -> Iterator[tuple[str, bool]]:
    """A condition on the index is what narrows it down."""
    sql, parameters = statement
    if sql.startswith(("SELECT", "UPDATE", "DELETE", "INSERT")):
        [[[explained]]] = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sql}", parameters)
        for node in nodes(explained["Plan"]):
            if node.get("Relation Name") == tables.flights.name and "Scan" in node["Node Type"]:
                yield str(node), "Index Cond" in node or "Recheck Cond" in node


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan and all that is below it."""
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)
