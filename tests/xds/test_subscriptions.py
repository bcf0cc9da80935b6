"""The two variants of the protocol, message by message."""

from __future__ import annotations

from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment
from envoy_data_plane.envoy.service.discovery.v3 import DeltaDiscoveryRequest, DiscoveryRequest
from envoy_data_plane.google.rpc import Status

from mesh.xds.snapshot import CLUSTER, ENDPOINTS, Snapshot, Typed
from mesh.xds.subscriptions import Delta, StateOfTheWorld


def clusters(*names: str, alternative: str = "") -> Typed:
    return Snapshot.of((name, Cluster(name=name, alt_stat_name=alternative)) for name in names).typed(CLUSTER)


def endpoints(*names: str) -> Typed:
    return Snapshot.of((name, ClusterLoadAssignment(cluster_name=name)) for name in names).typed(ENDPOINTS)


def test_the_state_of_the_world_is_sent_when_it_differs() -> None:
    one = StateOfTheWorld(CLUSTER)
    one.heard(DiscoveryRequest(node=Node(id="a"), type_url=CLUSTER))

    first = one.due(clusters("a", "b"))
    assert first is not None
    assert len(first.resources) == 2
    one.heard(DiscoveryRequest(type_url=CLUSTER, version_info=first.version_info, response_nonce=first.nonce))
    assert one.due(clusters("b", "a")) is None, "the same, in another order"

    second = one.due(clusters("a"))
    assert second is not None
    assert second.version_info != first.version_info
    one.again()
    third = one.due(clusters("a"))
    assert third is not None
    assert (third.version_info, third.nonce != second.nonce) == (second.version_info, True)


def test_named_resources_only_and_names_that_crossed_a_response_are_said_again() -> None:
    one = StateOfTheWorld(ENDPOINTS)
    one.heard(DiscoveryRequest(type_url=ENDPOINTS, resource_names=["a"]))
    known = endpoints("a", "b", "c")
    first = one.due(known)
    assert first is not None
    assert len(first.resources) == 1

    one.heard(DiscoveryRequest(type_url=ENDPOINTS, resource_names=["a", "b"], response_nonce=first.nonce))
    second = one.due(known)
    assert second is not None
    assert len(second.resources) == 2
    one.heard(DiscoveryRequest(type_url=ENDPOINTS, resource_names=["a", "b", "c"], response_nonce=first.nonce))
    assert one.due(known) is None, "sent before the second response was seen"
    one.heard(DiscoveryRequest(type_url=ENDPOINTS, resource_names=["a", "b", "c"], response_nonce=second.nonce))
    third = one.due(known)
    assert third is not None
    assert len(third.resources) == 3


def test_what_was_refused_is_not_sent_again_until_it_changes() -> None:
    one = StateOfTheWorld(CLUSTER)
    one.heard(DiscoveryRequest(type_url=CLUSTER))
    bad = one.due(clusters("a"))
    assert bad is not None

    refusal = one.heard(
        DiscoveryRequest(type_url=CLUSTER, response_nonce=bad.nonce, error_detail=Status(message="no such thing"))
    )

    assert refusal is not None
    assert (refusal.version, refusal.detail) == (bad.version_info, "no such thing")
    assert one.due(clusters("a")) is None
    better = one.due(clusters("a", alternative="x"))
    assert better is not None
    assert one.heard(DiscoveryRequest(type_url=CLUSTER, response_nonce=better.nonce)) is None
    assert one.refused is None


def test_delta_sends_what_changed_and_what_is_gone() -> None:
    one = Delta(CLUSTER)
    one.heard(DeltaDiscoveryRequest(type_url=CLUSTER))
    first = one.due(clusters("a", "b"))
    assert first is not None
    assert {item.name for item in first.resources} == {"a", "b"}

    one.heard(DeltaDiscoveryRequest(type_url=CLUSTER, response_nonce=first.nonce))
    assert one.due(clusters("a", "b")) is None
    second = one.due({**clusters("a"), **clusters("c", alternative="x")})
    assert second is not None
    assert ([item.name for item in second.resources], second.removed_resources) == (["c"], ["b"])


def test_delta_after_a_reconnect_sends_only_what_the_client_has_not() -> None:
    known = clusters("a", "b")
    one = Delta(CLUSTER)
    has = {"a": known["a"].version, "b": "of yesterday", "gone": "1"}
    one.heard(DeltaDiscoveryRequest(type_url=CLUSTER, initial_resource_versions=has))

    first = one.due(known)

    assert first is not None
    assert ([item.name for item in first.resources], first.removed_resources) == (["b"], ["gone"])


def test_delta_answers_for_a_name_that_is_not_there_and_forgets_who_unsubscribes() -> None:
    one = Delta(ENDPOINTS)
    one.heard(DeltaDiscoveryRequest(type_url=ENDPOINTS, resource_names_subscribe=["a", "nobody"]))
    first = one.due(endpoints("a"))
    assert first is not None
    assert ([item.name for item in first.resources], first.removed_resources) == (["a"], ["nobody"])

    one.heard(DeltaDiscoveryRequest(type_url=ENDPOINTS, resource_names_unsubscribe=["a"]))
    assert one.due(endpoints()) is None
    one.heard(DeltaDiscoveryRequest(type_url=ENDPOINTS, resource_names_subscribe=["a"]))
    again = one.due(endpoints("a"))
    assert again is not None
    assert [item.name for item in again.resources] == ["a"]
