"""What clients believe about a service: `python -m consulmesh.debug booking --of gateway-bff`.

Needs Consul's address (CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN); running processes are found there. In
the secure profile they are asked as the operator (`consulmesh.operators`).
Ends with 0 when everything was shown, 1 when something could not be, 2 when used wrongly.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Final

import grpc

from consulmesh import event_loop, logs
from consulmesh.client_certificate import ClientCertificate, client_certificate
from consulmesh.config import ConfigError, MeshConfig
from consulmesh.consul_api import ConsulApi, ConsulError
from consulmesh.debug import policy, process, text
from consulmesh.instances import Locality
from consulmesh.operators import environment
from consulmesh.xds.resources import resources

_USED_WRONGLY: Final = 2


async def shown(
    consul: ConsulApi,
    service: str,
    *,
    caller: str | None = None,
    near: Locality | None = None,
    of: str | None = None,
    papers: ClientCertificate | None = None,
) -> tuple[policy.Policy, Sequence[process.Process]]:
    """Ask Consul, and the instances that `of` names; raises ConsulError and NotShownError.

    `near` is where the caller runs; instances that are all at one place say so themselves. With
    `papers` calls are mTLS, those of the mesh and ours.
    """
    domains = (papers.certificate.subject.domain,) if papers else ()
    if of is None:
        said, _ = await policy.policy(consul, service, caller, near=near, domains=domains)
        return said, ()
    caller, found = await process.callers(consul, of)
    places = {each.near for each in found}
    place = places.pop() if len(places) == 1 else near
    said, view = await policy.policy(consul, service, caller, near=place, domains=domains)
    processes = await asyncio.gather(
        *(
            process.process(
                each.instance,
                service,
                resources(view, each.near, domains),
                said.names,
                connect=partial(papers.channel, caller) if papers else process.plain,
            )
            for each in found
        )
    )
    return said, processes


async def show(given: argparse.Namespace, config: MeshConfig) -> int:
    """Print what was asked for; return the exit status."""
    async with ConsulApi(config.consul_url, config.consul_token, config.consul_roots) as consul:
        try:
            said, processes = await shown(
                consul,
                given.service,
                caller=given.caller,
                near=config.locality,
                of=given.of,
                papers=await client_certificate(config, consul) if config.secure else None,
            )
        except ConsulError as error:
            return _failed(f"Consul at {consul.url} does not answer: {error}")
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            return _failed(f"Consul at {config.consul_grpc} signs no certificate: {error}")
        except policy.NotShownError as error:
            return _failed(str(error))
    if given.json:
        found = {"policy": asdict(said), "processes": [asdict(each) for each in processes]}
        lines = [json.dumps(found, indent=2)]
    else:
        lines = list(text.lines(said, processes))
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if said.unanswered or any(each.error for each in processes) else 0


def arguments_parser() -> argparse.ArgumentParser:
    """What the command line may say."""
    parser = argparse.ArgumentParser(
        prog="python -m consulmesh.debug",
        description="Show what clients believe about a service: chain, endpoints, policy, states.",
    )
    parser.add_argument("service", help="the service that is called")
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument(
        "--as",
        dest="caller",
        metavar="CALLER",
        help="what Consul says to this service, whose UpstreamConfig counts",
    )
    whose.add_argument(
        "--of",
        metavar="CALLER",
        help="the same, and what its running processes have: a service or an instance id",
    )
    parser.add_argument("--json", action="store_true", help="all of it, for programs")
    return parser


def main() -> None:
    """Entry point."""
    given = arguments_parser().parse_args()
    logs.configure("critical", sys.stderr.fileno())
    try:
        config = MeshConfig.from_env(environment(), version="0.0.0")
    except ConfigError as error:
        _failed(str(error))
        sys.exit(_USED_WRONGLY)
    sys.exit(event_loop.run(show(given, config)))


def _failed(why: str) -> int:
    sys.stderr.write(f"{why}\n")
    return 1


if __name__ == "__main__":
    main()
