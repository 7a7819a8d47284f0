"""How processes are asked: with little patience, and not to be refused for their load."""

from typing import Final

import grpc

from consulmesh.context import Criticality
from consulmesh.propagation import CALLER, CRITICALITY

DEADLINE: Final = 3.0  # seconds, of a call
METADATA: Final = ((CALLER, "debug"), (CRITICALITY, Criticality.CRITICAL_PLUS.value))


def reason(error: Exception) -> str:
    """Say why an instance could not be asked."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return str(error) or "it does not answer"
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return "it has no CSDS: an older release, or not of this mesh"
    return f"{error.code().name}: {error.details()}"
