"""Server reflection, for grpcurl, `buf curl` and the like: v1alpha, and v1, whose messages are the same on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2

from mesh.streams import until_drained

SERVICES = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")


def _describe_v1() -> None:
    """Give the descriptor pool grpc.reflection.v1, which no Python package holds: v1alpha under its new name.

    Without it a client that asks for the description of every service in the list stops at this one.
    """
    v1 = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(v1)
    v1.name, v1.package = "grpc/reflection/v1/reflection.proto", "grpc.reflection.v1"
    for message in v1.message_type:
        for field in message.field:
            if field.HasField("type_name"):
                field.type_name = field.type_name.replace(".v1alpha.", ".v1.")
    for service in v1.service:
        for method in service.method:
            method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
            method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
    descriptor_pool.Default().AddSerializedFile(v1.SerializeToString())


_describe_v1()


def add_to_server(services: Sequence[str], server: grpc.aio.Server, draining: asyncio.Event) -> None:
    """Describe `services` (full names) and reflection itself. Streams end when `draining` is set."""
    servicer = reflection.aio.ReflectionServicer([*services, *SERVICES])  # type: ignore[no-untyped-call]

    async def info(
        requests: AsyncIterator[reflection_pb2.ServerReflectionRequest], context: Any
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        async for response in servicer.ServerReflectionInfo(until_drained(requests, draining), context):
            yield response

    handler = grpc.stream_stream_rpc_method_handler(
        info,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}) for name in SERVICES]
    )
