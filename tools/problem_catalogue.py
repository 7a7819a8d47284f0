"""The catalogue of the public API's problems: `python -m tools.problem_catalogue [--check]`.

Generated from the gateway's one table, so that it says what the gateway says.
"""

import argparse
import sys
from collections.abc import Iterator

from gateway_bff.problems import MEDIA_TYPE, TITLES, TYPE_PREFIX
from tools.binaries import ROOT

FILE = ROOT / "docs" / "problems.md"
HEAD = f"""\
# Problems

<!-- Generated from gateway_bff/problems.py by `make proto`: change the table there. -->

Every error of the public API is a problem document
([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)), `{MEDIA_TYPE}`, with the members
`type`, `title`, `status`, `detail`, `instance`, `code` and `trace_id`; `errors` names the fields
that are wrong (`field`, `code`, `detail`). Branch on `code`; take one that you don't know by its
status. `type` is `{TYPE_PREFIX}` and the code in lower case, with hyphens.
Which statuses an operation answers stands in `/openapi.json`.

| status | code | title |
|---|---|---|
"""


def rows() -> Iterator[str]:
    """A line for every code of every status."""
    for status, titles in sorted(TITLES.items()):
        for code, title in titles.items():
            yield f"| {status} | `{code}` | {title} |\n"


def text() -> str:
    """The whole catalogue."""
    return HEAD + "".join(rows())


def stale() -> bool:
    """Whether the file is missing, or not as it would be generated."""
    return not FILE.exists() or FILE.read_text(encoding="utf-8") != text()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether it is fresh")
    given = parser.parse_args()
    if not stale():
        print("docs/problems.md is fresh")
    elif given.check:
        sys.exit("docs/problems.md is stale, run `make proto`")
    else:
        FILE.write_text(text(), encoding="utf-8")
        print("docs/problems.md written")


if __name__ == "__main__":
    main()
