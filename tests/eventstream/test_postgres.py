"""What a database means on PostgreSQL, beyond what it means on either engine."""

import asyncio
from functools import partial

import pytest
from sqlalchemy import Connection, insert, text
from sqlalchemy.exc import IntegrityError

from eventstream import Database
from tests.databases import Postgres, name_of
from tests.eventstream.conftest import THINGS, names, put


@pytest.fixture
def engine() -> str:
    """Return the only engine that these tests are about."""
    return "postgres"


@pytest.fixture
def name(url: str) -> str:
    """Return the name of the test's database."""
    return name_of(url)


async def test_own_commits_count_once(db: Database) -> None:
    """A process does not hear itself."""
    await db.changed(0)
    seen = db.version
    for number in range(5):
        await db.write(partial(put, name=str(number)))
    await asyncio.sleep(0.2)

    assert db.version == seen + 5


async def test_a_unit_that_goes_on_after_an_error_is_undone_alone(db: Database) -> None:
    """PostgreSQL ends the transaction at any error: the unit fails, its group does not."""

    def careless(connection: Connection) -> str:
        put(connection, "a")
        try:
            put(connection, "a")
        except IntegrityError:
            return "went on"
        return "unreachable"

    one, two = await asyncio.gather(
        db.write(careless), db.write(partial(put, name="b")), return_exceptions=True
    )

    assert isinstance(one, RuntimeError)
    assert two == 1
    assert await db.read(names) == ["b"]


async def test_no_error_shows_what_a_row_says(
    db: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a broken constraint, nor one that breaks at the commit, nor a value that is none."""

    def late(connection: Connection) -> None:
        connection.execute(
            text(
                "ALTER TABLE thing ADD CONSTRAINT once UNIQUE (name) DEFERRABLE INITIALLY DEFERRED"
            )
        )
        connection.execute(text("ALTER TABLE thing DROP CONSTRAINT thing_pkey"))

    def twice(connection: Connection) -> None:
        connection.execute(insert(THINGS), [{"name": "Ann Lee", "version": 1}] * 2)

    def cast(connection: Connection) -> None:
        connection.execute(text("SELECT CAST(:name AS integer)"), {"name": "Ann Lee"})

    shown = []
    for unit in (twice, cast):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - any error must be silent
            await db.write(unit)
        shown.append(str(caught.value))
    await db.write(late)
    with pytest.raises(IntegrityError, match="once") as caught:
        await db.write(twice)
    shown += [str(caught.value), repr(caught.value), capsys.readouterr().out]

    assert "Ann Lee" not in "".join(shown)


async def test_commits_are_flushed_although_the_server_would_rather_not(
    url: str, postgres: Postgres, name: str
) -> None:
    """A database whose commits are asynchronous by default is written synchronously."""
    async with Database.open(url):
        pass
    with postgres.connect() as connection:
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    async with Database.open(url) as db:
        setting = await db.write(lambda c: c.scalar(text("SHOW synchronous_commit")))
        reading = await db.read(lambda c: c.scalar(text("SHOW transaction_isolation")))

    assert setting == "on"
    assert reading == "repeatable read"


async def test_the_plain_scheme_of_other_tools_is_accepted(db: Database, url: str) -> None:
    """`postgres://` is what many servers' URLs begin with."""
    await db.write(partial(put, name="a"))
    async with Database.open(url.replace("postgresql:", "postgres:", 1)) as other:
        seen = await other.read(names)

    assert seen == ["a"]
