"""Which instance may be restarted: one that another can stand in for."""

from types import SimpleNamespace
from typing import Any

import pytest

from tools.instances import need_another


def client(**shards: str | None) -> Any:
    """A Consul whose passing instances are these, each of a shard or of none."""
    entries = [
        {"Service": {"ID": name, "Meta": {} if shard is None else {"shard": shard}}}
        for name, shard in shards.items()
    ]

    def service(_name: str, *, passing: bool) -> tuple[int, list[Any]]:
        assert passing
        return 1, entries

    return SimpleNamespace(health=SimpleNamespace(service=service))


@pytest.mark.parametrize(
    "passing",
    [
        {"one": None, "two": None},
        {"two": None},  # the one is away already, and is renewed
        {"one": "0", "two": "1", "three": "0"},
    ],
)
def test_one_with_a_stand_in_may_go(passing: dict[str, str | None]) -> None:
    """Another instance passes that answers the same calls."""
    try:
        need_another(client(**passing), "search", "one")
    except SystemExit as error:
        refusal = str(error)
    else:
        refusal = ""

    assert refusal == ""


@pytest.mark.parametrize(
    ("passing", "reason"),
    [
        ({"one": None}, "one is the only instance that passes"),
        ({}, "one is the only instance that passes"),
        ({"one": "0", "two": "1"}, "one is the only instance of shard 0"),
    ],
)
def test_one_without_a_stand_in_stays(passing: dict[str, str | None], reason: str) -> None:
    """The instances of other shards know other days: they can't answer for it."""
    with pytest.raises(SystemExit, match=reason):
        need_another(client(**passing), "search", "one")
