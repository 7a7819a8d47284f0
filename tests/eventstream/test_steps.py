"""Durable steps and failpoints."""

import asyncio
import signal
import sqlite3
import sys
from pathlib import Path

import pytest

from consulmesh.config import ConfigError
from eventstream.steps import Failpoint, Point, Step

_PROGRAM = """
import asyncio, sys
from sqlalchemy import text
from eventstream import Database, Step

ADD = Step("test.add")

def create(connection):
    connection.execute(text("CREATE TABLE number (n INTEGER PRIMARY KEY)"))

def add(connection):
    connection.execute(text("INSERT INTO number DEFAULT VALUES"))

async def main():
    async with Database.open(sys.argv[1]) as db:
        await db.write(create)
        for _ in range(3):
            await db.write(add, step=ADD)
            print("told", flush=True)

asyncio.run(main())
"""


async def _run(database: Path, failpoint: str) -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _PROGRAM,
        f"sqlite:///{database}",
        env={"MESH_FAILPOINT": failpoint},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out, err


@pytest.mark.parametrize(
    ("point", "told", "kept"), [("before", 1, 1), ("written", 1, 1), ("after", 1, 2)]
)
async def test_a_process_dies_at_its_point(
    tmp_path: Path, point: str, told: int, kept: int
) -> None:
    """The second pass of a point kills: what is durable then depends on the point alone."""
    database = tmp_path / "test.db"

    code, out, _ = await _run(database, f"test.add:{point}:2")
    rows = sqlite3.connect(database).execute("SELECT count(*) FROM number").fetchone()

    assert code == -signal.SIGKILL
    assert len(out.split()) == told
    assert rows == (kept,)


async def test_nothing_happens_without_a_failpoint(tmp_path: Path) -> None:
    """The same program without the variable ends by itself."""
    code, out, _ = await _run(tmp_path / "test.db", "")

    assert (code, len(out.split())) == (0, 3)


@pytest.mark.parametrize(
    "text",
    ["test.other:after", "test.known", "test.known:never", "test.known:after:0", "a:after:1:x"],
)
def test_what_is_no_point_is_refused(text: str) -> None:
    """A failpoint that does not exist would let a test pass that tests nothing."""
    with pytest.raises(ConfigError, match=r"before, written, after, steps .*test\.known"):
        Failpoint.from_env({"MESH_FAILPOINT": text})


def test_names_are_unique() -> None:
    """Two steps of one name can't be told apart."""
    with pytest.raises(ValueError, match=r"test\.known"):
        Step("test.known")


KNOWN = Step("test.known")


def test_a_point_of_another_step_passes() -> None:
    """Only the armed point counts."""
    failpoint = Failpoint.from_env({"MESH_FAILPOINT": "test.known:before"})

    assert failpoint is not None
    failpoint.reached(KNOWN, Point.AFTER)
