"""Clusters, endpoints and routes: what Envoy and gRPC clients have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from itertools import groupby
from typing import Any as AnyValue

import betterproto2
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.load_balancing_policies.least_request import v3 as least_request
from envoy_data_plane.envoy.extensions.load_balancing_policies.ring_hash import v3 as ring_hash
from envoy_data_plane.envoy.extensions.load_balancing_policies.round_robin import v3 as round_robin
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts import v3 as previous_hosts
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as http
from envoy_data_plane.google.protobuf import Any
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pool import Default
from poi.v1 import (  # imported for their descriptors
    alert_pb2,
    approval_pb2,
    audit_pb2,
    delivery_pb2,
    embedding_pb2,
    erasure_pb2,
    feedback_pb2,
    history_pb2,
    ingest_pb2,
    match_pb2,
    poi_pb2,
    region_pb2,
    watchlist_pb2,
)

from mesh.xds.model import Balance, Balancing, Endpoint, Health, Outliers, Service

CONTRACT_FILES = tuple(
    module.DESCRIPTOR
    for module in (
        alert_pb2,
        approval_pb2,
        audit_pb2,
        delivery_pb2,
        embedding_pb2,
        erasure_pb2,
        feedback_pb2,
        history_pb2,
        ingest_pb2,
        match_pb2,
        poi_pb2,
        region_pb2,
        watchlist_pb2,
    )
)
"""The compiled contracts that declare services."""

ADS = core.ConfigSource(ads=core.AggregatedConfigSource(), resource_api_version=core.ApiVersion.V3)
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_HEALTH = {
    Health.SERVING: core.HealthStatus.HEALTHY,
    Health.UNKNOWN: core.HealthStatus.UNKNOWN,
    Health.NOT_SERVING: core.HealthStatus.UNHEALTHY,
}


def contract(name: str) -> ServiceDescriptor:
    """The descriptor of "poi.v1.MatchService". Raises KeyError."""
    found: ServiceDescriptor = Default().FindServiceByName(name)
    return found


def extension(name: str, message: betterproto2.Message) -> core.TypedExtensionConfig:
    """An extension's configuration."""
    return core.TypedExtensionConfig(name=name, typed_config=Any.pack(message))


def seconds(value: float) -> timedelta:
    """As betterproto2 wants durations."""
    return timedelta(seconds=value)


def load_assignment(service: Service, replicas: Iterable[Endpoint]) -> endpoint.ClusterLoadAssignment:
    """Where the replicas are, by zone. gRPC clients need a locality and both weights."""

    def zone(replica: Endpoint) -> str:
        return replica.zone

    return endpoint.ClusterLoadAssignment(
        cluster_name=service.name,
        endpoints=[
            endpoint.LocalityLbEndpoints(
                locality=core.Locality(zone=name or "default"),
                load_balancing_weight=len(members),
                lb_endpoints=[
                    endpoint.LbEndpoint(
                        endpoint=endpoint.Endpoint(address=address(replica.host, replica.port)),
                        health_status=_HEALTH[replica.health],
                        load_balancing_weight=1,
                    )
                    for replica in members
                ],
            )
            for name, members in (
                (name, sorted(members)) for name, members in groupby(sorted(replicas, key=zone), key=zone)
            )
        ],
    )


def address(host: str, port: int) -> core.Address:
    """A TCP address."""
    return core.Address(socket_address=core.SocketAddress(address=host, port_value=port))


def service_cluster(service: Service, **fields: AnyValue) -> cluster.Cluster:
    """The cluster of a service, its replicas by EDS; `fields` are added."""
    policy = service.policy
    return cluster.Cluster(
        name=service.name,
        type=cluster.ClusterDiscoveryType.EDS,
        eds_cluster_config=cluster.ClusterEdsClusterConfig(eds_config=ADS),
        connect_timeout=seconds(policy.connect_seconds),
        load_balancing_policy=_balancing(policy.balancing),
        circuit_breakers=cluster.CircuitBreakers(
            thresholds=[
                cluster.CircuitBreakersThresholds(
                    max_connections=policy.breakers.connections,
                    max_requests=policy.breakers.requests,
                    max_pending_requests=policy.breakers.pending,
                    max_retries=policy.breakers.retries,
                )
            ]
        ),
        outlier_detection=_outliers(policy.outliers),
        # A replica that was taken out gets no call any more, although it may still answer health checks.
        ignore_health_on_host_removal=True,
        typed_extension_protocol_options={
            _HTTP: Any.pack(
                http.HttpProtocolOptions(
                    explicit_http_config=http.HttpProtocolOptionsExplicitHttpConfig(
                        http2_protocol_options=core.Http2ProtocolOptions(
                            # A peer that vanished without a word is noticed; as often as our own clients look.
                            connection_keepalive=core.KeepaliveSettings(interval=seconds(20), timeout=seconds(10))
                        )
                    )
                )
            )
        },
        **fields,
    )


def _balancing(balancing: Balancing) -> cluster.LoadBalancingPolicy:
    """The first that a client supports counts: gRPC knows no least_request and goes round."""
    if balancing.kind is Balance.RING_HASH:
        chosen = [extension("ring_hash", ring_hash.RingHash(minimum_ring_size=1024, maximum_ring_size=4096))]
    else:
        chosen = [
            extension("least_request", least_request.LeastRequest()),
            extension("round_robin", round_robin.RoundRobin()),
        ]
    return cluster.LoadBalancingPolicy(
        policies=[cluster.LoadBalancingPolicyPolicy(typed_extension_config=item) for item in chosen]
    )


def _outliers(outliers: Outliers) -> cluster.OutlierDetection:
    return cluster.OutlierDetection(
        consecutive_gateway_failure=outliers.consecutive,
        enforcing_consecutive_gateway_failure=100,
        enforcing_consecutive_5xx=0,  # INTERNAL is an answer: the next replica would give the same
        enforcing_success_rate=0,
        failure_percentage_threshold=outliers.failure_percent,
        failure_percentage_request_volume=outliers.volume,
        failure_percentage_minimum_hosts=2,
        enforcing_failure_percentage=100,
        interval=seconds(outliers.interval_seconds),
        base_ejection_time=seconds(outliers.ejection_seconds),
        max_ejection_percent=outliers.max_percent,
    )


def routes(service: Service, times: Callable[[float], Mapping[str, AnyValue]]) -> Iterator[route.Route]:
    """A route for each stream, which has no timeout, and each slow method, and one for the rest of each contract.

    `times` says a timeout in seconds, 0 for none, in the fields that a kind of client goes by.
    """
    slow = service.policy.slow
    for name in service.contracts:
        for method in contract(name).methods:
            is_stream = method.client_streaming or method.server_streaming
            if is_stream or method.name in slow:
                path = f"/{name}/{method.name}"
                timeout = 0 if is_stream else slow[method.name]
                yield route.Route(match=route.RouteMatch(path=path), route=_action(service, times(timeout)))
        prefix = route.RouteMatch(prefix=f"/{name}/")
        yield route.Route(match=prefix, route=_action(service, times(service.policy.timeout_seconds)))


def _action(service: Service, times: Mapping[str, AnyValue]) -> route.RouteAction:
    policy = service.policy
    hashed = policy.balancing.header
    return route.RouteAction(
        cluster=service.name,
        **times,
        hash_policy=[route.RouteActionHashPolicy(header=route.RouteActionHashPolicyHeader(header_name=hashed))]
        if hashed
        else [],
        retry_policy=route.RetryPolicy(
            # A server that is going away ends with CANCELLED what it has not begun.
            retry_on="connect-failure,refused-stream,reset,unavailable,cancelled",
            num_retries=policy.retries.attempts,
            retry_host_predicate=[
                route.RetryPolicyRetryHostPredicate(
                    name="envoy.retry_host_predicates.previous_hosts",
                    typed_config=Any.pack(previous_hosts.PreviousHostsPredicate()),
                )
            ],
            # The least loaded of two by chance is the dead one three times in four: it has no calls. So ask often.
            host_selection_retry_max_attempts=32,
            retry_back_off=route.RetryPolicyRetryBackOff(
                base_interval=seconds(policy.retries.base_seconds), max_interval=seconds(policy.retries.max_seconds)
            ),
        ),
    )
