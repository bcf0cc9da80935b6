"""What gRPC clients get that name a service `xds:///match`: a listener, routes, a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import betterproto2
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.google.protobuf import Any

from mesh.xds.model import Service
from mesh.xds.resources import ADS, routes, seconds, service_cluster


def _times(timeout: float) -> dict[str, route.RouteActionMaxStreamDuration]:
    """The only one that gRPC clients know. It does not cut streams: zero is no limit."""
    return {"max_stream_duration": route.RouteActionMaxStreamDuration(max_stream_duration=seconds(timeout))}


def messages(services: Iterable[Service]) -> Iterator[tuple[str, betterproto2.Message]]:
    """All resources by name, but for the replicas."""
    for service in services:
        manager = hcm.HttpConnectionManager(
            rds=hcm.Rds(config_source=ADS, route_config_name=service.name),
            http_filters=[hcm.HttpFilter(name="router", typed_config=Any.pack(router.Router()))],
        )
        virtual_host = route.VirtualHost(name=service.name, domains=["*"], routes=list(routes(service, _times)))
        yield (
            service.name,
            listener.Listener(name=service.name, api_listener=listener.ApiListener(api_listener=Any.pack(manager))),
        )
        yield service.name, route.RouteConfiguration(name=service.name, virtual_hosts=[virtual_host])
        yield service.name, service_cluster(service)
