"""What this process knows of its upstreams, kept current from Consul."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from consulmesh.instances import Instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One consistent view of an upstream; a new one is made for every change.

    `chain` is the compiled discovery chain (the object under "Chain") and `defaults` the calling
    service's service-defaults entry (empty where there is none), both as Consul answered: read
    only. `instances_by_target` has the usable instances of every target of the chain, by target
    id, ordered by address and port; a target without any is there with an empty tuple.
    """

    name: str
    chain: Mapping[str, Any]
    instances_by_target: Mapping[str, tuple[Instance, ...]]
    defaults: Mapping[str, Any]
