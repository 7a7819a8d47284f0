"""Put load on the running system with Locust: `python -m bench.load --seconds 30 [--ui]`.

Exits 1 when an answer was wrong or a call failed.
"""

import argparse
import asyncio
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from consulmesh import logs
from consulmesh.local_issuer import LocalIssuer
from consulmesh.xds.bootstrap import FILE_VARIABLE
from tools.binaries import ROOT
from tools.operators import joined, xds
from tools.programs import Settings

SPAWN_RATE = 20


def arguments() -> argparse.Namespace:
    """What the user typed."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--host", default="http://127.0.0.1:8080")
    parser.add_argument("--run", type=Path, default=ROOT / ".run", help="folder of the system")
    parser.add_argument("--ui", action="store_true", help="open Locust's web page on :8089 instead")
    return parser.parse_args()


def environment(settings: Settings) -> dict[str, str]:
    """What the locustfile needs: a customer's token, and the way into the mesh."""
    own = {
        "FLIGHTMESH_TOKEN": LocalIssuer(settings.run / "issuer").token("load", {"customer"}),
        **xds(settings),
        "MESH_SECURE": "true" if settings.secure else "",
        "GRPC_VERBOSITY": "ERROR",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "gen")]),
    }
    inherited = {k: v for k, v in os.environ.items() if k != FILE_VARIABLE}
    return {**inherited, **own}


async def load(settings: Settings, command: list[str]) -> int:
    """Run Locust; in the secure profile with the xDS and the certificate of an operator."""
    async with joined(settings) if settings.secure else nullcontext():
        process = await asyncio.create_subprocess_exec(
            *command, env=environment(settings), cwd=ROOT
        )
        return await process.wait()


def main() -> None:
    """Entry point."""
    given = arguments()
    settings = Settings(run=given.run.resolve())
    logs.configure("critical", sys.stderr.fileno())
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "bench" / "locustfile.py")]
    command += ["--host", given.host]
    if not given.ui:
        command += ["--headless", "--only-summary", "--users", str(given.users)]
        command += ["--spawn-rate", str(SPAWN_RATE), "--run-time", f"{given.seconds}s"]
    sys.exit(asyncio.run(load(settings, command)))


if __name__ == "__main__":
    main()
