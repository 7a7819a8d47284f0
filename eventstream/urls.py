"""Where a service's database is."""

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy.engine import URL, make_url


def database_url(environ: Mapping[str, str], name: str, state_dir: Path) -> str:
    """Return the URL of the database `name`.

    `DATABASE_URL` names a server, each service has the database of its own name there; without it
    the database is a SQLite file below `state_dir`. The result contains the password where the
    server's URL does: it is for `Database.open`, not for a log.
    """
    server = environ.get("DATABASE_URL")
    if server:
        return make_url(server).set(database=name).render_as_string(hide_password=False)
    file = (state_dir / "data" / f"{name}.db").absolute()
    return URL.create("sqlite", database=str(file)).render_as_string()
