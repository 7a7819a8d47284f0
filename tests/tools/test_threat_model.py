"""The threat model promises nothing that no test tries. That the tests exist: `test_docs`."""

import re
from typing import Final

from tools.binaries import ROOT

TEXT: Final = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
TABLE: Final = re.compile(r"^\| cannot \| test \|\n\|---\|---\|\n((?:\|.*\n)+)", re.MULTILINE)
LINK: Final = re.compile(r"\[(test_\w+)\]\((\.\./tests/[\w/]+\.py)\)")


def test_each_attacker_is_told_what_they_cannot_do() -> None:
    """A section for each of them, with a table."""
    sections = re.findall(r"^## ([A-Z]): .*\n((?:(?!## ).*\n)*)", TEXT, re.MULTILINE)

    assert [letter for letter, _ in sections] == [*"ABCDEF"]
    assert [letter for letter, body in sections if len(TABLE.findall(body)) != 1] == []


def test_each_promise_names_its_test() -> None:
    """The last cell of each row is links to tests, and nothing else."""
    rows = [row for table in TABLE.findall(TEXT) for row in table.splitlines()]
    proofs = [row.rstrip(" |").rpartition(" | ")[2] for row in rows]

    assert len(rows) > 20
    assert [proof for proof in proofs if LINK.sub("", proof).strip(", ") != ""] == []
    assert [proof for proof in proofs if not LINK.search(proof)] == []


def test_what_is_tried_is_told() -> None:
    """A threat that has a test and no row would not be known to be ruled out."""
    tests = (ROOT / "tests" / "consulmesh" / "test_threats.py").read_text(encoding="utf-8")

    assert [name for name in re.findall(r"def (test_\w+)", tests) if f"[{name}]" not in TEXT] == []
