"""Every field of every request that may name a resource keeps a caller in their stores."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.message import Message

from mesh.auth.policy import POLICY
from mesh.auth.requests import Requests
from mesh.errors import InvalidArgument, NotFound
from mesh.principal import Principal, Stores
from tests.auth.test_policy import CONTRACTS

FIELDS = [
    (method, path)
    for method, rule in sorted(POLICY.items())
    if method in CONTRACTS
    for path in (rule.store, *rule.more)
    if path
]


def vetted(method: str, request: Message, stores: Stores = frozenset({"s1"})) -> None:
    Requests(POLICY[method]).vetting(Principal("service", "x", stores=stores, service="x"))(request)


def put(message: Any, path: str, value: str) -> None:
    """Sets a field; of repeated ones there are two, and the second one has it."""
    first, _, rest = path.partition(".")
    field = message.DESCRIPTOR.fields_by_name[first]
    if field.message_type is not None:
        inside = getattr(message, first)
        if field.is_repeated:
            inside.add()
            inside = inside.add()
        put(inside, rest, value)
    elif field.is_repeated:
        getattr(message, first).extend(["stores/s1/x/y", value])
    else:
        setattr(message, first, value)


def asking(method: str, path: str, value: str) -> Any:
    """A request of store s1 but for one field."""
    request = message_factory.GetMessageClass(CONTRACTS[method].input_type)()
    put(request, POLICY[method].store, "stores/s1/x/y")
    put(request, path, value)
    return request


def test_there_are_fields() -> None:
    assert len(FIELDS) > 100


@pytest.mark.parametrize(("method", "path"), FIELDS)
def test_a_name_of_another_store_is_not_found_wherever_it_stands(method: str, path: str) -> None:
    vetted(method, asking(method, path, "stores/s1/x/z"))

    for other in ("stores/s2/x/y", "stores/S1/x/y", "stores/s1x/x/y", "stores/-/x/y", "stores/*/x/y", "stores//x/y"):
        with pytest.raises(NotFound):
            vetted(method, asking(method, path, other))


@pytest.mark.parametrize("method", sorted({method for method, _ in FIELDS}))
@pytest.mark.parametrize(
    "name", ["", "s1", "/stores/s1/x/y", "Stores/s1/x/y", "//poi.mesh/stores/s1/x", " stores/s1/x"]
)
def test_a_request_that_names_no_store_goes_nowhere(method: str, name: str) -> None:
    with pytest.raises(InvalidArgument):
        vetted(method, asking(method, POLICY[method].store, name))


@pytest.mark.parametrize("method", sorted({method for method, _ in FIELDS}))
def test_who_has_no_store_has_none(method: str) -> None:
    with pytest.raises(NotFound):
        vetted(method, asking(method, POLICY[method].store, "stores/s1/x/y"), frozenset())
