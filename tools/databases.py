"""Which databases the durable services of a system use.

SQLite files in `<run>/data`, a PostgreSQL server of the system's own, or the one of `DATABASE_URL`.
A system keeps what it has begun with until it is told otherwise while it is down: its data are
there.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tools.programs import Databases, Settings

ENGINES: Final = ("sqlite", "postgres")


def choose(
    settings: Settings, asked: str | None, environ: Mapping[str, str], *, running: bool
) -> Databases:
    """What `make up` is to use; exits where a running system would have to change.

    `asked` is one of ENGINES, None: what the system has, else what the environment says.
    """
    before = remembered(settings)
    match asked, before:
        case "sqlite", _:
            wanted = Databases()
        case "postgres", _:
            wanted = server(settings, environ)
        case _, None:
            wanted = server(settings, environ) if environ.get("DATABASE_URL") else Databases()
        case _, _:
            wanted = before
    if running and before is not None and wanted != before:
        sys.exit(
            f"the system runs on {described(before)}: `make down` first. It then starts on"
            f" {described(wanted)}; nothing is copied"
        )
    return wanted


def server(settings: Settings, environ: Mapping[str, str]) -> Databases:
    """The user's PostgreSQL, else the system's own."""
    url = environ.get("DATABASE_URL")
    if not url:
        return own_server(settings)
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - 0.2 s, and SQLite needs none of it
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415 - as above

    try:
        backend = make_url(url).get_backend_name()
    except ArgumentError:
        sys.exit("DATABASE_URL is no URL")
    if backend not in {"postgresql", "postgres"}:
        sys.exit(f"DATABASE_URL names {backend}; the services know PostgreSQL and SQLite")
    return Databases(url=url)


def own_server(settings: Settings) -> Databases:
    """The server that is one of the system's processes."""
    folder = settings.postgres_socket_folder
    return Databases(url=f"postgresql://postgres@/postgres?host={folder}", own=True)


def remembered(settings: Settings) -> Databases | None:
    """What the system has begun with; None: it has not."""
    file = _file(settings)
    if not file.exists():
        return None
    match file.read_text(encoding="utf-8"):
        case "sqlite":
            return Databases()
        case "postgres":
            return own_server(settings)
        case url:
            return Databases(url=url)


def remember(settings: Settings) -> None:
    """Write down what the system uses; for nobody else's eyes, a URL may hold a password."""
    file, databases = _file(settings), settings.databases
    file.touch(mode=0o600)
    text = ("postgres" if databases.own else databases.url) if databases.url else "sqlite"
    file.write_text(text, encoding="utf-8")


def described(databases: Databases) -> str:
    """The databases in words, without a password."""
    if not databases.url:
        return "SQLite"
    if databases.own:
        return "a PostgreSQL of its own"
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - as above

    return f"PostgreSQL at {make_url(databases.url).render_as_string()}"


def _file(settings: Settings) -> Path:
    return settings.run / "database"
