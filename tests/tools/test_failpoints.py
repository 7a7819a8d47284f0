"""The list of failpoints is what the services have, and they have all there is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import failpoints
from tools.binaries import ROOT

PACKAGES = ("booking", "eventstream", "pricing", "schedule")


def writes(file: Path) -> Iterator[ast.Call]:
    """The calls of `Database.write` in a file: of `write` of whatever is called a database."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = ast.unparse(node.func.value).rpartition(".")[2].lstrip("_")
            if node.func.attr == "write" and of in {"db", "database"}:
                yield node


def test_every_write_names_its_step() -> None:
    """No unit of production code can be durable without a name that a crash can be placed at."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    found = [(file, call) for file in files for call in writes(file)]
    unnamed = [
        f"{file.relative_to(ROOT)}:{call.lineno}"
        for file, call in found
        if "step" not in {keyword.arg for keyword in call.keywords}
    ]

    assert len(found) > 10
    assert unnamed == []


def test_services_tell_their_own_points(capsys: pytest.CaptureFixture[str]) -> None:
    """A service's list has its own steps and the library's that it uses, no other service's."""
    failpoints.main(["schedule"])
    told = capsys.readouterr().out.splitlines()

    assert "schedule  schedule.hold:before" in told
    assert "schedule  schedule.hold:written" in told
    assert "schedule  schedule.hold:after" in told
    assert not [line for line in told if "booking." in line or "pricing." in line]
