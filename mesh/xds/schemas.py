"""Messages of the contracts as JSON schemas, in proto3's JSON mapping."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

Json: TypeAlias = dict[str, Any]
REFERENCE = "#/components/schemas/"

_WELL_KNOWN: Mapping[str, Json] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?\d+(\.\d+)?s$", "examples": ["1.5s"]},
    "google.protobuf.FieldMask": {"type": "string", "description": "Names of fields, separated by commas."},
    "google.protobuf.Empty": {"type": "object"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.Any": {"type": "object", "properties": {"@type": {"type": "string"}}},
    "google.api.HttpBody": {"type": "string", "format": "binary"},
    "google.type.TimeOfDay": {"type": "object"},
}
_INTEGER: Json = {"type": "integer", "format": "int32"}
_NATURAL: Json = {"type": "integer", "format": "int32", "minimum": 0}
_LONG: Json = {"type": "string", "format": "int64"}
_NATURAL_LONG: Json = {"type": "string", "format": "uint64"}
_NUMBER: Json = {"type": "number"}
_SCALARS: Mapping[int, Json] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_FLOAT: _NUMBER,
    FieldDescriptor.TYPE_DOUBLE: _NUMBER,
    FieldDescriptor.TYPE_INT32: _INTEGER,
    FieldDescriptor.TYPE_SINT32: _INTEGER,
    FieldDescriptor.TYPE_SFIXED32: _INTEGER,
    FieldDescriptor.TYPE_UINT32: _NATURAL,
    FieldDescriptor.TYPE_FIXED32: _NATURAL,
    FieldDescriptor.TYPE_INT64: _LONG,
    FieldDescriptor.TYPE_SINT64: _LONG,
    FieldDescriptor.TYPE_SFIXED64: _LONG,
    FieldDescriptor.TYPE_UINT64: _NATURAL_LONG,
    FieldDescriptor.TYPE_FIXED64: _NATURAL_LONG,
}
_BEHAVIOUR: Any = field_behavior_pb2.field_behavior  # its stub says less than the runtime bears


class Schemas:
    """Schemas of messages and enums, each once, by short name; collected as they are asked for."""

    def __init__(self, comments: Mapping[str, str]) -> None:
        """`comments` of the contracts by full name."""
        self._comments = comments
        self._owners: dict[str, str] = {}
        self.collected: dict[str, Json] = {}

    def reference(self, message: Descriptor) -> Json:
        """How to refer to a message. Raises ValueError when two messages would have one name."""
        if message.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[message.full_name])
        return self._named(message, lambda: self._object(message))

    def body(self, message: Descriptor, elsewhere: Collection[str]) -> Json:
        """A request whose fields `elsewhere` are not in its body, where they would be refused."""
        described = self._object(message)
        for name in elsewhere:
            described["properties"].pop(message.fields_by_name[name].json_name)
        taken = {message.fields_by_name[name].json_name for name in elsewhere}
        if required := [name for name in described.pop("required", []) if name not in taken]:
            described["required"] = required
        return described

    def field(self, field: FieldDescriptor) -> Json:
        """The schema of a field's value, with its comment."""
        described = self._documented(self._value(field), field.full_name)
        behaviour = _behaviour(field)
        if field_behavior_pb2.OUTPUT_ONLY in behaviour:
            described["readOnly"] = True
        if field_behavior_pb2.INPUT_ONLY in behaviour:
            described["writeOnly"] = True
        return described

    def comment(self, full_name: str) -> str:
        """What a contract says about a thing; empty where nothing."""
        return self._comments.get(full_name, "")

    def _value(self, field: FieldDescriptor) -> Json:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return {"type": "object", "additionalProperties": self._single(field.message_type.fields_by_name["value"])}
        single = self._single(field)
        return {"type": "array", "items": single} if field.is_repeated else single

    def _single(self, field: FieldDescriptor) -> Json:
        if field.message_type is not None:
            return self.reference(field.message_type)
        enum = field.enum_type
        if enum is not None:
            return self._named(enum, lambda: {"type": "string", "enum": [value.name for value in enum.values]})
        return dict(_SCALARS[field.type])

    def _named(self, thing: Descriptor | EnumDescriptor, make: Callable[[], Json]) -> Json:
        package = thing.file.package
        name = thing.full_name.removeprefix(f"{package}.")
        if self._owners.setdefault(name, thing.full_name) != thing.full_name:
            raise ValueError(f"{thing.full_name} and {self._owners[name]} have the same name")
        if name not in self.collected:
            self.collected[name] = {}  # before its fields: messages may hold each other
            self.collected[name] = self._documented(make(), thing.full_name)
        return {"$ref": f"{REFERENCE}{name}"}

    def _object(self, message: Descriptor) -> Json:
        required = [field.json_name for field in message.fields if field_behavior_pb2.REQUIRED in _behaviour(field)]
        described: Json = {
            "type": "object",
            "properties": {field.json_name: self.field(field) for field in message.fields},
            "additionalProperties": False,
        }
        return {**described, "required": required} if required else described

    def _documented(self, schema: Json, full_name: str) -> Json:
        comment = self.comment(full_name)
        return {**schema, "description": comment} if comment else dict(schema)


def _behaviour(field: FieldDescriptor) -> Collection[int]:
    found: Collection[int] = field.GetOptions().Extensions[_BEHAVIOUR]
    return found
