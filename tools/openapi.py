"""The public API's document, docs/openapi.json: `python -m tools.openapi [--check | --baseline]`.

Generated from the gateway's routes, so that it says what the gateway does. `--check` also compares
it with that of the last release, docs/openapi-baseline.json: what clients rely on may not go.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import orjson

from gateway_bff.app import ROUTES
from gateway_bff.openapi import made
from tools.binaries import ROOT
from tools.breaking import breaks

FILE: Final = ROOT / "docs" / "openapi.json"
BASELINE: Final = ROOT / "docs" / "openapi-baseline.json"


def text() -> bytes:
    """The document as it is written down: keys as they come, which is a stable order."""
    return orjson.dumps(made(ROUTES), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def stale(file: Path = FILE) -> bool:
    """Whether the file is missing, or not as it would be generated."""
    return not file.exists() or file.read_bytes() != text()


def broken() -> list[str]:
    """What the document takes from clients of the last release."""
    old: dict[str, Any] = orjson.loads(BASELINE.read_bytes())
    return breaks(old, orjson.loads(text()))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="only say whether it is fresh")
    choice.add_argument("--baseline", action="store_true", help="make it what may not be broken")
    given = parser.parse_args()
    if given.check:
        if stale():
            sys.exit("docs/openapi.json is stale, run `make proto`")
        if found := broken():
            sys.exit("\n".join(["docs/openapi.json breaks clients:", *found]))
        print("docs/openapi.json is fresh and breaks nobody")
        return
    file = BASELINE if given.baseline else FILE
    file.write_bytes(text())
    print(f"{file.relative_to(ROOT)} written")


if __name__ == "__main__":
    main()
