"""What is made of the contracts: routes, the OpenAPI document, the fields that REST calls may have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import Default

from mesh.xds.openapi import document
from mesh.xds.policy import SERVICES
from mesh.xds.resources import routes
from mesh.xds.rest import bindings


def test_every_contract_has_a_service_and_each_stream_has_no_timeout() -> None:
    compiled = FileDescriptorSet.FromString(files("poi.v1").joinpath("contracts.binpb").read_bytes())
    declared = {
        f"poi.v1.{service.name}" for file in compiled.file if file.package == "poi.v1" for service in file.service
    }
    routed = [name for service in SERVICES.values() for name in service.contracts]

    internal = ["poi.v1.RegistryService", "poi.v1.TraceService"]  # the control plane's own, and the eraser's
    assert sorted([*routed, *internal]) == sorted(declared)
    for service in SERVICES.values():
        untimed = {
            route.match.path
            for route in routes(service, lambda seconds: {"timeout": timedelta(seconds=seconds)})
            if route.match and route.match.path and route.route and not route.route.timeout
        }
        streams = {
            f"/{name}/{method.name}"
            for name in service.contracts
            for method in Default().FindServiceByName(name).methods
            if method.server_streaming or method.client_streaming
        }
        assert untimed == streams


def references(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        if isinstance(content.get("$ref"), str):
            yield content["$ref"]
        for value in content.values():
            yield from references(value)
    elif isinstance(content, list):
        for value in content:
            yield from references(value)


def test_the_openapi_document_has_every_call_and_lacks_nothing_that_it_refers_to() -> None:
    content = json.loads(document())

    operations = {(path, verb) for path, item in content["paths"].items() for verb in item}
    assert operations == {(binding.path, binding.verb) for binding in bindings(SERVICES.values())}
    for reference in set(references(content)):
        place = content
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    ids = [item[verb]["operationId"] for item in content["paths"].values() for verb in item]
    assert len(ids) == len(set(ids))
    assert all(item[verb]["summary"] for item in content["paths"].values() for verb in item)


def test_the_openapi_document_says_what_a_call_takes() -> None:
    content = json.loads(document())

    acknowledge = content["paths"]["/v1/stores/{store}/alerts/{alert}:acknowledge"]["post"]
    body = acknowledge["requestBody"]["content"]["application/json"]["schema"]
    assert [item["name"] for item in acknowledge["parameters"]] == ["store", "alert"]
    assert "name" not in body["properties"], "it is in the path"
    listing = content["paths"]["/v1/stores/{store}/alerts"]["get"]
    assert {"state", "page_size", "interval.start_time"} <= {item["name"] for item in listing["parameters"]}
    assert "security" not in content
    assert json.loads(document(secured=True))["security"] == [{"token": []}]
