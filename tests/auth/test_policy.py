"""The table has a row for everything, and every row knows the request it speaks of."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import poi.v1
import pytest
from google.api import resource_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from mesh.auth import Role
from mesh.auth.policy import POLICY
from mesh.auth.requests import read
from mesh.reflection import SERVICES as REFLECTION
from mesh.settings import SERVICES


def contracts() -> dict[str, MethodDescriptor]:
    """Every method of poi.v1, by full name."""
    found = {}
    for module in pkgutil.iter_modules(poi.v1.__path__):
        if module.name.endswith("_pb2"):
            file = importlib.import_module(f"poi.v1.{module.name}").DESCRIPTOR
            for service in file.services_by_name.values():
                found.update({f"{service.full_name}/{method.name}": method for method in service.methods})
    return found


CONTRACTS = contracts()


def test_every_method_of_every_service_has_a_row_and_every_row_a_method() -> None:
    health = [method.name for method in health_pb2.DESCRIPTOR.services_by_name["Health"].methods]
    reflection = [method.name for method in reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].methods]
    discovery = ("StreamAggregatedResources", "DeltaAggregatedResources")
    expected = {
        *CONTRACTS,
        *(f"envoy.service.discovery.v3.AggregatedDiscoveryService/{method}" for method in discovery),
        *(f"grpc.health.v1.Health/{method}" for method in health),
        *(f"{service}/{method}" for service in REFLECTION for method in reflection),
    }

    assert len(CONTRACTS) > 50
    assert set(POLICY) == expected


OF_NO_STORE = {"poi.v1.RegistryService/Register"}


@pytest.mark.parametrize("method", CONTRACTS)
def test_a_row_lets_somebody_in_and_names_the_store(method: str) -> None:
    rule = POLICY[method]

    assert rule.services or rule.roles
    assert not rule.anyone
    assert bool(rule.store) is (method not in OF_NO_STORE)
    assert rule.services <= set(SERVICES)


@pytest.mark.parametrize("method", CONTRACTS)
def test_the_fields_of_a_row_are_in_its_request(method: str) -> None:
    rule, kind = POLICY[method], CONTRACTS[method].input_type
    for path in (rule.store, *rule.more, rule.actor, rule.actor_default, *(path for path, _ in rule.reserved)):
        if path:
            field_at(kind, path)
    request = message_factory.GetMessageClass(kind)()
    assert not rule.store or list(read(request, rule.store)) == [""]


NAMES = {"name", "parent", "poi", "camera", "cameras", "pois", "watchlist", "watchlists", "appearance", "zones"}
CHECKED_BY_THE_SERVICE = {
    # What only services send is checked against its batch by the one who takes it.
    "poi.v1.AlertService/RaiseAlerts",
    "poi.v1.HistoryService/AppendDetections",
    "poi.v1.MatchService/MatchDetections",
    "poi.v1.RegionService/RecordSceneUpdates",
}
WRITTEN_BY_THE_SERVER = ("references", "enrolment_report", "status", "effective")


@pytest.mark.parametrize("method", sorted(set(CONTRACTS) - CHECKED_BY_THE_SERVICE))
def test_no_field_that_can_name_another_store_is_forgotten(method: str) -> None:
    rule = POLICY[method]

    forgotten = set(name_fields(CONTRACTS[method].input_type)) - {rule.store, *rule.more}

    # `match` of a report is what somebody saw: a copy, of which the person alone is looked up.
    assert not {path for path in forgotten if not path.startswith("match.")}


def test_only_operators_close_alerts_and_only_admins_change_settings() -> None:
    for method, rule in POLICY.items():
        name = method.rpartition("/")[2]
        if name in ("AcknowledgeAlert", "ConfirmAlert", "RejectAlert", "ResolveAlert"):
            assert rule.roles == {Role.OPERATOR}
        if name in ("UpdateAlertSettings", "UpdateMatchSettings", "EraseAppearances", "CreateTarget"):
            assert rule.roles == {Role.ADMIN}


def test_auditors_change_nothing_and_admins_see_no_faces() -> None:
    may = {role: {method for method, rule in POLICY.items() if role in rule.roles} for role in Role}
    reads = ("Get", "List", "Summarize", "Export", "Verify")
    assert all(method.rpartition("/")[2].startswith(reads) for method in may[Role.AUDITOR])
    faces = ("SearchAppearances", "GetFrame", "GetReferenceImage", "MatchFaces", "DetectFaces", "GetJourney")
    assert not [method for method in may[Role.ADMIN] if method.endswith(faces)]


def test_what_says_who_acts_is_bound_to_the_token() -> None:
    for method, descriptor in CONTRACTS.items():
        if "actor" in descriptor.input_type.fields_by_name:
            assert POLICY[method].actor == "actor"


def field_at(kind: Descriptor, path: str) -> Any:
    first, _, rest = path.partition(".")
    field = kind.fields_by_name[first]
    assert not rest or field.message_type is not None
    return field_at(field.message_type, rest) if field.message_type is not None and rest else field


def name_fields(kind: Descriptor, prefix: str = "", seen: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths of the fields that hold resource names, by annotation or by their own name."""
    for field in kind.fields:
        path = f"{prefix}{field.name}"
        if field.name in WRITTEN_BY_THE_SERVER:
            continue
        if field.message_type is not None:
            if field.message_type.full_name.startswith("poi.v1.") and field.message_type.full_name not in seen:
                yield from name_fields(field.message_type, f"{path}.", (*seen, field.message_type.full_name))
        elif field.type == field.TYPE_STRING:
            options: Any = field.GetOptions()
            reference = options.Extensions[resource_pb2.resource_reference]
            if reference.type or reference.child_type or field.name in NAMES:
                yield path
