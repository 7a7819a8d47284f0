"""The read model's file: used again when it can be trusted, else made anew from the owners.

Writes are not synchronised with the disk: a killed process loses nothing, but when the machine
itself goes down the file may have lost writes without a trace. So the file says durably under
which boot of the machine it is open, and whoever finds another one there starts over.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import structlog

APPLICATION_ID = 0x666C7372
SCHEMA_VERSION = 3
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

SETTINGS = """
PRAGMA journal_mode = WAL;          -- a batch is whole or absent, for other processes too
PRAGMA synchronous = OFF;
PRAGMA wal_autocheckpoint = 300;    -- many checkpoints of 1 ms instead of few of 30 ms
PRAGMA cache_size = -131072;
PRAGMA temp_store = MEMORY;
"""
IDENTITY = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
SCHEMA = """
CREATE TABLE file (
    boot TEXT NOT NULL,                     -- empty while the file is closed
    contents TEXT NOT NULL                  -- which part of all flights it is made for
);
INSERT INTO file VALUES ('', '');
CREATE TABLE source (
    name TEXT PRIMARY KEY,
    epoch TEXT NOT NULL,
    seq INTEGER,                            -- NULL in the middle of a snapshot
    generation INTEGER NOT NULL             -- counts snapshots
) WITHOUT ROWID;
CREATE TABLE flight (                       -- what each of two sources says of a flight
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    version INTEGER,                        -- NULL while schedule has said nothing
    generation INTEGER,                     -- the snapshot or its successors that said it
    carrier TEXT,
    number TEXT,
    aircraft TEXT,
    origin TEXT,
    destination TEXT,
    departure INTEGER,                      -- UTC, epoch seconds
    arrival INTEGER,
    departure_offset INTEGER,               -- minutes
    arrival_offset INTEGER,
    delayed INTEGER,
    seats_economy INTEGER,                  -- NULL where the cabin is not on sale
    seats_premium_economy INTEGER,
    seats_business INTEGER,
    seats_first INTEGER,
    price_version INTEGER,                  -- NULL while pricing has said nothing
    price_generation INTEGER,
    price_economy INTEGER,                  -- with taxes, in billionths
    price_premium_economy INTEGER,
    price_business INTEGER,
    price_first INTEGER
);
CREATE INDEX flight_by_route ON flight (origin, destination, departure) WHERE origin IS NOT NULL;
CREATE TABLE route (                        -- pairs that have a flight
    origin TEXT,
    destination TEXT,
    km INTEGER NOT NULL,                    -- along the great circle
    international INTEGER NOT NULL,         -- 1 where a border is between them
    to_hub INTEGER NOT NULL,                -- 1 where changing planes there takes longer
    PRIMARY KEY (origin, destination)
) WITHOUT ROWID;
CREATE INDEX route_by_destination ON route (destination, km);
"""
BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

log = structlog.get_logger()


def open_file(path: Path, contents: str) -> sqlite3.Connection:
    """Opens the file for these contents, after throwing away one that can't be trusted.

    Raises `sqlite3.OperationalError` when the file can't be reached at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    boot = _boot_id()
    if path.exists() and (reason := _distrust(path, boot, contents)):
        log.warning("read_model.rebuilt", path=str(path), reason=reason)
        remove_file(path)
    db = _connect(path)
    if _pragma(db, "application_id") == 0:
        db.executescript(f"BEGIN; {IDENTITY} {SCHEMA} COMMIT")
        db.execute("UPDATE file SET contents = ?", (contents,))
    _mark(db, boot)
    return db


def close_file(db: sqlite3.Connection) -> None:
    """Closes the file such that it will be trusted."""
    _mark(db, "")
    db.close()


def remove_file(path: Path) -> None:
    """Removes a closed file and what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether an error says that the file is broken, not merely unreachable or full."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in BROKEN


def _distrust(path: Path, boot: str, contents: str) -> str | None:
    """Why the file can't be used, if so."""
    try:
        with closing(_connect(path)) as db:
            if _pragma(db, "application_id") != APPLICATION_ID:
                return "of another application"
            if _pragma(db, "user_version") != SCHEMA_VERSION:
                return "of another schema version"
            marked, made_for = db.execute("SELECT boot, contents FROM file").fetchone()
            if marked not in {"", boot}:
                return "open while the machine went down"
            if made_for != contents:
                return f"made for {made_for!r}"
            check = _pragma(db, "quick_check")
            return None if check == "ok" else f"damaged: {check}"
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return f"damaged: {error}"


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.executescript(SETTINGS)
    except sqlite3.DatabaseError:
        db.close()
        raise
    return db


def _pragma(db: sqlite3.Connection, name: str) -> object:
    (value,) = db.execute(f"PRAGMA {name}").fetchone()
    return value


def _mark(db: sqlite3.Connection, boot: str) -> None:
    """Says durably who has the file open; with it, everything written before is durable."""
    db.execute("PRAGMA synchronous = FULL")
    db.execute("UPDATE file SET boot = ?", (boot,))
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.execute("PRAGMA synchronous = OFF")


def _boot_id() -> str:
    """The current boot of this machine; where it is unknown, never the same one again."""
    return BOOT_ID.read_text().strip() if BOOT_ID.exists() else uuid4().hex
