"""The echo service as a proto would have it, for what looks at protos."""

from functools import cache

from google.protobuf import descriptor_pb2, descriptor_pool


@cache
def declare() -> None:
    """Let `Get` have no side effects, and `Create` say nothing, in the pool of this process."""
    empty = ".test.v1.Empty"
    file = descriptor_pb2.FileDescriptorProto(name="test/v1/echo.proto", package="test.v1")
    file.message_type.add(name="Empty")
    service = file.service.add(name="EchoService")
    get = service.method.add(name="Get", input_type=empty, output_type=empty)
    get.options.idempotency_level = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
    service.method.add(name="Create", input_type=empty, output_type=empty)
    descriptor_pool.Default().Add(file)
