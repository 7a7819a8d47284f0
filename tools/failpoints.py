"""Every point at which a service can be made to die: `python -m tools.failpoints [SERVICE …]`.

`MESH_FAILPOINT=booking.begin:written` kills the process there, see `eventstream.steps`. What is
printed is what the services themselves have: each is imported by a Python of its own, as the steps
of all that is imported are in one list.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from eventstream.steps import UNNAMED, Point
from tools.binaries import ROOT

SERVICES: Final = ("booking", "pricing", "schedule")
_STEPS: Final = "import {0}.__main__; from eventstream.steps import steps; print(*steps())"


def steps(service: str) -> list[str]:
    """Return the names of a service's durable steps, in order."""
    command = [sys.executable, "-c", _STEPS.format(service)]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in told.stdout.split() if name != UNNAMED.name]


def points(service: str) -> list[str]:
    """Return what `MESH_FAILPOINT` may say to a service, step by step."""
    return [f"{step}:{point}" for step in steps(service) for point in Point]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tools.failpoints", description=__doc__)
    parser.add_argument("service", nargs="*", help="all that have a database by default")
    for service in parser.parse_args(arguments).service or SERVICES:
        print(*(f"{service}  {point}" for point in points(service)), sep="\n")


if __name__ == "__main__":
    main()
