"""What the documents say of files, commands, settings and metrics is so."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import callers, problem_catalogue
from tools.binaries import ROOT

LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
TEST = re.compile(r"test_\w+")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
TARGET = re.compile(r"\bmake (?:-s )?([a-z][a-z-]*)")
VARIABLE = re.compile(r"^\| `([A-Z][A-Z0-9_]+)`", re.MULTILINE)
EVENTS = re.compile(r"^\| (`[^|]+) \|", re.MULTILINE)
METRIC = re.compile(
    r'"((?:mesh|rpc_server|rpc_client|eventstream|flight_search|http_server)_[a-z_]+)"'
)
OPERATIONS = ROOT / "docs" / "operations.md"
NOT_OURS = {"PATH"}


def files(pattern: str) -> Iterator[Path]:
    """The project's files of a kind, without those in hidden folders."""
    yield from ROOT.glob(pattern)
    for folder in ROOT.iterdir():
        if folder.is_dir() and not folder.name.startswith("."):
            yield from folder.rglob(pattern)


DOCUMENTS = sorted(files("*.md"))
IDS = [str(document.relative_to(ROOT)) for document in DOCUMENTS]


def code() -> Iterator[Path]:
    """Everything that runs outside of tests."""
    for file in files("*.py"):
        if file.relative_to(ROOT).parts[0] not in {"tests", "gen"}:
            yield file


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = HEADING.findall(FENCE.sub("", document.read_text(encoding="utf-8")))
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {text.replace(" ", "-") for text in plain}


def is_broken(document: Path, text: str, target: str) -> bool:
    """Whether a link leads nowhere; one whose text is a test must lead to that test."""
    if re.match(r"[a-z]+:", target):
        return False
    path, _, anchor = target.partition("#")
    file = (document.parent / path).resolve() if path else document
    if not file.exists():
        return True
    if anchor and anchor not in anchors(file):
        return True
    test = text.strip("`")
    return bool(TEST.fullmatch(test)) and f"def {test}(" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_every_link_leads_somewhere(document: Path) -> None:
    """A relative link names a file, a heading or a test that is there."""
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    broken = [link for link in LINK.findall(text) if is_broken(document, *link)]

    assert not broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_every_command_exists(document: Path) -> None:
    """A `make` in code names a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    spans = CODE.findall(document.read_text(encoding="utf-8"))
    named = {target for span in spans for target in TARGET.findall(span)}

    assert named <= targets


def test_every_variable_that_is_read_is_documented() -> None:
    """The tables of settings are whole."""
    documented = set(VARIABLE.findall(OPERATIONS.read_text(encoding="utf-8")))
    read = {name for file in code() for name in variables(file)} - NOT_OURS

    assert len(read) > 10
    assert read <= documented


def test_every_documented_variable_is_known_to_the_code() -> None:
    """The tables of settings have nothing that is gone."""
    documented = set(VARIABLE.findall(OPERATIONS.read_text(encoding="utf-8")))
    sources = [*files("*.py"), ROOT / "Makefile"]
    known = "\n".join(source.read_text(encoding="utf-8") for source in sources)

    assert {name for name in documented if not re.search(rf"\b{name}\b", known)} == set()


def variables(file: Path) -> Iterator[str]:
    """The environment variables that a file reads."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    constants = {
        node.target.id: node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    for node in ast.walk(tree):
        key = key_of(node)
        if isinstance(key, ast.Name):
            key = constants.get(key.id)
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield key.value


def key_of(node: ast.AST) -> ast.expr | None:
    """What is looked up, where a node looks something up in an environment."""
    match node:
        case ast.Subscript(value=owner, slice=key):
            pass
        case ast.Call(
            func=ast.Attribute(value=owner, attr="get" | "read" | "getenv"), args=[key, *_]
        ):
            pass
        case _:
            return None
    return key if re.search(r"\b(env|environ|os|Environment)\b", ast.unparse(owner)) else None


def test_every_metric_is_documented() -> None:
    """The tables of metrics are whole."""
    text = OPERATIONS.read_text(encoding="utf-8")
    measured = {name for file in code() for name in METRIC.findall(file.read_text("utf-8"))}

    assert len(measured) > 10
    assert {name for name in measured if f"`{name}" not in text} == set()


def test_every_log_event_exists() -> None:
    """The table of log events has nothing that is gone."""
    section = OPERATIONS.read_text(encoding="utf-8").partition("## Log events")[2]
    table = section.partition("\n## ")[0]
    named = {event for row in EVENTS.findall(table) for event in re.findall(r"`([^`]+)`", row)}
    logged = "\n".join(file.read_text(encoding="utf-8") for file in code())

    assert len(named) > 10
    assert {event for event in named if f'"{event}"' not in logged} == set()


def test_the_catalogue_of_problems_is_fresh() -> None:
    """Nobody changed the gateway's table without it."""
    assert not problem_catalogue.stale()


def test_the_table_of_callers_is_fresh() -> None:
    """Nobody changed an intention or a method without it."""
    assert not callers.stale()
