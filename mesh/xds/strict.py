"""Refuses unknown fields in REST calls: a small Lua filter in Envoy, with the contracts' fields as its tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from mesh.xds.model import Service
from mesh.xds.rest import VARIABLE, Binding, bindings

_OPAQUE = ("google.protobuf.", "google.api.")
"""Messages of these packages have a form of their own in JSON, or hold anything."""


def script(services: Iterable[Service]) -> str:
    """The filter's source."""
    strict = [binding for binding in bindings(services) if binding.body_message is not None]
    # "...:test" before what ends with any name.
    strict.sort(key=lambda binding: (":" not in binding.template.rpartition("}")[2], binding.template))
    messages: dict[str, dict[str, str]] = {}
    for binding in strict:
        if binding.body_message is not None:
            _collect(binding.body_message, messages)
    declared = [
        "BINDINGS = {",
        *(f'  {{"{item.verb.upper()}", "{_pattern(item)}", "{_body(item)}"}},' for item in strict),
        "}",
        "MESSAGES = {",
        *(f'  ["{name}"] = {{{_table(fields)}}},' for name, fields in sorted(messages.items())),
        "}",
    ]
    return "\n".join(declared) + "\n" + files("mesh.xds").joinpath("strict.lua").read_text(encoding="utf-8")


def _body(binding: Binding) -> str:
    return binding.body_message.full_name if binding.body_message is not None else ""


def _pattern(binding: Binding) -> str:
    """A Lua pattern of the paths that a template stands for."""

    def escaped(text: str) -> str:
        return re.sub(r"([^\w/:])", r"%\1", text)

    pattern, done = "", 0
    for found in VARIABLE.finditer(binding.template):
        pattern += escaped(binding.template[done : found.start()])
        pattern += "[^/]+".join(escaped(part) for part in found["pattern"].split("*"))
        done = found.end()
    return f"^{pattern}{escaped(binding.template[done:])}$"


def _collect(message: Descriptor, messages: dict[str, dict[str, str]]) -> None:
    if message.full_name in messages:
        return
    fields = messages[message.full_name] = {}
    for field in message.fields:
        inner = _inside(field, messages)
        fields[field.name] = fields[field.json_name] = inner


def _inside(field: FieldDescriptor, messages: dict[str, dict[str, str]]) -> str:
    """What is looked into below a field: a message, a map of them, or nothing."""
    message = field.message_type
    if message is None or message.full_name.startswith(_OPAQUE):
        return ""
    if message.GetOptions().map_entry:
        value = _inside(message.fields_by_name["value"], messages)
        return f"{{}}{value}" if value else ""
    _collect(message, messages)
    return message.full_name


def _table(fields: dict[str, str]) -> str:
    return ", ".join(f'["{name}"] = "{inner}"' for name, inner in sorted(fields.items()))
