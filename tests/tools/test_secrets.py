"""No secret is in the repository: what git tracks is searched for what looks like one."""

import math
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

from tools.binaries import ROOT

PATTERNS: Final = {
    "private key": re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    "token of a service": re.compile(
        r"\b(?:xox[abeprs]-|gh[opsur]_|github_pat_|glpat-|pypi-AgE|npm_|sk_live_|rk_live_|AIza)"
        r"[A-Za-z0-9_-]{10,}"
    ),
    "AWS key": re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b"),
    "JSON web token": re.compile(
        r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    ),
    "private JWK": re.compile(r'"d"\s*:\s*"[A-Za-z0-9_-]{32,}"'),
    "password in a URL": re.compile(
        r"\b[a-z][a-z+]*://[^\s:/@\"'{}$<>]+:(?![$<{]|password@)[^\s:/@\"'{}$<>]{6,}@"
    ),
}
ASSIGNED: Final = re.compile(
    r"(?i)\b[a-z_]*(?:password|passwd|secret|token|api_?key|credential)s?[a-z_]*[\"']?"
    r"\s*(?::\s*[A-Za-z\[\]., |]+)?(?:=|:|=>)\s*[\"']?"
    r"(?P<value>[A-Za-z0-9+/_-]{20,}={0,2}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})[\"']?"
)
"""A long word after a name that says what it is; whether it is random is asked separately."""
RANDOM: Final = 3.5  # bits a character: hex of some length has nearly 4, base64 more, words less
ALLOWED: Final = {
    "tests/eventstream/test_urls.py": "a password that must not be shown, of no server",
    "tests/tools/test_databases.py": "as above",
}
"""What looks like a secret and is none, by path, with the reason."""
GENERATED: Final = ("requirements", "gen/", "tools/go.lock")
"""Hashes and bytes of descriptors; asked for patterns, not for assignments."""


def tracked() -> list[str]:
    """The paths of all files that git has."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [path for path in listed.stdout.decode().split("\0") if path]


def entropy(text: str) -> float:
    """Bits a character, by how often each comes."""
    shares = [count / len(text) for count in Counter(text).values()]
    return -sum(share * math.log2(share) for share in shares)


def is_random(text: str) -> bool:
    """Whether a long word has digits, and letters as nobody writes them."""
    return bool(re.search(r"\d", text)) and entropy(text.lower()) > RANDOM


def found(text: str, *, assignments: bool = True) -> Iterator[str]:
    """What looks like a secret, by kind."""
    for kind, pattern in PATTERNS.items():
        if pattern.search(text):
            yield kind
    for each in ASSIGNED.finditer(text) if assignments else ():
        if is_random(each["value"]):
            yield f"assigned: {each[0][:40]}"


def test_no_tracked_file_has_a_secret() -> None:
    """Keys, tokens, passwords: the list of what is allowed names the exceptions."""
    paths = tracked()
    suspects = {}
    for path in paths:
        file = ROOT / path
        if not file.is_file() or path in ALLOWED:
            continue
        text = file.read_bytes().decode(errors="replace")
        if kinds := [*found(text, assignments=not path.startswith(GENERATED))]:
            suspects[path] = kinds

    assert len(paths) > 500
    assert suspects == {}


def test_what_is_allowed_is_there() -> None:
    """An exception whose file is gone, or has nothing any more, is one too many."""
    for path in ALLOWED:
        text = (ROOT / path).read_bytes().decode(errors="replace")

        assert [*found(text)], path


def test_no_file_is_tracked_that_holds_secrets_by_its_name() -> None:
    """Environments, keys, key stores, and what a system leaves in its folder."""
    secret = re.compile(r"(^|/)(\.env(\..*)?|\.run|id_(rsa|ed25519|ecdsa)|\.pypirc|\.netrc)")
    stores = (".pem", ".key", ".p12", ".pfx", ".jks", ".keystore")

    assert [path for path in tracked() if secret.search(path) or path.endswith(stores)] == []


PLANTED: Final = {
    "private key": "-----BEGIN EC " + "PRIVATE KEY-----",
    "encrypted key": "-----BEGIN ENCRYPTED " + "PRIVATE KEY-----",
    "slack": "xoxb-" + "123456789012-abcdefghijkl",
    "github": "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a",
    "aws": "AKIA" + "IOSFODNN7EXAMPLE",
    "jwt": "eyJhbGciOiJFUzI1NiJ9" + ".eyJzdWIiOiJhbm4ifQ" + ".c2lnbmF0dXJl",
    "jwk": '{"kty": "EC", "d": ' + '"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}',
    "url": "postgresql://flightmesh:" + "hunter2hunter2@db:5432/",
    "uuid": "consul_token = " + '"1b0e7a5c-93f4-4d2e-8c6a-5f1d2e3b4c7a"',
    "hex": "POSTGRES_PASSWORD=" + "9f86d081884c7d659a2feaa0c55ad015",
    "base64": 'secret: "' + 'q2w9Zk3LmT7xVb1NpR5sHd8fJg4yCu0aEo6iQtBvKxM="',
    "typed": 'TOKEN: Final = "' + '4f3c2b1a9d8e7f6a5b4c3d2e1f0a9b8c"',
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_secret_is_found(name: str) -> None:
    """The search can fail: each kind is seen where it stands."""
    assert [*found(f"x = 1\n{PLANTED[name]}\n")]


@pytest.mark.parametrize(
    "text",
    [
        "password: ${POSTGRES_PASSWORD:?see the head of this file}",
        "postgresql://user:password@host:5432/",
        "TOKEN_INVALID = 'TOKEN_KEYS_UNAVAILABLE'",
        "token = LocalIssuer(folder).token('ann', {'customer'})",
        "secret_name = 'a_long_name_of_a_thing_that_is_written_out'",
    ],
)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    """Names, references and examples."""
    assert [*found(text)] == []
