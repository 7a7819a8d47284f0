"""The xDS bootstrap: how gRPC core finds its ADS server (gRFC A27).

gRPC core reads it from the environment of the process when the first xds channel resolves, and
keeps it while any is open: one per process. A file that the user names in GRPC_XDS_BOOTSTRAP wins.
"""

import json
import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

SHARED_ADS: Final = "mesh-ads"
"""The service whose instances serve xDS to clients outside the mesh's processes."""

FILE_VARIABLE: Final = "GRPC_XDS_BOOTSTRAP"
INLINE_VARIABLE: Final = "GRPC_XDS_BOOTSTRAP_CONFIG"
_CHANNEL_ARGUMENT: Final = "grpc.TEST_ONLY_DO_NOT_USE_IN_PROD.xds_bootstrap_config"


def bootstrap(
    server_uri: str,
    *,
    node: str,
    providers: Mapping[str, object] = MappingProxyType({}),
    tls: Mapping[str, object] | None = None,
) -> str:
    """Return the bootstrap (JSON) of a client with an id that takes its resources from a server.

    A resource that the server leaves out is not taken for deleted. The locality says nothing: Node
    refuses a bootstrap that has none. `providers` are those of certificates (gRFC A29). With `tls`,
    which files to use, the server is asked by mTLS (gRFC A65): it must be named in its certificate
    as the URI names it, by a DNS name or an address.
    """
    credentials: dict[str, Any] = {"type": "insecure"}
    if tls is not None:
        credentials = {"type": "tls", "config": dict(tls)}
    server: dict[str, Any] = {
        "server_uri": server_uri,
        "channel_creds": [credentials],
        "server_features": ["xds_v3", "ignore_resource_deletion"],
    }
    said: dict[str, Any] = {"xds_servers": [server], "node": {"id": node, "locality": {}}}
    if providers:
        said["certificate_providers"] = dict(providers)
    return json.dumps(said)


def channel_options(config: str) -> tuple[tuple[str, str], ...]:
    """Return the options that give one channel its own bootstrap. For tests only."""
    return ((_CHANNEL_ARGUMENT, config),)


@contextmanager
def installed(config: str, environ: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Give all channels of the process a bootstrap, for the block; the user's own file wins.

    The environment is gRPC core's only way in. It is restored, so that nothing is left behind.
    """
    before = environ.get(INLINE_VARIABLE)
    environ[INLINE_VARIABLE] = config
    try:
        yield
    finally:
        if before is None:
            environ.pop(INLINE_VARIABLE, None)
        else:
            environ[INLINE_VARIABLE] = before


def write(config: str, path: Path) -> None:
    """Write a bootstrap file for other clients, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        draft.write_text(config + "\n", encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
