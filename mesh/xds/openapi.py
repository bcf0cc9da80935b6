"""The OpenAPI document of what the gateway serves as REST, from the contracts and their comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import orjson
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.rpc import status_pb2

from mesh.xds.policy import SERVICES
from mesh.xds.rest import Binding, bindings
from mesh.xds.schemas import Json, Schemas

_DESCRIPTION = (
    "Persons of interest, alerts and appearance search of a store. The same API is there as gRPC and gRPC-Web; "
    "streams are answered as newline-delimited JSON. Unknown fields and parameters are refused."
)
_TAKEN_APART = re.compile(r"\{([^}]+)\}")
_STATUS: Any = status_pb2.Status.DESCRIPTOR
_AS_TEXT = {"google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask"}
"""Messages that have a form of their own in a query."""
_DEPTH = 3
"""How deep query parameters go into messages: filter.time_range.start_time."""


def document(*, secured: bool = False) -> str:
    """The document, as JSON; `secured`: calls need a bearer token."""
    schemas = Schemas(_comments())
    error = {
        "description": "Refused or failed; `details` hold google.rpc.ErrorInfo with the reason, and what to correct.",
        "content": {"application/json": {"schema": schemas.reference(_STATUS)}},
    }
    paths: dict[str, Json] = {}
    for binding in bindings(SERVICES.values()):
        paths.setdefault(binding.path, {})[binding.verb] = _operation(binding, schemas)
    components: Json = {"schemas": dict(sorted(schemas.collected.items())), "responses": {"Error": error}}
    content: Json = {
        "openapi": "3.1.0",
        "info": {"title": "poi-mesh", "version": "v1", "description": _DESCRIPTION},
        "paths": dict(sorted(paths.items())),
        "components": components,
    }
    if secured:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
        content["security"] = [{"token": []}]
    return orjson.dumps(content).decode()


def _operation(binding: Binding, schemas: Schemas) -> Json:
    method = binding.method
    comment = schemas.comment(method.full_name)
    operation: Json = {
        "operationId": f"{method.containing_service.name}_{method.name}",
        "tags": [method.containing_service.name],
        "summary": comment.split(". ")[0].rstrip("."),
        "description": comment,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _TAKEN_APART.findall(binding.path)
        ],
        "responses": {"200": _answer(binding, schemas), "default": {"$ref": "#/components/responses/Error"}},
    }
    if binding.body_message is not None:
        whole = binding.body == "*"
        message = binding.body_message
        schema = schemas.body(message, binding.path_fields) if whole else schemas.reference(message)
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if binding.body != "*":
        taken = {*binding.path_fields, binding.body}
        operation["parameters"] += _query(method.input_type, taken, schemas)
    return operation


def _answer(binding: Binding, schemas: Schemas) -> Json:
    method = binding.method
    if method.output_type.full_name == "google.api.HttpBody":
        return {"description": "The content itself.", "content": {"*/*": {"schema": {"format": "binary"}}}}
    schema = schemas.reference(method.output_type)
    if method.server_streaming:
        note = "A stream: one JSON object on each line, until either side ends it."
        return {"description": note, "content": {"application/json": {"schema": schema}}}
    return {"description": "Done.", "content": {"application/json": {"schema": schema}}}


def _query(message: Descriptor, taken: set[str], schemas: Schemas, prefix: str = "", depth: int = 1) -> Iterator[Json]:
    for field in message.fields:
        path = f"{prefix}{field.name}"
        if path in taken:
            continue
        nested = field.message_type
        if nested is not None and nested.full_name not in _AS_TEXT:
            if depth < _DEPTH and not field.is_repeated:
                yield from _query(nested, taken, schemas, f"{path}.", depth + 1)
            continue
        described = schemas.field(field)
        described.pop("readOnly", None)
        parameter: Json = {"name": path, "in": "query", "schema": described}
        if "description" in described:
            parameter["description"] = described.pop("description")
        yield parameter


@cache
def _comments() -> dict[str, str]:
    """What the contracts say about each message, field, enum and method, by full name."""
    content = files("poi.v1").joinpath("contracts.binpb").read_bytes()
    found: dict[str, str] = {}
    for file in FileDescriptorSet.FromString(content).file:
        if file.package != "poi.v1":
            continue
        names = dict(_places(file))
        for location in file.source_code_info.location:
            name = names.get(tuple(location.path))
            if name and location.leading_comments:
                found[name] = _plain(location.leading_comments)
    return found


def _plain(comment: str) -> str:
    """Without remarks for linters, lines joined to paragraphs."""
    lines = [line.strip() for line in comment.strip().splitlines()]
    kept = "\n".join(line for line in lines if not line.startswith(("buf:", "(--")))
    return re.sub(r"(?<!\n)\n(?!\n)", " ", kept)


def _places(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    """(path in the file, full name): see SourceCodeInfo in descriptor.proto."""
    for index, service in enumerate(file.service):
        for number, method in enumerate(service.method):
            yield (6, index, 2, number), f"{file.package}.{service.name}.{method.name}"
    for index, enum in enumerate(file.enum_type):
        yield (5, index), f"{file.package}.{enum.name}"
    for index, message in enumerate(file.message_type):
        yield from _in_message((4, index), file.package, message)


def _in_message(path: tuple[int, ...], scope: str, message: DescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    name = f"{scope}.{message.name}"
    yield path, name
    for index, field in enumerate(message.field):
        yield (*path, 2, index), f"{name}.{field.name}"
    for index, nested in enumerate(message.nested_type):
        yield from _in_message((*path, 3, index), name, nested)
    enums: list[EnumDescriptorProto] = list(message.enum_type)
    for index, enum in enumerate(enums):
        yield (*path, 4, index), f"{name}.{enum.name}"
