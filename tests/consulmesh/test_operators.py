"""People's tools find a secure system by what it left for them, and nobody else's."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from consulmesh.operators import environment

LEFT = {
    "CONSUL_HTTP_ADDR": "https://127.0.0.1:8500",
    "CONSUL_HTTP_TOKEN_FILE": "/x/operator",
    "MESH_SECURE": "true",
}


@pytest.fixture
def state(tmp_path: Path) -> str:
    """The folder of a secure system."""
    file = tmp_path / "operator" / "environment"
    file.parent.mkdir()
    file.write_text("".join(f"{name}={value}\n" for name, value in LEFT.items()))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, LEFT),
        ({"CONSUL_HTTP_ADDR": ""}, LEFT),
        ({"CONSUL_HTTP_ADDR": "https://127.0.0.1:8500"}, LEFT),
        ({"CONSUL_HTTP_TOKEN_FILE": "/mine"}, LEFT | {"CONSUL_HTTP_TOKEN_FILE": "/mine"}),
        ({"CONSUL_HTTP_ADDR": "http://other:8500"}, {"CONSUL_HTTP_ADDR": "http://other:8500"}),
    ],
    ids=str,
)
def test_what_a_system_left_counts_for_its_own_consul_alone(
    state: str, given: Mapping[str, str], found: Mapping[str, str]
) -> None:
    """What the shell says goes first; who names another Consul gets nothing of this system's."""
    here = {"MESH_STATE_DIR": state}

    assert environment({**given, **here}) == {**found, **here}


def test_a_plain_system_leaves_nothing(tmp_path: Path) -> None:
    """The environment is that of the shell."""
    given = {"MESH_STATE_DIR": str(tmp_path), "CONSUL_HTTP_TOKEN": "t"}

    assert environment(given) == given
