"""How a call is refused."""

from typing import Any

import grpc
import pytest

from consulmesh.errors import Status


async def refusal(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> Status:
    """The status of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return Status.of(raised.value)


async def refused(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> str:
    """The reason of a call that fails as booking expects a definite no to."""
    status = await refusal(call)

    assert status.code in {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND}
    return status.reason
