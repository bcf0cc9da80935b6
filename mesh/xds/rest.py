"""The REST calls that the contracts declare with google.api.http."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from mesh.xds.model import Service
from mesh.xds.resources import contract

_HTTP: Any = annotations_pb2.http  # its stub says less than the runtime bears
VARIABLE = re.compile(r"\{(?P<field>[a-z0-9_.]+)=(?P<pattern>[^}]*)\}")
"""A variable of a path template: {name=stores/*/alerts/*}."""


@dataclass(frozen=True, slots=True)
class Binding:
    """One way to call a method over HTTP."""

    method: MethodDescriptor
    verb: str
    """In lower case."""
    template: str
    """As declared: "/v1/{name=stores/*/alerts/*}:acknowledge"."""
    body: str
    """The field that the body is, "*" for the whole request, "" for none."""

    @property
    def path_fields(self) -> list[str]:
        """Fields of the request that are in the path: "name", "poi.name"."""
        return [found["field"] for found in VARIABLE.finditer(self.template)]

    @property
    def path(self) -> str:
        """For people: "/v1/stores/{store}/alerts/{alert}:acknowledge"."""
        return VARIABLE.sub(lambda found: _spelt(found["pattern"]), self.template)

    @property
    def body_message(self) -> Descriptor | None:
        """What the body is made of."""
        request = self.method.input_type
        if self.body in ("", "*"):
            return request if self.body else None
        field: FieldDescriptor = request.fields_by_name[self.body]
        return field.message_type


def bindings(services: Iterable[Service]) -> Iterator[Binding]:
    """Of all contracts of these services, as declared. Raises ValueError for a pattern that is not one of ours."""
    for service in services:
        for name in service.contracts:
            for method in contract(name).methods:
                rule: http_pb2.HttpRule = method.GetOptions().Extensions[_HTTP]
                for one in (rule, *rule.additional_bindings):
                    if one.WhichOneof("pattern"):
                        yield _binding(method, one)


def _binding(method: MethodDescriptor, rule: http_pb2.HttpRule) -> Binding:
    verb = rule.WhichOneof("pattern") or ""
    if verb == "custom":
        raise ValueError(f"{method.full_name}: only the usual verbs")
    found = Binding(method, verb, getattr(rule, verb), rule.body)
    if "*" in found.path:
        raise ValueError(f"{method.full_name}: {found.template}: only variables such as {{name=stores/*}}")
    return found


def _spelt(pattern: str) -> str:
    """stores/*/alerts/* -> stores/{store}/alerts/{alert}."""
    parts = pattern.split("/")
    return "/".join(
        f"{{{parts[index - 1].removesuffix('s')}}}" if part == "*" and index else part
        for index, part in enumerate(parts)
    )
