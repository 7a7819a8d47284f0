"""The Kubernetes manifests, parsed: objects by kind and name, and what a pod is made of."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]  # stubs are not worth it

from tools.binaries import ROOT

BASE: Final = ROOT / "deploy" / "kubernetes" / "base"
KUSTOMIZATION: Final[dict[str, Any]] = yaml.safe_load(
    (BASE / "kustomization.yaml").read_text(encoding="utf-8")
)
WORKLOADS: Final = ("Deployment", "StatefulSet", "DaemonSet", "Job")

Object = dict[str, Any]


@cache
def objects() -> tuple[Object, ...]:
    """Every object of the base; not to be changed."""
    return tuple(
        each
        for file in KUSTOMIZATION["resources"]
        for each in yaml.safe_load_all((BASE / file).read_text(encoding="utf-8"))
    )


def of(kind: str) -> dict[str, Object]:
    """The objects of a kind, by name."""
    return {each["metadata"]["name"]: each for each in objects() if each["kind"] == kind}


def workloads() -> dict[str, Object]:
    """Whatever makes pods, by name."""
    return {each["metadata"]["name"]: each for each in objects() if each["kind"] in WORKLOADS}


def pod(workload: Object) -> Object:
    """The specification of its pods."""
    found: Object = workload["spec"]["template"]["spec"]
    return found


def container(workload: Object) -> Object:
    """The one container of its pods."""
    (found,) = pod(workload)["containers"]
    return dict(found)


def labels(workload: Object) -> Mapping[str, str]:
    """The labels of its pods."""
    found: Mapping[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found


def config_maps() -> dict[str, dict[str, str]]:
    """What kustomize makes ConfigMaps of, by name: contents by key."""
    found: dict[str, dict[str, str]] = {}
    for each in KUSTOMIZATION["configMapGenerator"]:
        data = {name: _read(name) for name in each.get("files", ())}
        for name in each.get("envs", ()):
            lines = (line for line in _read(name).splitlines() if not line.startswith("#"))
            data |= dict(line.split("=", 1) for line in lines if line)
        found[each["name"]] = data
    return found


def _read(name: str) -> str:
    return Path(BASE / name).read_text(encoding="utf-8")


def environment(of_container: Object, fields: Mapping[str, str]) -> dict[str, str]:
    """The variables of a container; `fields` are what is known of a pod, by path.

    Those that come from Secrets are left out.
    """
    found: dict[str, str] = {}
    for source in of_container.get("envFrom", ()):
        found |= config_maps()[source["configMapRef"]["name"]]
    for each in of_container.get("env", ()):
        if "value" in each:
            found[each["name"]] = each["value"]
        elif path := each["valueFrom"].get("fieldRef", {}).get("fieldPath"):
            found[each["name"]] = fields[path]
    return found


def expanded(word: str, variables: Mapping[str, str]) -> str:
    """A word of a command with its `$(VARIABLES)`."""
    return re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], word)
