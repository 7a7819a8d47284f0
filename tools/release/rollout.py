"""What Consul's config entries say about the versions of a service, read and written.

A version is the subset of the instances whose Meta has it. `DefaultSubset` of the service-resolver
names the one that is live, a service-splitter gives a canary its share of the calls, the routes of
a service-router send calls with a header to a preview. A splitter or a router that is not marked
as ours, and subsets that are no versions, belong to operators and are left alone.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from consul.std import Consul

from tools.config_entries import CONSULS_OWN

Entry = Mapping[str, Any]

RESOLVER: Final = "service-resolver"
SPLITTER: Final = "service-splitter"
ROUTER: Final = "service-router"
MARK: Final = {"written-by": "tools.release"}
_PREVIOUS: Final = "release-previous"
_STABLE: Final = "release-stable"
_CANARY: Final = "release-canary"
_FILTER: Final = 'Service.Meta.version == "{}"'


class RefusedError(Exception):
    """Something that a release must not do; the message says why, and what would help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A version that gets some percent of the calls, the stable one the rest."""

    version: str
    stable: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A version that gets the calls whose header is, or matches, a value."""

    version: str
    header: str
    condition: str  # Exact or Regex
    value: str

    def __str__(self) -> str:
        return f"{self.header}{'~' if self.condition == 'Regex' else '='}{self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The versions of a service that calls go to; without a live one, to instances of any.

    `previous` was live before, and is what a rollback goes back to.
    """

    live: str | None = None
    previous: str | None = None
    canary: Canary | None = None
    previews: tuple[Preview, ...] = ()

    @property
    def versions(self) -> set[str]:
        """All that it names."""
        named = {self.live, self.previous, *(preview.version for preview in self.previews)}
        if self.canary:
            named |= {self.canary.version, self.canary.stable}
        return {version for version in named if version}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A service's entries as they were read, and what they mean.

    `theirs` says what operators wrote that a release would change, `passed_by` which of their
    routes a share or a new default would not reach.
    """

    service: str
    entries: Mapping[str, Entry] = field(default_factory=dict)
    rollout: Rollout = field(default_factory=Rollout)
    theirs: tuple[str, ...] = ()
    their_router: bool = False
    passed_by: tuple[str, ...] = ()


def subset(version: str) -> str:
    """The name of a version's subset: Consul takes small letters, digits and dashes."""
    return "v" + "".join(c if c.isalnum() else "-" for c in version.lower())


def found(service: str, entries: Mapping[str, Entry]) -> Found:
    """Make sense of a service's entries by kind."""
    resolver, splitter, router = (entries.get(kind, {}) for kind in (RESOLVER, SPLITTER, ROUTER))
    versions = dict(_versions(resolver))
    theirs = [*_their_subsets(service, resolver, versions)]
    canary = _canary(splitter, versions)
    if splitter and canary is None:
        theirs.append(f"the service-splitter of {service}")
    previews = _previews(router, versions)
    meta = resolver.get("Meta") or {}
    return Found(
        service=service,
        entries=entries,
        rollout=Rollout(
            live=versions.get(resolver.get("DefaultSubset", "")),
            previous=meta.get(_PREVIOUS),
            canary=canary,
            previews=previews or (),
        ),
        theirs=tuple(theirs),
        their_router=bool(router) and previews is None,
        passed_by=() if previews is not None else tuple(_own_subsets(service, router)),
    )


def _versions(resolver: Entry) -> Iterator[tuple[str, str]]:
    """The subsets that are versions, by name."""
    head, tail = _FILTER.split("{}")
    for name, definition in (resolver.get("Subsets") or {}).items():
        text = definition.get("Filter", "")
        version = text.removeprefix(head).removesuffix(tail)
        if definition == {"Filter": _FILTER.format(version)} and name == subset(version):
            yield name, version


def _their_subsets(service: str, resolver: Entry, versions: Mapping[str, str]) -> Iterator[str]:
    subsets = resolver.get("Subsets") or {}
    if others := sorted(subsets.keys() - versions.keys()):
        yield f"the subsets {', '.join(others)} in the service-resolver of {service}"
    if resolver.get("Redirect"):
        yield f"the Redirect in the service-resolver of {service}"


def _canary(splitter: Entry, versions: Mapping[str, str]) -> Canary | None:
    meta = splitter.get("Meta") or {}
    stable, version = meta.get(_STABLE, ""), meta.get(_CANARY, "")
    splits = splitter.get("Splits") or []
    shares = {split.get("ServiceSubset"): split.get("Weight", 0) for split in splits}
    plain = all(split.keys() <= {"Weight", "ServiceSubset"} for split in splits)
    ours = MARK.items() <= meta.items() and shares.keys() == {subset(stable), subset(version)}
    if not (ours and plain and shares.keys() <= versions.keys()):
        return None
    return Canary(version=version, stable=stable, weight=shares[subset(version)])


def _previews(router: Entry, versions: Mapping[str, str]) -> tuple[Preview, ...] | None:
    """The previews of a router, None where it is not, or not only, of our making."""
    meta = router.get("Meta") or {}
    if router and not MARK.items() <= meta.items():
        return None
    previews = []
    for route in router.get("Routes") or ():
        if (preview := _preview(route, versions)) is None:
            return None
        previews.append(preview)
    return tuple(previews)


def _preview(route: Entry, versions: Mapping[str, str]) -> Preview | None:
    headers = route.get("Match", {}).get("HTTP", {}).get("Header") or [{}]
    condition = "Regex" if "Regex" in headers[0] else "Exact"
    preview = Preview(
        version=versions.get(route.get("Destination", {}).get("ServiceSubset"), ""),
        header=headers[0].get("Name", ""),
        condition=condition,
        value=headers[0].get(condition, ""),
    )
    return preview if _route(preview) == route else None


def _own_subsets(service: str, router: Entry) -> Iterator[str]:
    """The subsets that somebody's routes name: such calls never come to splitter or default."""
    for route in router.get("Routes") or ():
        destination = route.get("Destination") or {}
        name = destination.get("ServiceSubset")
        if name and destination.get("Service") in {None, "", service}:
            yield name


def _route(preview: Preview) -> Entry:
    header = {"Name": preview.header, preview.condition: preview.value}
    return {
        "Match": {"HTTP": {"Header": [header]}},
        "Destination": {"ServiceSubset": subset(preview.version)},
    }


def entries_of(before: Found, after: Rollout) -> dict[str, Entry | None]:
    """The entries that say so, None where there is to be none.

    Everything in a resolver that is not about versions stays. So do subsets that the other entries
    still name, as Consul wants them until those have changed.
    """
    wanted: dict[str, Entry | None] = {
        RESOLVER: _resolver(before, after),
        SPLITTER: _splitter(before.service, after.canary),
    }
    if not before.their_router:
        wanted[ROUTER] = _router(before.service, after.previews)
    return wanted


def _resolver(before: Found, after: Rollout) -> Entry | None:
    there = before.entries.get(RESOLVER, {})
    kept = {k: v for k, v in there.items() if k not in {*CONSULS_OWN, "DefaultSubset", "Subsets"}}
    meta = {k: v for k, v in (kept.pop("Meta", None) or {}).items() if k != _PREVIOUS}
    if after.previous:
        meta[_PREVIOUS] = after.previous
    if meta:
        kept["Meta"] = meta
    in_use = Rollout(canary=before.rollout.canary, previews=before.rollout.previews)
    if named := after.versions | in_use.versions:
        kept["Subsets"] = _subsets(named)
    if after.live:
        kept["DefaultSubset"] = subset(after.live)
    entry = {"Kind": RESOLVER, "Name": before.service} | kept
    return entry if entry.keys() - {"Kind", "Name"} else None


def _subsets(versions: Iterable[str]) -> Entry:
    versions = sorted(versions)
    subsets = {subset(version): {"Filter": _FILTER.format(version)} for version in versions}
    if len(subsets) < len(versions):
        raise RefusedError(f"{', '.join(versions)}: two of them have one name in Consul")
    return subsets


def _splitter(service: str, canary: Canary | None) -> Entry | None:
    if canary is None:
        return None
    rest = round(100 - canary.weight, 2)
    return {
        "Kind": SPLITTER,
        "Name": service,
        "Splits": [
            {"Weight": rest, "ServiceSubset": subset(canary.stable)},
            {"Weight": canary.weight, "ServiceSubset": subset(canary.version)},
        ],
        "Meta": MARK | {_STABLE: canary.stable, _CANARY: canary.version},
    }


def _router(service: str, previews: Iterable[Preview]) -> Entry | None:
    routes = [_route(preview) for preview in previews]
    return {"Kind": ROUTER, "Name": service, "Routes": routes, "Meta": MARK} if routes else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One write: an entry, or its deletion. `index` is that of what was read, 0 for nothing."""

    kind: str
    entry: Entry | None
    index: int


def steps(before: Found, after: Rollout) -> list[Step]:
    """The writes that lead there, none where nothing changes; calls are right after each.

    What is named is written before what names it, and goes after it.
    """
    wanted = entries_of(before, after)
    changed = {
        kind: Step(kind=kind, entry=entry, index=before.entries.get(kind, {}).get("ModifyIndex", 0))
        for kind, entry in wanted.items()
        if not _same(entry, before.entries.get(kind))
    }
    written = [kind for kind in (RESOLVER, SPLITTER, ROUTER) if wanted.get(kind)]
    gone = [kind for kind in (ROUTER, SPLITTER, RESOLVER) if not wanted.get(kind)]
    return [changed[kind] for kind in (*written, *gone) if kind in changed]


def _same(wanted: Entry | None, there: Entry | None) -> bool:
    return wanted == ({k: v for k, v in there.items() if k not in CONSULS_OWN} if there else None)


def read(client: Consul, service: str) -> Found:
    """Ask Consul for a service's entries; raises as py-consul does."""
    kinds = (RESOLVER, SPLITTER, ROUTER)
    answers = ((kind, client.config.get(kind, service)) for kind in kinds)
    return found(service, {kind: dict(answer) for kind, answer in answers if answer})


def write(client: Consul, before: Found, after: Rollout) -> None:
    """Bring a rollout to Consul, by check-and-set; raises RefusedError and as py-consul does."""
    for step in steps(before, after):
        if step.entry is None:
            done = client.config.delete(step.kind, before.service, cas=step.index)
        else:
            done = client.config.set(step.kind, before.service, dict(step.entry), cas=step.index)
        if not done:
            raise RefusedError(
                f"the {step.kind} of {before.service} was changed by somebody else meanwhile:"
                " look at it, and try again"
            )
