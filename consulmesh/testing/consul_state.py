"""What a fake Consul knows: registrations, checks, config entries, keys, and their indexes."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

FIRST_INDEX = 10
NODE = {"ID": "fake", "Node": "fake", "Address": "127.0.0.1", "Datacenter": "dc1", "Meta": {}}
SERF_HEALTH = {"Node": "fake", "CheckID": "serfHealth", "Status": "passing", "Output": "alive"}

Json = dict[str, Any]


@dataclass(slots=True)
class Registered:
    """One registration at the agent, with its checks by id."""

    service: Json
    checks: dict[str, Json] = field(default_factory=dict)

    @property
    def content_hash(self) -> str:
        """Changes when the registration does; its checks do not matter."""
        text = json.dumps(self.service, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def entry(self) -> Json:
        """Return it as an element of /v1/health/service."""
        checks = [SERF_HEALTH, *self.checks.values()]
        return {"Node": NODE, "Service": self.service, "Checks": [dict(c) for c in checks]}


class ConsulState:
    """One index for all, and for every topic (a service's health, a kind, an entry) its last one.

    Whatever changes goes through `change`, which wakes all who wait in `until`.
    """

    def __init__(self, index: int = FIRST_INDEX) -> None:
        self.index = index
        self.services: dict[str, Registered] = {}
        self.config: dict[tuple[str, str], Json] = {}
        self.kv: dict[str, bytes] = {}
        self._base = index
        self._indexes: dict[str, int] = {}
        self._woken = asyncio.Event()

    def index_of(self, topic: str) -> int:
        """Return the index of the last change of a topic."""
        return self._indexes.get(topic, self._base)

    def change(self, *topics: str) -> None:
        """Note that topics changed."""
        self.index += 1
        self._indexes |= dict.fromkeys(topics, self.index)
        self.wake()

    def wake(self) -> None:
        """Let everyone who waits look again."""
        self._woken.set()
        self._woken = asyncio.Event()

    async def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for a condition, or until the time is over."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    await self._woken.wait()
        except TimeoutError:
            return

    def register(self, definition: Mapping[str, Any]) -> Registered:
        """Take a registration; as in Consul, known checks keep their status and output."""
        given = _lower(definition)
        service_id = given.get("id") or given["name"]
        known = self.services.get(service_id)
        checks = given.get("checks") or ([given["check"]] if given.get("check") else [])
        registered = Registered(service=_service(service_id, given))
        for number, check in enumerate(checks):
            made = _check(registered.service, number, _lower(check))
            if known and (before := known.checks.get(made["CheckID"])):
                made |= {"Status": before["Status"], "Output": before["Output"]}
            registered.checks[made["CheckID"]] = made
        self.services[service_id] = registered
        self.change(*_topics(registered.service["Service"]))
        return registered

    def deregister(self, service_id: str) -> bool:
        """Forget a registration; False if it was not there."""
        if (registered := self.services.pop(service_id, None)) is None:
            return False
        self.change(*_topics(registered.service["Service"]))
        return True

    def set_check(self, service_id: str, check: Json) -> None:
        """Add a check or replace it; nothing happens if it is as it was."""
        registered = self.services[service_id]
        if registered.checks.get(check["CheckID"]) != check:
            registered.checks[check["CheckID"]] = check
            self.change(f"health/{registered.service['Service']}")

    def drop_check(self, service_id: str, check_id: str) -> None:
        """Remove a check."""
        registered = self.services[service_id]
        if registered.checks.pop(check_id, None):
            self.change(f"health/{registered.service['Service']}")

    def health(self, service: str) -> list[Json]:
        """Return all instances of a service, as /v1/health/service does."""
        found = (r for r in self.services.values() if r.service["Service"] == service)
        return [registered.entry() for registered in found]

    def put_config(self, entry: Mapping[str, Any]) -> None:
        """Write a config entry; an equal one changes no index."""
        key = entry["Kind"], entry["Name"]
        before = self.config.get(key, {})
        if all(before.get(name) == value for name, value in entry.items()) and before:
            return
        self.change(*_config_topics(*key))
        created = before.get("CreateIndex", self.index)
        indexes = {"CreateIndex": created, "ModifyIndex": self.index}
        self.config[key] = {**_completed(entry), **indexes}

    def delete_config(self, kind: str, name: str) -> None:
        """Delete a config entry, if it is there."""
        if self.config.pop((kind, name), None):
            self.change(*_config_topics(kind, name))

    def put_key(self, key: str, value: bytes) -> None:
        """Set a key of the key-value store."""
        self.kv[key] = value
        self.change("kv")

    def delete_key(self, key: str) -> None:
        """Delete a key, if it is there."""
        if self.kv.pop(key, None) is not None:
            self.change("kv")

    def keys(self, key: str, *, prefix: bool) -> list[Json]:
        """Return a key, or all that start so, as /v1/kv does."""
        return [
            {"Key": name, "Value": base64.b64encode(value).decode() if value else None}
            for name, value in sorted(self.kv.items())
            if name == key or (prefix and name.startswith(key))
        ]

    def chain(self, name: str) -> Json:
        """Compile the chain of a service that has at most service-defaults."""
        defaults = self.config.get(("service-defaults", name), {})
        target_id = f"{name}.default.default.dc1"
        resolver = {"ConnectTimeout": "5s", "Default": True, "Target": target_id}
        target = {"ID": target_id, "Service": name, "Datacenter": "dc1", "Subset": {}}
        chain = {
            "ServiceName": name,
            "Datacenter": "dc1",
            "Protocol": defaults.get("Protocol") or "tcp",
            "StartNode": f"resolver:{target_id}",
            "Nodes": {
                f"resolver:{target_id}": {
                    "Type": "resolver",
                    "Name": target_id,
                    "Resolver": resolver,
                }
            },
            "Targets": {target_id: target},
        }
        return chain | ({"ServiceMeta": defaults["Meta"]} if defaults.get("Meta") else {})

    def intentions(self, destination: str) -> list[Json] | None:
        """Return the intentions that match a destination, by source name; None if none does."""
        entry = self.config.get(("service-intentions", destination), {})
        sources = sorted(entry.get("Sources", ()), key=lambda source: source["Name"])
        found = [
            {
                "SourceName": source["Name"],
                "DestinationName": destination,
                "Action": source["Action"],
                "Precedence": source["Precedence"],
            }
            for source in sources
        ]
        return found or None


def _topics(service: str) -> Iterable[str]:
    return f"health/{service}", f"agent/{service}"


def _config_topics(kind: str, name: str) -> Iterable[str]:
    chain = [f"chain/{name}"] if kind == "service-defaults" else []
    return f"{kind}", f"{kind}/{name}", *chain


def _lower(definition: Mapping[str, Any]) -> Json:
    """Consul reads the names of fields in any case, with or without underscores."""
    return {name.lower().replace("_", ""): value for name, value in definition.items()}


def _service(service_id: str, given: Mapping[str, Any]) -> Json:
    service = {
        "ID": service_id,
        "Service": given["name"],
        "Tags": given.get("tags") or [],
        "Address": given.get("address", ""),
        "Port": given.get("port", 0),
        "Meta": given.get("meta") or {},
        "Weights": given.get("weights") or {"Passing": 1, "Warning": 1},
    }
    optional = {"Connect": given.get("connect"), "Locality": given.get("locality")}
    return service | {name: value for name, value in optional.items() if value}


def _check(service: Mapping[str, Any], number: int, given: Mapping[str, Any]) -> Json:
    suffix = f":{number + 1}" if number else ""
    return {
        "Node": "fake",
        "CheckID": given.get("checkid") or f"service:{service['ID']}{suffix}",
        "Name": given.get("name", ""),
        "Status": given.get("status") or "critical",
        "Output": "",
        "ServiceID": service["ID"],
        "ServiceName": service["Service"],
        "Definition": {k: given[k] for k in ("grpc", "http", "interval", "timeout") if k in given},
    }


def _completed(entry: Mapping[str, Any]) -> Json:
    """Add what Consul adds to an entry."""
    if entry["Kind"] != "service-intentions":
        return dict(entry)
    sources = [
        {"Precedence": 8 if source["Name"] == "*" else 9, "Type": "consul", **source}
        for source in entry.get("Sources", ())
    ]
    return {**entry, "Sources": sources}
