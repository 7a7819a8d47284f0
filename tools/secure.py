"""The secure profile of a system: whether it has it, and what its operators need then.

A system keeps the profile that it has begun with until it is told otherwise while it is down.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from consulmesh import operators
from consulmesh.private import write_private
from tools.programs import IDENTITIES, Settings


def choose(settings: Settings, environ: Mapping[str, str], *, asked: bool | None) -> bool:
    """Whether `make up` is to be secure; exits where that is not possible."""
    wanted = settings.secure if asked is None else asked
    named = environ.get("CONSUL_HTTP_ADDR")
    if wanted and named not in {None, "", settings.own_consul_url(secure=True)}:
        sys.exit(
            "SECURE=1 needs a Consul of the system's own, and CONSUL_HTTP_ADDR names another:"
            " docs/security.md says how to use that one"
        )
    return wanted


def refuse_another(settings: Settings, *, wanted: bool) -> None:
    """Exit where a running system would have to change."""
    if wanted != settings.secure:
        before, after = (
            "with the secure profile" if each else "without the secure profile"
            for each in (settings.secure, wanted)
        )
        sys.exit(f"the system runs {before}: `make down` first. It then starts {after}")


def remember(settings: Settings, *, secure: bool) -> None:
    """Write down which profile the system has, and what its operators need."""
    if not secure:
        settings.profile_file.unlink(missing_ok=True)
        environment_file(settings).unlink(missing_ok=True)
        return
    settings.profile_file.write_text("secure\n", encoding="utf-8")
    (settings.run / "consul").chmod(0o700)  # Consul keeps the tokens there
    settings.credentials.prepare(IDENTITIES)
    left = settings.mesh_environment(operators.OPERATOR)
    del left["CONSUL_HTTP_TOKEN"], left["MESH_STATE_DIR"]
    lines = "".join(f"{name}={value}\n" for name, value in left.items())
    write_private(environment_file(settings), lines.encode())


def environment_file(settings: Settings) -> Path:
    """What people's tools read (`consulmesh.operators`)."""
    return settings.run / operators.FOLDER / "environment"


def operators_environment(settings: Settings) -> dict[str, str]:
    """The environment of a tool for this system, whatever the one of the shell says of others."""
    return operators.environment(
        {
            **{k: v for k, v in os.environ.items() if not k.startswith("CONSUL_")},
            "MESH_STATE_DIR": str(settings.run),
        }
    )
