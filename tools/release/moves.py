"""What a release does with the versions of a service; each returns what is the case afterwards.

All of them raise RefusedError, ConsulException and requests' RequestException.
"""

from collections import Counter
from dataclasses import replace

from consul.std import Consul

from tools.release.comparison import Process
from tools.release.rollout import (
    Canary,
    Found,
    Preview,
    RefusedError,
    Rollout,
    read,
    write,
)


def processes(client: Consul, service: str) -> list[Process]:
    """The instances of a service, whatever their health."""
    _, entries = client.health.service(service)
    return [Process.of(entry) for entry in entries]


def passing(client: Consul, service: str) -> Counter[str]:
    """How many instances of each version pass their checks."""
    return Counter(p.version for p in processes(client, service) if p.passing)


def need(client: Consul, service: str, version: str) -> None:
    """Refuse a version to which no call could go."""
    there = passing(client, service)
    if not there[version]:
        known = ", ".join(f"{v} ({n})" for v, n in sorted(there.items())) or "none"
        raise RefusedError(
            f"no instance of {service} {version} passes its checks; those that do: {known}"
        )


def ours(there: Found, *, routed: bool = False) -> Rollout:
    """The rollout, unless operators' entries stand in its way; `routed` wants the router too."""
    theirs = [*there.theirs]
    if routed and there.their_router:
        theirs.append(f"the service-router of {there.service}")
    if theirs:
        raise RefusedError(f"{' and '.join(theirs)} would be changed, and are not a release's")
    if there.passed_by:
        raise RefusedError(
            f"the service-router of {there.service} sends calls to {', '.join(there.passed_by)}"
            " by itself, whatever is live: take these routes away first"
        )
    return there.rollout


def pinned(client: Consul, there: Found, rollout: Rollout, apart_from: str = "") -> Rollout:
    """The rollout with what is live now, the only other version that passes where none is said."""
    if rollout.live:
        return rollout
    versions = sorted(passing(client, there.service).keys() - {apart_from})
    if len(versions) != 1:
        raise RefusedError(
            f"which version of {there.service} is live? Passing are {', '.join(versions) or 'none'}"
            f": say it by `pin {there.service} --version …`"
        )
    return replace(rollout, live=versions[0])


def candidate(client: Consul, there: Found, rollout: Rollout, version: str) -> Rollout:
    """The rollout with what is live, if the version can get calls beside it."""
    need(client, there.service, version)
    rollout = pinned(client, there, rollout, apart_from=version)
    if rollout.live == version:
        raise RefusedError(f"{there.service} {version} is live already")
    return rollout


def no_canary(service: str, canary: Canary | None) -> None:
    """Refuse what would change a canary that is on."""
    if canary:
        raise RefusedError(
            f"{service} has a canary, {canary.version}: `promote` or `rollback` it first"
        )


def pin(client: Consul, service: str, version: str | None) -> str:
    """All calls to one version; others may be started, and get none."""
    there = read(client, service)
    rollout = ours(there)
    no_canary(service, rollout.canary)
    if version is not None and version != rollout.live:
        need(client, service, version)
        rollout = replace(rollout, live=version, previous=rollout.live)
    rollout = pinned(client, there, rollout)
    write(client, there, rollout)
    return f"all calls of {service} go to {rollout.live}, whatever else is started"


def unpin(client: Consul, service: str) -> str:
    """Calls to every instance again, of any version."""
    there = read(client, service)
    rollout = ours(there, routed=True)
    no_canary(service, rollout.canary)
    if rollout.previews:
        raise RefusedError(f"{service} has a preview: `preview {service} --off` first")
    write(client, there, Rollout())
    return f"calls of {service} go to all its instances"


def canary(client: Consul, service: str, version: str, weight: float) -> str:
    """Some percent of the calls to a version; again, with another weight, to change it."""
    there = read(client, service)
    rollout = ours(there)
    if rollout.canary and rollout.canary.version != version:
        no_canary(service, rollout.canary)
    rollout = candidate(client, there, rollout, version)
    stable = str(rollout.live)
    need(client, service, stable)
    share = Canary(version=version, stable=stable, weight=weight)
    write(client, there, replace(rollout, canary=share))
    return f"{weight:g} % of the calls of {service} go to {version}, the others to {stable}"


def promote(client: Consul, service: str) -> str:
    """All calls to the canary."""
    there = read(client, service)
    rollout = ours(there)
    if (trial := rollout.canary) is None:
        raise RefusedError(f"{service} has no canary; `blue-green` moves all calls at once")
    need(client, service, trial.version)
    after = Rollout(live=trial.version, previous=trial.stable, previews=rollout.previews)
    write(client, there, after)
    return f"all calls of {service} go to {trial.version}; `rollback` takes them to {trial.stable}"


def rollback(client: Consul, service: str) -> str:
    """No call to the canary any more; without one, all calls to what was live before."""
    there = read(client, service)
    rollout = there.rollout
    if there.theirs:
        ours(there)
    if trial := rollout.canary:
        back, left = trial.stable, trial.version
    elif rollout.live and rollout.previous:
        back, left = rollout.previous, rollout.live
    else:
        raise RefusedError(f"{service} has no canary, and nothing was live before")
    need(client, service, back)
    write(client, there, replace(rollout, live=back, previous=None, canary=None))
    return f"all calls of {service} go back to {back}, none to {left}"


def blue_green(client: Consul, service: str, version: str) -> str:
    """All calls to a version at once."""
    there = read(client, service)
    rollout = ours(there)
    no_canary(service, rollout.canary)
    rollout = candidate(client, there, rollout, version)
    write(client, there, replace(rollout, live=version, previous=rollout.live))
    return f"all calls of {service} go to {version}; `rollback` takes them to {rollout.live}"


def preview(client: Consul, service: str, version: str, header: tuple[str, str, str]) -> str:
    """The calls with a header to a version, and all others to what is live."""
    there = read(client, service)
    rollout = candidate(client, there, ours(there, routed=True), version)
    name, condition, value = header
    wanted = Preview(version=version, header=name, condition=condition, value=value)
    others = tuple(each for each in rollout.previews if str(each) != str(wanted))
    write(client, there, replace(rollout, previews=(*others, wanted)))
    return f"calls of {service} with {wanted} go to {version}, the others to {rollout.live}"


def no_previews(client: Consul, service: str) -> str:
    """No header matters any more."""
    there = read(client, service)
    write(client, there, replace(ours(there, routed=True), previews=()))
    return f"{service} has no preview"
