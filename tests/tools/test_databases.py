"""What `make up` decides about databases, and the PostgreSQL server that it runs."""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from tools import databases, postgres
from tools.programs import Databases, Settings, mesh_programs, supervisor_config
from tools.supervision import Supervisor, until

THEIRS = "postgresql://ann:p%40ss@db.example/postgres"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A system that has never run."""
    return Settings(run=tmp_path)


@pytest.mark.parametrize(
    ("asked", "environ", "url"),
    [
        (None, {}, ""),
        ("sqlite", {"DATABASE_URL": THEIRS}, ""),
        (None, {"DATABASE_URL": THEIRS}, THEIRS),
        ("postgres", {"DATABASE_URL": THEIRS}, THEIRS),
    ],
)
def test_a_new_system_takes_what_was_asked_then_what_the_environment_says(
    settings: Settings, asked: str | None, environ: dict[str, str], url: str
) -> None:
    """SQLite unless somebody wants PostgreSQL; a server of the user's is used, not doubled."""
    chosen = databases.choose(settings, asked, environ, running=False)

    assert chosen == Databases(url=url)


def test_without_a_server_of_the_users_it_brings_its_own(settings: Settings) -> None:
    """On a socket below its folder, so two systems have two servers."""
    chosen = databases.choose(settings, "postgres", {}, running=False)

    assert chosen.own
    assert str(settings.run) in chosen.url


@pytest.mark.parametrize("url", ["", THEIRS])
def test_a_system_keeps_its_databases(settings: Settings, url: str) -> None:
    """A later `make up` without a word about databases finds the data of before."""
    databases.remember(replace(settings, databases=Databases(url=url)))
    chosen = databases.choose(settings, None, {"DATABASE_URL": "postgresql:///x"}, running=False)

    assert chosen == Databases(url=url)


def test_a_running_system_does_not_change_its_databases(settings: Settings) -> None:
    """It says what to do instead, and shows no password."""
    databases.remember(replace(settings, databases=Databases(url=THEIRS)))
    with pytest.raises(SystemExit) as refused:
        databases.choose(settings, "sqlite", {}, running=True)

    assert "make down" in str(refused.value)
    assert "p%40ss" not in str(refused.value)


def test_a_database_that_is_neither_is_refused(settings: Settings) -> None:
    """By the name of its kind."""
    with pytest.raises(SystemExit, match="mysql"):
        databases.choose(settings, None, {"DATABASE_URL": "mysql://db"}, running=False)


def test_what_holds_a_password_is_private(settings: Settings) -> None:
    """The file that remembers the server is its owner's only."""
    databases.remember(replace(settings, databases=Databases(url=THEIRS)))

    assert (settings.run / "database").stat().st_mode & 0o077 == 0


def test_only_the_durable_services_are_told_of_the_server(settings: Settings) -> None:
    """The read model is a file of each instance; a % is doubled, as supervisor wants it."""
    told = replace(settings, databases=Databases(url=THEIRS))
    wanted = list(mesh_programs(told, 1))
    with_server = {p.name for p in wanted if p.environment.get("DATABASE_URL")}

    assert with_server == {"schedule-1", "pricing-1", "booking-1"}
    assert "p%%40ss" in supervisor_config(told, wanted)


@pytest.fixture(scope="module")
def own() -> Iterator[Settings]:
    """A system of nothing but a PostgreSQL, in a folder with a name too long for its socket."""
    with (
        tempfile.TemporaryDirectory(prefix="flightmesh-" + "x" * 60) as folder,
        postgres.alone(Path(folder).resolve() / "run") as settings,
    ):
        yield settings


def test_the_servers_own_commits_are_durable(own: Settings) -> None:
    """It waits for the disk, and nobody reaches it over the network."""
    with psycopg.connect(own.databases.url) as connection:
        shown = [
            connection.execute(f"SHOW {name}").fetchone()
            for name in ("fsync", "synchronous_commit", "full_page_writes", "listen_addresses")
        ]

    assert shown == [("on",), ("on",), ("on",), ("",)]


def test_a_killed_server_comes_back_with_its_data(own: Settings) -> None:
    """The supervisor starts it again, and it recovers."""
    with psycopg.connect(own.databases.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    supervisor = Supervisor(own)
    began = time.monotonic()
    os.kill(supervisor.states()[0].pid, signal.SIGKILL)
    until(lambda: postgres.refusal(own.databases.url) is None, "the server")
    supervisor.close()
    with psycopg.connect(own.databases.url) as connection:
        row = connection.execute("SELECT answer FROM kept").fetchone()

    assert row == (42,)
    assert time.monotonic() - began < 60


def test_a_server_that_does_not_answer_says_why(tmp_path: Path) -> None:
    """What `make up` shows for a DATABASE_URL that leads nowhere."""
    assert "No such file" in str(postgres.refusal(f"postgresql://ann@/x?host={tmp_path}"))
