"""The instances of the running system, by Consul's word and by supervisor's; restarted in turn."""

import sys
import time
from collections.abc import Sequence
from typing import Any

import psutil

from tools import announce
from tools.programs import ADS, GATEWAY, SERVICES, Settings
from tools.supervision import Supervisor, fail_if_given_up, until

READY_WITHIN = 300.0  # seconds; a first start loads the timetable
DRAINED_WITHIN = 60.0  # seconds for calls in flight
PAUSE = 0.25  # seconds between two looks at everything, which take time from what is starting


def passing(client: Any) -> dict[str, int]:
    """Ports of the instances whose checks all pass, by id."""
    found: dict[str, int] = {}
    for service in (*SERVICES, GATEWAY, ADS):
        _, entries = client.health.service(service, passing=True)
        found |= {entry["Service"]["ID"]: entry["Service"]["Port"] for entry in entries}
    return found


def owns(supervisor: Supervisor, instance: str, port: int) -> bool:
    """Whether it is the running process that has this port.

    A Consul that kept its data may for a second believe in the instance of before.
    """
    name = instance.removesuffix("-1") if instance.startswith((GATEWAY, ADS)) else instance
    pid = next((p.pid for p in supervisor.states() if p.name == name), 0)
    try:
        sockets = psutil.Process(pid).net_connections("tcp") if pid else []
    except psutil.NoSuchProcess:
        return False
    return any(s.status == psutil.CONN_LISTEN and s.laddr.port == port for s in sockets)


def in_turn(
    settings: Settings, supervisor: Supervisor, client: Any, services: Sequence[str]
) -> None:
    """SIGTERM every instance, each when the one before is running and passing again.

    Exits before it stops one that nobody else could stand in for, and at the first that does not
    come back: the others go on with what they were.
    """
    for service in services:
        for process in [p for p in supervisor.states() if p.name.startswith(f"{service}-")]:
            if process.pid:
                need_another(client, service, process.name)
                began = time.monotonic()
                renew(settings, supervisor, client, process.name)
                announce.passing(process.name, time.monotonic() - began)


def need_another(client: Any, service: str, instance: str) -> None:
    """Exit where no other instance of the same shard passes its checks."""
    _, entries = client.health.service(service, passing=True)
    shards = {e["Service"]["ID"]: e["Service"]["Meta"].get("shard") for e in entries}
    own = shards.pop(instance, None)
    if own not in shards.values():
        part = "" if own is None else f" of shard {own}"
        sys.exit(
            f"{instance} is the only instance{part} that passes its checks: its restart would fail"
            " calls (make up REPLICAS=2 starts another)"
        )


def renew(settings: Settings, supervisor: Supervisor, client: Any, instance: str) -> None:
    """SIGTERM one instance, which supervisor starts again, and wait until that one passes."""
    old = psutil.Process(pid_of(supervisor, instance))
    old.terminate()
    until(lambda: not old.is_running(), f"the end of {instance}", DRAINED_WITHIN)

    def back() -> bool:
        fail_if_given_up(settings, supervisor)
        states = {process.name: process.state for process in supervisor.states()}
        port = passing(client).get(instance)
        return (
            states[instance] == "RUNNING" and port is not None and owns(supervisor, instance, port)
        )

    until(back, f"{instance} to pass its checks", READY_WITHIN, PAUSE)


def pid_of(supervisor: Supervisor, name: str) -> int:
    """The process id of a running process."""
    return next(process.pid for process in supervisor.states() if process.name == name)
