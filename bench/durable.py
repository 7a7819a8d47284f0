"""Databases of a benchmark, and its yardstick: raw durable commits a second.

A raw commit is one row, on one connection of the database's own driver, without SQLAlchemy, on the
same disk and with the settings of the services: SQLite in WAL mode with `synchronous = FULL`,
PostgreSQL with what the server has.
"""

import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from tools import postgres
from tools.supervision import Supervisor

PAYLOAD: Final = "x" * 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """An engine's databases: URLs by service, and a commit of one row beside them.

    `server` is the database server, where there is one and it is ours to look at.
    """

    urls: Mapping[str, str]
    commit: Callable[[], Any]
    server: psutil.Process | None = None

    def raw_rate(self, seconds: float) -> float:
        """Durable commits a second, one after the other, over so many seconds."""
        count, began = 0, time.perf_counter()
        while (now := time.perf_counter()) < began + seconds:
            self.commit()
            count += 1
        return count / (now - began)

    def server_cpu(self) -> float:
        """CPU seconds of the server: of all its processes, and of those that have ended."""
        if self.server is None:
            return 0.0
        times = [process.cpu_times() for process in (self.server, *self.server.children())]
        ended = times[0].children_user + times[0].children_system
        return float(sum(each.user + each.system for each in times) + ended)


@contextmanager
def sqlite(folder: Path, names: Sequence[str]) -> Iterator[Storage]:
    """Files in a folder."""
    with closing(sqlite3.connect(folder / "raw.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE raw (seq INTEGER PRIMARY KEY, payload TEXT)")
        yield Storage(
            urls={name: f"sqlite:///{folder}/{name}.db" for name in names},
            commit=lambda: connection.execute("INSERT INTO raw (payload) VALUES (?)", (PAYLOAD,)),
        )


@contextmanager
def on_postgres(folder: Path, names: Sequence[str]) -> Iterator[Storage]:
    """Databases on `DATABASE_URL`, else on a server of our own; dropped afterwards."""
    if url := os.environ.get("DATABASE_URL"):
        with _on_server(url, names, None) as storage:
            yield storage
        return
    with postgres.alone(folder / "server") as settings:
        supervisor = Supervisor(settings)
        pid = supervisor.states()[0].pid
        supervisor.close()
        with _on_server(settings.databases.url, names, psutil.Process(pid)) as storage:
            yield storage


@contextmanager
def _on_server(
    server: str, names: Sequence[str], process: psutil.Process | None
) -> Iterator[Storage]:
    mark = uuid.uuid4().hex[:8]
    ours = {name: f"bench_{name}_{mark}" for name in names}
    raw = f"bench_raw_{mark}"
    with psycopg.connect(postgres.libpq(server), autocommit=True) as administration:
        administration.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(raw)))
        try:
            with _committing(_database(server, raw)) as commit:
                urls = {name: _database(server, database) for name, database in ours.items()}
                yield Storage(urls=urls, commit=commit, server=process)
        finally:
            for name in (raw, *ours.values()):
                drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
                administration.execute(drop.format(sql.Identifier(name)))


@contextmanager
def _committing(url: str) -> Iterator[Callable[[], Any]]:
    with psycopg.connect(postgres.libpq(url), autocommit=True) as connection:
        connection.execute("CREATE TABLE raw (seq bigserial PRIMARY KEY, payload text)")
        yield lambda: connection.execute(
            "INSERT INTO raw (payload) VALUES (%s)", (PAYLOAD,), prepare=True
        )


def _database(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


ENGINES: Final = {"sqlite": sqlite, "postgres": on_postgres}
