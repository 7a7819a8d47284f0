"""What was found, as lines for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from consulmesh.debug.connections import Connection
from consulmesh.debug.held import NOT_HELD
from consulmesh.debug.policy import Candidate, Policy
from consulmesh.debug.process import Process
from consulmesh.debug.reading import ClusterRead, ConfigRead, EndpointRead, settings_text

_WHO: Final = ("ADDRESS", "INSTANCE", "VERSION", "STATUS", "WEIGHT", "ZONE")
_WHERE: Final = ("PRIORITY", "LOCALITY", "SHARE", "HEALTH")


def lines(policy: Policy, processes: Sequence[Process]) -> Iterator[str]:
    """Yield all of it; what others said is made safe for a terminal."""
    for line in (*_policy(policy), *(each for one in processes for each in _process(one, policy))):
        yield "".join(char if char.isprintable() else " " for char in line).rstrip()


def _policy(policy: Policy) -> Iterator[str]:
    as_whom = f"as {policy.caller} is to call it" if policy.caller else "whoever calls it"
    where = f" from {policy.near}" if policy.near else ""
    yield f"{policy.service}, {as_whom}{where} (Consul at {policy.consul})"
    yield from _section("chain", ((line,) for line in policy.chain))
    yield from _config(policy.config, policy)
    yield from _section("timeouts", ((path, f"{span:g}s") for path, span in policy.timeouts))
    unused = [each for each in policy.instances if each.unused]
    yield from _section(
        "not called",
        ((each.address, each.id, each.version, each.status, each.unused) for each in unused),
    )
    yield from _section("without effect", ((warning,) for warning in policy.warnings))
    yield from _section("Consul does not answer", ((query,) for query in policy.unanswered))
    if policy.caller is None:
        callers = ", ".join(policy.callers) or "nobody"
        yield ""
        yield f"Intentions let call it: {callers}. --of CALLER shows what its processes have."


def _process(process: Process, policy: Policy) -> Iterator[str]:
    yield ""
    yield f"{process.instance} {process.version} (asked at {process.address})"
    if process.error:
        yield f"  could not be asked: {process.error}"
        return
    if not process.states:
        yield f"  has no channel to {policy.service}: it never called it"
        return
    yield (
        f"  channel {', '.join(process.states)}, {process.calls} calls, {process.failed} failed, "
        f"{process.recent} in the last second"
    )
    for held in process.refusals:
        yield f"  NACK of {held.type} {held.name} {held.refused_version} at {held.refused_at}:"
        yield f"    {held.refused}"
    yield from _compared(process, policy)
    yield from _section(
        "connections",
        (_connection(each) for each in process.connections),
        ("ADDRESS", "INSTANCE", "CLUSTER", "PRIORITY", "STATE", "CALLS", "FAILED", "LAST S", ""),
    )


def _compared(process: Process, policy: Policy) -> Iterator[str]:
    if not process.resources:
        yield "  gRPC core has no resources: no call was made yet, or none for half an hour"
    elif not process.stale:
        yield "  has what Consul says"
    else:
        yield from _section(
            "not what Consul says now",
            (
                (held.type, held.name, _status(held.status), held.version, held.updated)
                for held in process.stale
            ),
        )
        if process.config:
            yield from _config(process.config, policy)


def _status(status: str) -> str:
    return "not there" if status == NOT_HELD else status


def _connection(each: Connection) -> tuple[str, ...]:
    return (
        each.address,
        each.instance or "-",
        each.cluster or "-",
        "-" if each.priority is None else str(each.priority),
        each.state or "-",
        "-" if each.calls is None else str(each.calls),
        "-" if each.calls is None else str(each.failed),
        "-" if each.calls is None else str(each.recent),
        each.remark,
    )


def _config(config: ConfigRead, policy: Policy) -> Iterator[str]:
    yield from _section(
        "routes",
        (
            (
                route.match,
                ", ".join(
                    name if share == 100 else f"{share:g} % {name}"  # noqa: PLR2004 - all of them
                    for name, share in route.clusters.items()
                )
                or "nowhere",
                f"retries {route.retries}" if route.retries else "",
                settings_text(route.settings),
            )
            for route in config.routes
        ),
    )
    for cluster in config.clusters:
        yield from _cluster(cluster, policy.by_address)


def _cluster(cluster: ClusterRead, known: Mapping[str, Candidate]) -> Iterator[str]:
    said = f" ({settings_text(cluster.settings)})" if cluster.settings else ""
    title = f"cluster {cluster.name}: {cluster.balancing}{said}"
    if not cluster.endpoints:
        nobody = " without endpoints: its calls fail at once"
        yield f"  {title}{nobody if cluster.endpoints is not None else ''}"
        return
    rows = (
        (each.address, *_who(known.get(each.address)), *_where(each)) for each in cluster.endpoints
    )
    yield from _section(title, rows, (*_WHO, *_WHERE))


def _who(instance: Candidate | None) -> tuple[str, ...]:
    if instance is None:
        return "not in Consul", "-", "-", "-", "-"
    return (
        instance.id,
        instance.version,
        instance.status,
        str(instance.weight),
        instance.zone or "-",
    )


def _where(endpoint: EndpointRead) -> tuple[str, ...]:
    return str(endpoint.priority), endpoint.locality, f"{endpoint.share:.1%}", endpoint.health


def _section(title: str, rows: Iterator[Sequence[str]], head: Sequence[str] = ()) -> Iterator[str]:
    """Yield a title and aligned rows below it; nothing where there are no rows."""
    table = [tuple(row) for row in rows]
    if not table:
        return
    yield f"  {title}"
    whole = [head, *table] if head else table
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    for row in whole:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"    {'  '.join(cells)}"
