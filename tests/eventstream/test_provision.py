"""How a database comes to be on a PostgreSQL server."""

import socket

import pytest

from consulmesh.config import ConfigError
from eventstream import Database, StorageUnavailableError
from tests.databases import Postgres, name_of


@pytest.fixture
def engine() -> str:
    """Return the only engine that these tests are about."""
    return "postgres"


@pytest.fixture
def name(url: str) -> str:
    """Return the name of the test's database."""
    return name_of(url)


async def test_a_database_that_would_sort_or_store_otherwise_is_refused(
    url: str, postgres: Postgres, name: str
) -> None:
    """Streams are read in the order of code points; the error says how to create the database."""
    with postgres.connect() as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"
        )
    with pytest.raises(ConfigError, match=f"CREATE DATABASE \"{name}\" .* LOCALE 'C'"):
        async with Database.open(url):
            pass


async def test_a_user_who_may_not_create_the_database_is_told_its_name(
    url: str, postgres: Postgres, name: str
) -> None:
    """And what an operator has to do."""
    with postgres.connect() as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN")
        try:
            poor = url.replace("postgres:@", f"{name}:@")
            with pytest.raises(ConfigError, match=f"no database '{name}'.*CREATE DATABASE"):
                async with Database.open(poor):
                    pass
        finally:
            connection.execute(f"DROP ROLE {name}")


async def test_a_server_that_accepts_and_says_nothing_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that starts gives up on it in the end."""
    monkeypatch.setattr("eventstream.postgres._START", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(StorageUnavailableError, match="'booking' can't be reached"):
            async with Database.open(f"postgresql://u@127.0.0.1:{port}/booking?connect_timeout=2"):
                pass
