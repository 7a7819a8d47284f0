"""The read model's SQL: changes that never go back in time, and queries in keyset order.

Statements with `{…}` are completed at import from closed sets (cabins, sort orders, sources).
"""

from itertools import product

from flight_search.domain import Cabin, SortOrder

CABINS = [cabin.name.lower() for cabin in Cabin]
FLIGHT = [
    *("version", "carrier", "number", "aircraft", "origin", "destination", "departure", "arrival"),
    *("departure_offset", "arrival_offset", "delayed"),
    *(f"seats_{cabin}" for cabin in CABINS),
    "generation",
]
PRICES = ["price_version", *(f"price_{cabin}" for cabin in CABINS), "price_generation"]

# A row of an earlier snapshot is no match for the present one, whatever its version: the owner's
# history may have been replaced by an older one.
PUT = """
INSERT INTO flight (key, {columns}) VALUES (?, {marks})
ON CONFLICT (key) DO UPDATE SET {assignments}
WHERE {version} IS NULL OR {version} <= excluded.{version} OR {generation} <> excluded.{generation}
"""
CLEAR = "UPDATE flight SET {nulls} WHERE key = ?"


def _put(columns: list[str]) -> str:
    return PUT.format(
        columns=", ".join(columns),
        marks=", ".join("?" * len(columns)),
        assignments=", ".join(f"{column} = excluded.{column}" for column in columns),
        version=columns[0],
        generation=columns[-1],
    )


def _clear(columns: list[str]) -> str:
    return CLEAR.format(nulls=", ".join(f"{column} = NULL" for column in columns))


PUT_FLIGHT, CLEAR_FLIGHT = _put(FLIGHT), _clear(FLIGHT)
PUT_PRICES, CLEAR_PRICES = _put(PRICES), _clear(PRICES)
PUT_ROUTE = "INSERT OR IGNORE INTO route VALUES (?, ?)"
ROUTE_OF = "SELECT origin, destination FROM flight WHERE key = ?"
DROP_SILENT = "DELETE FROM flight WHERE key = ? AND version IS NULL AND price_version IS NULL"
DROP_UNUSED = """
DELETE FROM route WHERE origin = ?1 AND destination = ?2
    AND NOT EXISTS (SELECT 1 FROM flight WHERE origin = ?1 AND destination = ?2)
"""
IS_NEWER_FLIGHT = "SELECT 1 FROM flight WHERE key = ? AND version > ?"
ARE_NEWER_PRICES = "SELECT 1 FROM flight WHERE key = ? AND price_version > ?"
UNSEEN_FLIGHTS = "SELECT key FROM flight WHERE id > ? AND id <= ? AND generation <> ?"
UNSEEN_PRICES = "SELECT key FROM flight WHERE id > ? AND id <= ? AND price_generation <> ?"
LAST_ID = "SELECT coalesce(max(id), 0) FROM flight"
COUNT = """
SELECT count(version), {offers} FROM flight WHERE id > ? AND id <= ?
""".format(offers=" + ".join(f"count(price_{cabin})" for cabin in CABINS))

POSITIONS = "SELECT name, epoch, seq, generation FROM source"
START_SNAPSHOT = """
INSERT INTO source VALUES (?, '', NULL, 1)
ON CONFLICT (name) DO UPDATE SET epoch = '', seq = NULL, generation = generation + 1
RETURNING generation
"""
MOVE = "UPDATE source SET epoch = ?, seq = ? WHERE name = ?"

SEGMENT = """
SELECT carrier, number, aircraft, origin, destination, departure, arrival,
    departure_offset, arrival_offset, delayed, seats_{cabin}
FROM flight WHERE key = ?
"""
SERVED = "SELECT origin FROM route UNION SELECT destination FROM route"
CONNECTIONS = """
SELECT r.destination FROM route r
JOIN route s ON s.origin = r.destination AND s.destination = :destination
WHERE r.origin = :origin ORDER BY 1
"""
DIRECT = """
SELECT {value}, f.departure, f.key, '', f.price_{cabin}, f.version, 0
FROM flight f
WHERE f.origin = :origin AND f.destination = :destination
    AND f.departure >= :start AND f.departure < :end
    AND f.seats_{cabin} >= :passengers AND f.price_{cabin} IS NOT NULL
    AND ({value}, f.departure, f.key, '') > (:value, :departure, :first, :second)
ORDER BY 1, 2, 3, 4 LIMIT :limit
"""
# CROSS JOIN keeps this order: SQLite's planner knows nothing of how selective routes are.
ONE_STOP = """
SELECT {value}, f.departure, f.key, g.key, f.price_{cabin} + g.price_{cabin}, f.version, g.version
FROM route r
CROSS JOIN route s ON s.origin = r.destination AND s.destination = :destination
CROSS JOIN flight f ON f.origin = r.origin AND f.destination = r.destination
    AND f.departure >= :start AND f.departure < :end
    AND f.seats_{cabin} >= :passengers AND f.price_{cabin} IS NOT NULL
CROSS JOIN flight g ON g.origin = s.origin AND g.destination = s.destination
    AND g.departure BETWEEN f.arrival + :shortest AND f.arrival + :longest
    AND g.seats_{cabin} >= :passengers AND g.price_{cabin} IS NOT NULL
WHERE r.origin = :origin AND {where}
    AND ({value}, f.departure, f.key, g.key) > (:value, :departure, :first, :second)
ORDER BY 1, 2, 3, 4 LIMIT :limit
"""
VALUES = {
    SortOrder.PRICE: ("f.price_{cabin}", "f.price_{cabin} + g.price_{cabin}"),
    SortOrder.DEPARTURE: ("f.departure", "f.departure"),
    SortOrder.DURATION: ("f.arrival - f.departure", "g.arrival - f.departure"),
}


def _direct(cabin: str, order: SortOrder) -> str:
    return DIRECT.format(value=VALUES[order][0].format(cabin=cabin), cabin=cabin)


def _one_stop(cabin: str, order: SortOrder, where: str) -> str:
    value = VALUES[order][1].format(cabin=cabin)
    return ONE_STOP.format(value=value, cabin=cabin, where=where)


QUERIES = list(product(Cabin, SortOrder))
DIRECT_BY = {(cabin, order): _direct(cabin.name.lower(), order) for cabin, order in QUERIES}
ONE_STOP_BY = {
    (cabin, order): _one_stop(cabin.name.lower(), order, "TRUE") for cabin, order in QUERIES
}
ONE_STOP_AT = {
    cabin: _one_stop(cabin.name.lower(), SortOrder.DEPARTURE, "r.destination = :connection")
    for cabin in Cabin
}
SEGMENT_IN = {cabin: SEGMENT.format(cabin=cabin.name.lower()) for cabin in Cabin}
