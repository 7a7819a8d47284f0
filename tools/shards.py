"""The shards of search: how many a system has, and how calls find them.

The gateway names a shard in a header, a service-router sends calls with it to a subset, and the
subsets are told apart by what the instances say of themselves in Meta.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from consul.std import Consul

from gateway_bff.shards import HEADER
from tools.programs import SEARCH, Settings

RESOLVER, ROUTER = "service-resolver", "service-router"
_OURS: Final = {"written-by": "make up SHARDS"}
_ADDED: Final = {"CreateIndex", "ModifyIndex", "Hash"}


def choose(settings: Settings) -> int:
    """As many as were asked for, else as the system has had, else one."""
    file = _file(settings)
    before = int(file.read_text(encoding="utf-8")) if file.exists() else 1
    return settings.shards or before


def remember(settings: Settings) -> None:
    """Write down how many the system has."""
    _file(settings).write_text(str(settings.shards), encoding="utf-8")


def entries(count: int) -> Iterator[dict[str, Any]]:
    """The config entries of so many shards, in the order of writing; of one, none."""
    if count == 1:
        return
    names = {number: f"shard-{number}" for number in range(count)}
    yield {
        "Kind": RESOLVER,
        "Name": SEARCH,
        "Subsets": {
            name: {"Filter": f'Service.Meta.shard == "{n}" and Service.Meta.shards == "{count}"'}
            for n, name in names.items()
        },
        "Meta": _OURS,
    }
    yield {
        "Kind": ROUTER,
        "Name": SEARCH,
        "Routes": [
            {
                "Match": {"HTTP": {"Header": [{"Name": HEADER, "Exact": str(n)}]}},
                "Destination": {"ServiceSubset": name},
            }
            for n, name in names.items()
        ],
        "Meta": _OURS,
    }


def apply(client: Consul, count: int) -> None:
    """Bring the entries of so many shards to Consul; exits where an operator has others there."""
    wanted = list(entries(count))
    there = {kind: client.config.get(kind, SEARCH) for kind in (RESOLVER, ROUTER)}
    theirs = [kind for kind, entry in there.items() if entry and entry.get("Meta") != _OURS]
    if wanted and theirs:
        sys.exit(
            f"{' and '.join(theirs)} of {SEARCH} in Consul are not ours: SHARDS={count} needs"
            " both, see Shards in docs/operations.md"
        )
    if all(_same(entry, there[entry["Kind"]]) for entry in wanted) and wanted:
        return
    for kind in (ROUTER, RESOLVER):  # what refers to the other first
        if there[kind] and kind not in theirs:
            client.config.delete(kind, SEARCH)
    for entry in wanted:
        client.config.set(entry["Kind"], entry["Name"], entry)


def _same(wanted: dict[str, Any], there: Any) -> bool:
    return bool(there) and wanted == {k: there[k] for k in wanted if k in there}


def _file(settings: Settings) -> Path:
    return settings.run / "shards"
