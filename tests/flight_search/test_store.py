import asyncio
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from flight_search import store
from flight_search.domain import Position
from flight_search.read_model import SCHEDULE, DamagedFileError, ReadModel
from tests.flight_search.timetables import DIRECTORY, feed, flight, found, prices, query

EIGHT = datetime(2026, 3, 8, 13, tzinfo=UTC)
THERE = Position(source=SCHEDULE, epoch="e", seq=7)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed file with a thousand flights, one of them on sale, complete up to a position."""
    path = tmp_path / "data" / "search.db"
    with ReadModel(path, DIRECTORY) as model:
        model.start_snapshot(SCHEDULE)
        others = [flight(f"x{number}", "FRA", "SYD", EIGHT) for number in range(1000)]
        feed(model, [prices("a"), flight("a", "JFK", "LAX", EIGHT), *others])
        model.apply(SCHEDULE, (), THERE)
    return path


def reasons(path: Path) -> tuple[list[str], Position | None]:
    """Why an opened file was made anew, if so, and the position it then has."""
    with capture_logs() as logged, ReadModel(path, DIRECTORY) as model:
        position = model.position(SCHEDULE)
    return [line["reason"] for line in logged if line["event"] == "read_model.rebuilt"], position


def test_a_restart_continues_with_the_file(path: Path) -> None:
    """What was applied, and the position with it, is there again."""
    with ReadModel(path, DIRECTORY) as model:
        position, flights = model.position(SCHEDULE), found(model, query())

    assert position == THERE
    assert flights == [("a",)]


def test_a_killed_process_loses_nothing(path: Path) -> None:
    """A file that was not closed is used again while the machine has not gone down."""
    db = store.open_file(path, "shard 0/1")
    db.execute("UPDATE source SET seq = 8")
    db.close()

    assert reasons(path) == ([], Position(source=SCHEDULE, epoch="e", seq=8))


def test_a_file_that_was_open_when_the_machine_went_down_is_made_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Writes may be lost without a trace then, so nothing of the file is believed."""
    store.open_file(path, "shard 0/1").close()
    (tmp_path / "boot_id").write_text("another boot\n")
    monkeypatch.setattr(store, "BOOT_ID", tmp_path / "boot_id")

    assert reasons(path) == (["open while the machine went down"], None)


def test_a_file_that_was_closed_survives_the_machine(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file closed in order is durable, so another boot may go on with it."""
    monkeypatch.setattr(store, "BOOT_ID", tmp_path / "absent")

    assert reasons(path) == ([], THERE)


def test_an_interrupted_snapshot_starts_again(path: Path) -> None:
    """A position is forgotten when a snapshot starts, and stays so over a restart."""
    with ReadModel(path, DIRECTORY) as model:
        model.start_snapshot(SCHEDULE)
        model.apply(SCHEDULE, [flight("b", "JFK", "LAX", EIGHT)], None)

    assert reasons(path) == ([], None)


@pytest.mark.parametrize("content", [b"no database at all" * 500, b"short", b""])
def test_a_file_that_is_no_database_is_made_anew(tmp_path: Path, content: bytes) -> None:
    """Whatever lies there instead of a database is thrown away, with a line in the log."""
    path = tmp_path / "search.db"
    path.write_bytes(content)
    (logged,), position = reasons(path)

    assert logged
    assert position is None


def test_a_truncated_file_is_made_anew(path: Path) -> None:
    """A file whose end is missing is noticed at start."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    (logged,), position = reasons(path)

    assert "malformed" in logged or "damaged" in logged
    assert position is None


def test_a_corrupted_page_is_made_anew(path: Path) -> None:
    """Garbage in the middle of the file is noticed at start."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    (logged,), position = reasons(path)

    assert "damaged" in logged
    assert position is None


@pytest.mark.parametrize(
    ("pragma", "reason"),
    [
        ("application_id = 1", "of another application"),
        ("user_version = 999", "of another schema version"),
    ],
)
def test_a_foreign_file_is_made_anew(path: Path, pragma: str, reason: str) -> None:
    """A database of another program, or of another schema, is not read."""
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA {pragma}")
    db.close()

    assert reasons(path) == ([reason], None)


def test_a_truncated_log_loses_whole_batches_only(path: Path) -> None:
    """A write-ahead log that lost its end leads back to an earlier position and its data."""
    db = store.open_file(path, "shard 0/1")
    for seq in range(8, 20):
        db.execute("UPDATE source SET seq = ?", (seq,))
    log = path.with_name(path.name + "-wal")
    content = log.read_bytes()
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    copy.with_name("copy.db-wal").write_bytes(content[: len(content) // 2])
    db.close()
    logged, position = reasons(copy)

    assert logged == []
    assert position is not None
    assert 7 < position.seq < 19


def test_damage_that_shows_later_ends_the_process_and_the_file(path: Path) -> None:
    """A query that meets a broken page says so, and the next start is from nothing."""
    content = bytearray(path.read_bytes())
    with ReadModel(path, DIRECTORY) as model:
        for page in range(4096, len(content), 4096):
            content[page : page + 4096] = b"\xa5" * 4096
        path.write_bytes(content)
        model._db.execute("PRAGMA shrink_memory")
        with pytest.raises(sqlite3.DatabaseError):
            found(model, query())
        noticed = model.damaged.is_set()

    assert noticed
    assert not path.exists()


async def test_a_damaged_file_ends_the_process(path: Path) -> None:
    """The job that watches the file fails, and closing the model then removes the file."""
    with ReadModel(path, DIRECTORY) as model:
        model.damaged.set()
        with pytest.raises(DamagedFileError):
            await asyncio.wait_for(model.fail_when_damaged(), 30)

    assert reasons(path) == ([], None)
