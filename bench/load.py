"""Put load on the running system with Locust: `python -m bench.load --seconds 30 [--ui]`.

Exits 1 when an answer was wrong or a call failed.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from consulmesh.users import LocalIssuer
from tools.binaries import ROOT

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


def environment(run: Path) -> dict[str, str]:
    """What the locustfile needs: a customer's token, and the way into the mesh."""
    own = {
        "FLIGHTMESH_TOKEN": LocalIssuer(run / "issuer").token("load", {"customer"}),
        "GRPC_XDS_BOOTSTRAP": str(run / "xds-bootstrap.json"),
        "GRPC_VERBOSITY": "ERROR",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "gen")]),
    }
    return {**os.environ, **own}


def main() -> None:
    """Entry point."""
    given = arguments()
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "bench" / "locustfile.py")]
    command += ["--host", given.host]
    if not given.ui:
        command += ["--headless", "--only-summary", "--users", str(given.users)]
        command += ["--spawn-rate", str(SPAWN_RATE), "--run-time", f"{given.seconds}s"]
    done = subprocess.run(command, env=environment(given.run), cwd=ROOT, check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
