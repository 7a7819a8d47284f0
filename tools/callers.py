"""Who may call what, in docs/security.md: `python -m tools.callers [--check]`.

Generated from the shipped intentions and the proto descriptors, so that it says what they say.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from consulmesh.intentions import Intentions
from tools.binaries import ROOT
from tools.config_entries import services, shipped
from tools.programs import IDENTITIES

FILE: Final = ROOT / "docs" / "security.md"
BEGIN: Final = (
    "<!-- Generated from consul/intentions/ by `make proto`: change the intentions there. -->\n"
)
END: Final = "<!-- end of what is generated -->\n"
ADMIN: Final = (
    "envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
    "grpc.channelz.v1.Channelz/GetServers",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "streams.v1.InboxService/ListDeadLetters",
    "envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
)
"""A method of each of the services that are for operators alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Whether a service may call a method ("package.Service/Method") of another, or of its own."""

    caller: str
    called: str
    method: str
    allowed: bool


def intentions() -> dict[str, Intentions]:
    """The shipped intentions of each destination, as its processes get them from Consul."""
    return {
        entry["Name"]: Intentions(map(_matched, entry["Sources"]))
        for entry in shipped()
        if entry["Kind"] == "service-intentions"
    }


def _matched(source: dict[str, Any]) -> dict[str, Any]:
    return {"SourceName": source["Name"], **source}


def methods(called: str) -> list[str]:
    """The methods of a service's own API."""
    return [
        f"{api.full_name}/{method.name}"
        for name, api in services()
        if name == called
        for method in api.methods
    ]


def rules() -> Iterator[Rule]:
    """Who may call what: everybody, everything."""
    for called, found in sorted(intentions().items()):
        for caller in IDENTITIES:
            for method in (*methods(called), *ADMIN):
                allowed = found.allow(caller, f"/{method}", dict)
                yield Rule(caller=caller, called=called, method=method, allowed=allowed)


def table() -> str:
    """The table: a row for each pair of which the one may call anything of the other."""
    lines = ["| who is called | by | may call |", "|---|---|---|"]
    every = list(rules())
    for called in sorted(intentions()):
        for caller in IDENTITIES:
            own = [each for each in every if (each.caller, each.called) == (caller, called)]
            allowed = [each.method for each in own if each.allowed]
            if len(allowed) == len(own):
                said = "everything"
            else:
                said = ", ".join(f"`{method.rpartition('/')[2]}`" for method in allowed)
            if said:
                lines.append(f"| {called} | {caller} | {said} |")
    return "\n".join(lines) + "\n"


def text() -> str:
    """The whole document, with the table as it is to be."""
    before, _, rest = FILE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def stale() -> bool:
    """Whether the table is missing, or not as it would be generated."""
    return FILE.read_text(encoding="utf-8") != text()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether it is fresh")
    given = parser.parse_args()
    if not stale():
        print("docs/security.md is fresh")
    elif given.check:
        sys.exit("docs/security.md is stale, run `make proto`")
    else:
        FILE.write_text(text(), encoding="utf-8")
        print("docs/security.md written")


if __name__ == "__main__":
    main()
