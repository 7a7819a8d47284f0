"""What Consul is told of an instance: where it is, what it is, and how to check that it is well.

Source: https://developer.hashicorp.com/consul/api-docs/agent/service
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

import consul.check
from consul.exceptions import NotFound
from consul.std import Consul

from consulmesh.instances import Locality

DEREGISTER_AFTER = timedelta(minutes=1)  # Consul accepts no less


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """How Consul finds out whether an instance is well: exactly one of a gRPC or an HTTP probe.

    A gRPC probe asks the health service for `grpc_service`, the full name of a proto service, so
    that a stranger who listens on a port that was reused is not taken for the instance. `port` is
    given where health is served on another one than calls.
    """

    grpc_service: str | None = None
    http_path: str | None = None
    port: int | None = None
    interval: timedelta = timedelta(seconds=1)
    timeout: timedelta = timedelta(seconds=1)

    def __post_init__(self) -> None:
        if (self.grpc_service is None) == (self.http_path is None):
            raise ValueError("a check is either a gRPC or an HTTP check")

    @classmethod
    def grpc(cls, service: str, *, interval: timedelta = timedelta(seconds=1)) -> Self:
        """Ask grpc.health.v1 for a proto service by its full name."""
        return cls(grpc_service=service, interval=interval)

    @classmethod
    def http(cls, path: str, *, interval: timedelta = timedelta(seconds=1)) -> Self:
        """GET a path; 2xx is passing, 429 warning, anything else critical."""
        return cls(http_path=path, interval=interval)

    def definition(self, address: str, port: int) -> dict[str, Any]:
        """Return the check as Consul wants it, for an instance that listens there."""
        host = f"[{address}]" if ":" in address else address
        target = f"{host}:{self.port or port}"
        times = {
            "interval": _go(self.interval),
            "timeout": _go(self.timeout),
            "deregister": _go(DEREGISTER_AFTER),
        }
        if self.grpc_service is not None:
            return consul.check.Check.grpc(f"{target}/{self.grpc_service}", **times)
        return consul.check.Check.http(f"http://{target}{self.http_path}", **times)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One instance as Consul shall list it. `weight` counts while passing; warning weighs 1."""

    service: str
    id: str
    address: str
    port: int
    check: Check
    version: str
    weight: int = 1
    locality: Locality | None = None
    meta: Mapping[str, str] = field(default_factory=dict)

    def tell(self, client: Consul, *, proven: bool) -> None:
        """Register through py-consul; `proven` spares the instance a critical start.

        Consul ignores the initial status where it has the id already: a check that was critical
        stays so until its next probe.
        """
        check = {
            **self.check.definition(self.address, self.port),
            "CheckID": f"{self.id}:health",
            "Name": "Service health",
        }
        if proven:
            check["Status"] = "passing"
        client.agent.service.register(
            self.service,
            service_id=self.id,
            address=self.address,
            port=self.port,
            meta={**self.meta, "version": self.version},
            weights={"Passing": self.weight, "Warning": 1},
            check=check,
            connect={"Native": True},
            locality=self.locality.told() if self.locality else None,
            replace_existing_checks=True,
        )

    def withdraw(self, client: Consul) -> None:
        """Deregister through py-consul; that the agent does not know the id is as good."""
        with suppress(NotFound):
            client.agent.service.deregister(self.id)


def _go(duration: timedelta) -> str:
    """Write a duration as Go reads it."""
    return f"{duration // timedelta(milliseconds=1)}ms"
