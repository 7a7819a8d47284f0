"""Judge a history and the databases it was made with: exit code 1 where an invariant is broken.

Databases are `sqlite:///FILE` or `postgresql://…`; they are only read, and must be at rest.
"""

import argparse
import sys
from pathlib import Path

from bench.checker.databases import Urls
from bench.checker.history import read_file
from bench.checker.judgement import judge


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.checker", description=__doc__)
    parser.add_argument("--history", type=Path, required=True, help="JSON lines, see history.py")
    for service in ("booking", "schedule", "pricing"):
        parser.add_argument(f"--{service}", required=True, metavar="URL")
    given = parser.parse_args()
    urls = Urls(booking=given.booking, schedule=given.schedule, pricing=given.pricing)
    report = judge(read_file(given.history), urls)
    print(report)
    sys.exit(0 if report.holds else 1)


if __name__ == "__main__":
    main()
