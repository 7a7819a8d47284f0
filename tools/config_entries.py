"""The config entries of the mesh: `python -m tools.config_entries [--check | --apply]`.

Without an option it generates consul/service-defaults/ from the proto descriptors: every API
speaks gRPC, and its Meta says which methods may be retried, for clients in any language. `--apply`
writes these entries and the intentions to Consul (CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN).
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from consul.exceptions import ConsulException
from consul.std import Consul
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from requests import RequestException

from consulmesh.administration import Administration
from consulmesh.config import ConfigError, MeshConfig
from tools.binaries import ROOT
from tools.credentials import MANAGEMENT, environment

FOLDER = ROOT / "consul"
GEN = ROOT / "gen"
DEFAULTS = FOLDER / "service-defaults"
NAMES = {"search": "flight-search"}  # where a service is not called what its API is called
OTHERS = {"gateway-bff": "http"}  # services without a proto API, and their protocol
LONGEST = 512  # characters of a Meta value
KINDS = ("service-defaults", "service-intentions")  # in the order in which Consul wants them
CONSULS_OWN = ("CreateIndex", "ModifyIndex", "Hash")
ATTEMPTS = 3  # to write an entry that somebody else writes at the same time
TIMEOUT = timedelta(seconds=10)
UNSETTLED = "Intentions are read only while being upgraded"  # what a new leader says for a moment
SETTLED_WITHIN = 10.0  # seconds
PAUSE = 0.1

Entry = dict[str, Any]


def services() -> Iterator[tuple[str, ServiceDescriptor]]:
    """Every proto service of the project, with the name it has in Consul."""
    for file in sorted(GEN.glob("flights/*/v1/*_pb2.py")):
        module = ".".join(file.relative_to(GEN).with_suffix("").parts)
        for service in importlib.import_module(module).DESCRIPTOR.services_by_name.values():
            api = service.full_name.split(".")[1]
            yield NAMES.get(api, api), service


def retryable(method: MethodDescriptor) -> bool:
    """Whether a client may repeat a call by itself; watches resume by their cursor instead."""
    level = method.GetOptions().idempotency_level
    watch = method.server_streaming and method.name.startswith("Watch")
    return level != MethodOptions.IDEMPOTENCY_UNKNOWN and not watch


def grpc_defaults(name: str, service: ServiceDescriptor) -> Entry:
    """The entry of a gRPC service. Raises ValueError where Consul would cut a value off."""
    methods = ", ".join(method.name for method in service.methods if retryable(method))
    if len(methods) > LONGEST:
        raise ValueError(f"{name}: the names of retryable methods exceed {LONGEST} characters")
    meta = {"grpc-service": service.full_name, "retryable-methods": methods}
    return {"Kind": "service-defaults", "Name": name, "Protocol": "grpc", "Meta": meta}


def generated() -> dict[str, str]:
    """The texts of consul/service-defaults/, by file name."""
    entries: list[Entry] = [grpc_defaults(name, service) for name, service in services()]
    entries += [
        {"Kind": "service-defaults", "Name": name, "Protocol": protocol}
        for name, protocol in OTHERS.items()
    ]
    return {f"{entry['Name']}.json": json.dumps(entry, indent=2) + "\n" for entry in entries}


def stale() -> list[str]:
    """Files that are missing, left over or not as they would be generated."""
    wanted = generated()
    found = {file.name: file.read_text() for file in DEFAULTS.glob("*.json")}
    return sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))


def generate() -> None:
    """Write what is stale, remove what is left over."""
    DEFAULTS.mkdir(exist_ok=True)
    wanted = generated()
    for name in stale():
        if name in wanted:
            (DEFAULTS / name).write_text(wanted[name])
        else:
            (DEFAULTS / name).unlink()


def shipped() -> list[Entry]:
    """The entries in the files, in the order in which to write them."""
    entries = [json.loads(file.read_text()) for file in sorted(FOLDER.glob("*/*.json"))]
    for entry in entries:
        if entry["Kind"] not in KINDS:
            raise ValueError(f"{entry['Kind']} {entry['Name']} belongs to operators, not to files")
    return sorted(entries, key=lambda entry: KINDS.index(entry["Kind"]))


def merged(ours: Entry, there: Entry | None) -> Entry:
    """Our fields over those in Consul: what operators added to service-defaults stays.

    The sources of intentions are exactly ours: an edge that left the files is closed.
    """
    if there is None:
        return ours
    kept = {name: value for name, value in there.items() if name not in CONSULS_OWN}
    meta = {"Meta": there.get("Meta", {}) | ours["Meta"]} if "Meta" in ours else {}
    return kept | ours | meta


def contained(wanted: Any, there: Any) -> bool:
    """Whether Consul has a value, apart from fields that Consul adds."""
    if isinstance(wanted, dict) and isinstance(there, dict):
        return all(contained(value, there.get(name)) for name, value in wanted.items())
    if isinstance(wanted, list) and isinstance(there, list):
        return len(wanted) == len(there) and all(
            any(contained(value, candidate) for candidate in there) for value in wanted
        )
    return bool(wanted == there)


def write(client: Consul, ours: Entry) -> bool:
    """Bring one entry to Consul if it differs; False if it did not."""
    kind, name = ours["Kind"], ours["Name"]
    for _ in range(ATTEMPTS):
        answer = client.config.get(kind, name)
        there: Entry | None = dict(answer) if answer else None
        if contained(ours, there):
            return False
        index = there["ModifyIndex"] if there else 0
        if _set(client, merged(ours, there), index):
            return True
    raise ConsulException(f"{kind} {name} is being written by somebody else")


def _set(client: Consul, entry: Entry, index: int) -> bool:
    """Compare and set; waits for a leader that was elected a moment ago."""
    until = time.monotonic() + SETTLED_WITHIN
    while True:
        try:
            done: bool = client.config.set(entry["Kind"], entry["Name"], entry, cas=index)
        except ConsulException as error:
            if UNSETTLED not in str(error) or time.monotonic() > until:
                raise
            time.sleep(PAUSE)  # Consul has nothing to wait for that says when
        else:
            return done


def apply(consul_url: str, token: str | None = None, roots: Path | None = None) -> list[str]:
    """Bring every shipped entry to a Consul (`bring`)."""
    token = token or os.environ.get("CONSUL_HTTP_TOKEN") or None
    with Administration(consul_url, token, TIMEOUT, roots) as client:
        return bring(client)


def bring(client: Consul) -> list[str]:
    """Write every shipped entry that Consul has not; returns "kind/name" of those written.

    Raises ConsulException or requests.RequestException. Entries of other kinds, and entries of
    these kinds that no file names, are never touched.
    """
    return [f"{e['Kind']}/{e['Name']}" for e in shipped() if write(client, e)]


def apply_from_environment() -> None:
    """Write to the Consul that the environment names, and say what was written."""
    try:
        config = MeshConfig.from_env(environment(MANAGEMENT), version="")
        written = apply(config.consul_url, config.consul_token, config.consul_roots)
    except (ConfigError, ConsulException, RequestException) as error:
        sys.exit(f"config entries not written: {error}")
    print("written: " + ", ".join(written) if written else "Consul has all config entries")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    options = parser.add_mutually_exclusive_group()
    options.add_argument("--check", action="store_true", help="only say whether they are fresh")
    options.add_argument("--apply", action="store_true", help="write them to Consul")
    given = parser.parse_args()
    if given.apply:
        apply_from_environment()
    elif not given.check:
        generate()
    elif names := stale():
        sys.exit("consul/service-defaults/ is stale, run `make proto`: " + ", ".join(names))


if __name__ == "__main__":
    main()
