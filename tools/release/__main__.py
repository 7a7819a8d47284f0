"""The command: `python -m tools.release COMMAND SERVICE …` (`make release ARGS='…'`).

Versions are those that instances have in Consul's Meta (MESH_VERSION). CONSUL_HTTP_ADDR says where
Consul is. Exit status: 0 done, or the canary is no worse; 1 refused, or Consul is away; 3 the
canary was rolled back; 4 there was too little to judge it by.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from consul.exceptions import ConsulException
from consul.std import Consul
from requests import RequestException

from consulmesh.administration import Administration
from consulmesh.config import ConfigError, MeshConfig, duration, semantic_version
from consulmesh.xds.matching import UnmatchableError, route_match
from tools import announce
from tools.credentials import RELEASES, environment
from tools.release import moves
from tools.release.comparison import Terms
from tools.release.rollout import RefusedError, Rollout, read
from tools.release.watching import GOOD, watch

HEADINGS: Final = ("VERSION", "PASSING", "CALLS")
TIMEOUT: Final = timedelta(seconds=10)
USUAL: Final = Terms()
_HEADER: Final = re.compile(r"([A-Za-z0-9_.-]+)([=~])(.+)")
_LEAST: Final = 0.01  # percent, Consul's


def status(client: Consul, service: str) -> None:
    """Print the versions of a service with their instances and what calls they get."""
    there = read(client, service)
    rollout = there.rollout
    instances = moves.processes(client, service)
    listed = Counter(process.version for process in instances)
    well = Counter(process.version for process in instances if process.passing)
    rows: list[tuple[str, ...]] = [
        (version, f"{well[version]} of {listed[version]}", calls(rollout, version))
        for version in sorted(rollout.versions | listed.keys())
    ]
    announce.table(rows, HEADINGS)
    for each in there.theirs:
        announce.say(f"\n{each} are not a release's: commands that would change them refuse")
    if there.their_router:
        announce.say(f"\nthe service-router of {service} is an operator's")


def calls(rollout: Rollout, version: str) -> str:
    """What calls a version gets, in words."""
    trial = rollout.canary
    if trial:
        weights = {trial.version: trial.weight, trial.stable: round(100 - trial.weight, 2)}
        share = f"{weights.get(version, 0):g} %"
    elif rollout.live:
        share = "all" if rollout.live == version else "none"
    else:
        share = "by its instances"
    told = [f"with {each}" for each in rollout.previews if each.version == version]
    before = ["live before"] if rollout.previous == version else []
    return ", ".join([share, *told, *before])


def header(text: str) -> tuple[str, str, str]:
    """The name, condition and value of `x-preview=1`, or of `x-bucket~[0-4]` for an expression.

    What the mesh would leave out of a router, because gRPC core can't look at it, is refused.
    """
    if not (found := _HEADER.fullmatch(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value or name~expression")
    name, condition, value = found[1].lower(), "Regex" if found[2] == "~" else "Exact", found[3]
    try:
        route_match({"Match": {"HTTP": {"Header": [{"Name": name, condition: value}]}}})
    except UnmatchableError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name, condition, value


def percent(text: str) -> float:
    """A share of the calls that is not none and not all."""
    weight = round(float(text), 2)
    if not _LEAST <= weight <= 100 - _LEAST:
        raise argparse.ArgumentTypeError(f"{text} is not from {_LEAST} to {100 - _LEAST}")
    return weight


def arguments() -> argparse.Namespace:
    """What the user typed."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, does: Callable[..., Any]) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=does.__doc__, description=does.__doc__)
        one.add_argument("service")
        return one

    command("status", status)
    command("pin", moves.pin).add_argument("--version", type=semantic_version)
    command("unpin", moves.unpin)
    command("promote", moves.promote)
    command("rollback", moves.rollback)
    command("blue-green", moves.blue_green).add_argument(
        "--to", type=semantic_version, required=True
    )
    some = command("canary", moves.canary)
    some.add_argument("--to", type=semantic_version, required=True)
    some.add_argument("--weight", type=percent, default=10.0, help="percent of the calls")
    shown = command("preview", moves.preview)
    shown.add_argument("--to", type=semantic_version)
    shown.add_argument("--header", type=header, help="name=value, or name~expression")
    shown.add_argument("--off", action="store_true", help="no header matters any more")
    judge = command("watch", watch)
    judge.add_argument("--for", dest="lasting", type=duration, default=USUAL.lasting)
    judge.add_argument("--window", type=duration, default=USUAL.window)
    judge.add_argument("--interval", type=duration, default=USUAL.interval)
    judge.add_argument("--min-calls", type=int, default=USUAL.min_calls)
    judge.add_argument("--margin", type=percent, default=1.0, help="percent of failing calls more")
    judge.add_argument("--promote", action="store_true", help="if it is no worse in the end")
    given = parser.parse_args()
    if given.command == "preview" and given.off == bool(given.to and given.header):
        shown.error("--to and --header, or --off")
    return given


def run(client: Consul, given: argparse.Namespace) -> int:
    """Do what was asked; returns the exit status."""
    service: str = given.service
    match given.command:
        case "status":
            status(client, service)
            return GOOD
        case "watch":
            terms = Terms(
                lasting=given.lasting,
                window=given.window,
                interval=given.interval,
                min_calls=given.min_calls,
                margin=given.margin / 100,
            )
            return watch(client, service, terms, then_promote=given.promote)
        case "pin":
            said = moves.pin(client, service, given.version)
        case "unpin":
            said = moves.unpin(client, service)
        case "canary":
            said = moves.canary(client, service, given.to, given.weight)
        case "promote":
            said = moves.promote(client, service)
        case "rollback":
            said = moves.rollback(client, service)
        case "blue-green":
            said = moves.blue_green(client, service, given.to)
        case "preview" if given.off:
            said = moves.no_previews(client, service)
        case _:
            said = moves.preview(client, service, given.to, given.header)
    announce.say(said)
    return GOOD


def main() -> None:
    """Entry point."""
    given = arguments()
    try:
        config = MeshConfig.from_env(environment(RELEASES), version="")
        with Administration(
            config.consul_url, config.consul_token, TIMEOUT, config.consul_roots
        ) as client:
            sys.exit(run(client, given))
    except RequestException as error:
        sys.exit(f"Consul at {config.consul_url} does not answer: {error}")
    except (ConfigError, ConsulException) as error:
        sys.exit(str(error))
    except RefusedError as error:
        sys.exit(f"refused: {error}")


if __name__ == "__main__":
    main()
