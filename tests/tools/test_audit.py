"""What the audit of dependencies says when it could not look."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tools.audit import FOUND, NOT_LOOKED, OWN_LOCK, audit

GOOD: dict[str, Any] = {"name": "a", "version": "1", "vulns": []}
BAD: dict[str, Any] = {
    "name": "b",
    "version": "2",
    "vulns": [{"id": "PYSEC-2026-1", "fix_versions": ["2.1"]}],
}
SKIPPED: dict[str, Any] = {"name": "c", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("output", "status", "said"),
    [
        ([GOOD], 0, ["1 packages looked up, 0 advisories"]),
        ([GOOD, BAD], FOUND, ["b 2: PYSEC-2026-1 (fixed in 2.1)"]),
        ([GOOD, SKIPPED], NOT_LOOKED, ["COULD NOT LOOK UP 1: c"]),
        ([BAD, SKIPPED], FOUND, ["COULD NOT LOOK UP 1: c", "1 advisories"]),
        ([SKIPPED], NOT_LOOKED, ["COULD NOT LOOK: no source"]),
        ([], NOT_LOOKED, ["COULD NOT LOOK: no source"]),
        (None, NOT_LOOKED, ["COULD NOT LOOK: no source"]),
    ],
)
def test_what_was_not_looked_up_is_not_called_good(
    output: list[dict[str, Any]] | None, status: int, said: list[str]
) -> None:
    """pip-audit ends with 0 and finds nothing where its source has no package at all."""
    text = "Traceback" if output is None else json.dumps({"dependencies": output})

    def run(command: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(command, 0, stdout=text, stderr="")

    found = audit(Path(), run)
    lines = "\n".join(found.lines())

    assert found.status == status
    assert [each for each in said if each not in lines] == []


def test_the_tools_are_pinned() -> None:
    """With hashes, and without the address of an index."""
    text = OWN_LOCK.read_text(encoding="utf-8")

    assert "pip-audit==" in text
    assert "cyclonedx-bom==" in text
    assert text.count("==") <= text.count("--hash=sha256:")
    assert "http" not in text
