"""People's tools in a secure mesh: where its Consul is, with which token, and as whom they call.

A system in the secure profile leaves `operator/environment` in its folder (MESH_STATE_DIR), lines
of NAME=value. Tools call as the service `operator`, with a key of their own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

OPERATOR: Final = "operator"
"""The service whose name people's tools have."""
FOLDER: Final = "operator"
PATIENCE: Final = timedelta(seconds=10)

_ADDRESS: Final = "CONSUL_HTTP_ADDR"
_STATE: Final = "MESH_STATE_DIR"


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return a tool's environment: what is set, and for the rest what the system left.

    Whoever names another Consul than the system's own is left alone.
    """
    given = {name: value for name, value in environ.items() if value}
    left = _left(Path(given.get(_STATE, ".run")) / FOLDER / "environment")
    if given.get(_ADDRESS, left.get(_ADDRESS)) != left.get(_ADDRESS):
        return given
    return left | given


def _left(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.partition("=") for line in lines)
    return {name: value for name, equals, value in pairs if equals}
