"""The read model's SQL: changes that never go back in time.

Statements with `{…}` are completed at import from closed sets (cabins, sources).
"""

from flight_search.domain import Cabin

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
PUT_ROUTE = "INSERT INTO route VALUES (?, ?, ?, ?, ?)"
ROUTE_OF = "SELECT origin, destination FROM flight WHERE key = ?"
DROP_SILENT = "DELETE FROM flight WHERE key = ? AND version IS NULL AND price_version IS NULL"
DROP_UNUSED = """
DELETE FROM route WHERE origin = ?1 AND destination = ?2
    AND NOT EXISTS (SELECT 1 FROM flight WHERE origin = ?1 AND destination = ?2)
"""
KNOWS_FLIGHT = "SELECT 1 FROM flight WHERE key = ? AND version <= ?"
KNOWS_PRICES = "SELECT 1 FROM flight WHERE key = ? AND price_version <= ?"
"""Whether there is something to remove: of what a shard does not need, there never is."""
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
