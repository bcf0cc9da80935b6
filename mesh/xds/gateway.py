"""What Envoy at the edge gets: one listener for gRPC, gRPC-Web and REST, in front of all services."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import betterproto2
from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.access_loggers.stream import v3 as stream_log
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any, Struct

from mesh.calling import SERVICE_HEADER
from mesh.health import SERVICE as HEALTH
from mesh.peers import HEADER
from mesh.settings import split_host_port
from mesh.xds import answers, filters, strict
from mesh.xds.model import Checks, Service
from mesh.xds.resources import ADS, address, routes, seconds, service_cluster

NAME = "gateway"
HEALTH_PATH = "/healthz"
OPENAPI_PATH = "/openapi.json"
_MANAGER = "envoy.filters.network.http_connection_manager"

_ACCESS_LOG: Mapping[str, str] = {
    "timestamp": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD):7%",
    # Without its query, which may say whom somebody looks for.
    "path": "%PATH(NQ:ORIG_OR_PATH)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "duration_ms": "%DURATION%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "token_id": f"%DYNAMIC_METADATA({filters.JWT}:payload:jti)%",  # a subject may be the name of a person
    "service": "%UPSTREAM_CLUSTER%",
    "replica": "%UPSTREAM_HOST%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
}


@dataclass(frozen=True, slots=True)
class Edge:
    """How the gateway meets its clients. `XdsSettings.gateway_*` says what each means."""

    listen: str
    descriptors: bytes
    """The compiled contracts, a serialised FileDescriptorSet."""
    openapi: str
    """What /openapi.json answers."""
    cors_origins: tuple[str, ...] = ()
    calls_per_second: int = 200
    burst: int = 400
    max_body_bytes: int = 12 << 20
    stall_seconds: float = 60
    trusted_hops: int = 0
    tls: Path | None = None
    upstream_tls: Path | None = None
    trust: str = ""
    issuers: tuple[str, ...] = ()
    """Whose tokens are taken; none: no call needs one."""
    jwt_audience: str = ""


def messages(services: Iterable[Service], edge: Edge) -> Iterator[tuple[str, betterproto2.Message]]:
    """All resources by name, but for the replicas."""
    known = list(services)
    yield NAME, _listener(known, edge)
    yield NAME, _routes(known, edge)
    for service in known:
        yield (
            service.name,
            service_cluster(
                service,
                health_checks=[_health_check(service.policy.checks)],
                transport_socket=_upstream_tls(service, edge),
            ),
        )


def tokens(edge: Edge, jwks: Mapping[str, str]) -> Iterator[tuple[str, betterproto2.Message]]:
    """What tells the gateway which tokens are valid, by the keys of issuers; nothing, as long as there are no keys."""
    had = {issuer: jwks[issuer] for issuer in edge.issuers if jwks.get(issuer)}
    if had:
        yield filters.JWT, filters.token_check(had, edge.jwt_audience, public=[OPENAPI_PATH])


def _listener(services: list[Service], edge: Edge) -> listener.Listener:
    manager = hcm.HttpConnectionManager(
        stat_prefix=NAME,
        rds=hcm.Rds(config_source=ADS, route_config_name=NAME),
        http_filters=[
            filters.answer_health(HEALTH_PATH),
            filters.allow_origins(),
            filters.translate_grpc_web(),
            # Before tokens: to check one costs more than to count the call.
            filters.limit_rate(edge.calls_per_second, edge.burst),
            *_token_filter(edge),
            filters.limit_bodies(edge.max_body_bytes),
            filters.refuse_unknown_fields(strict.script(services)),
            filters.translate_json(services, edge.descriptors, edge.max_body_bytes),
            filters.send_on(),
        ],
        # The gateway is the edge: what clients say about themselves is not believed.
        use_remote_address=True,
        xff_num_trusted_hops=edge.trusted_hops,
        always_set_request_id_in_response=True,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=hcm.HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST,
        server_header_transformation=hcm.HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        # Of requests that do not come any further; streams may be silent for hours (_times). What is dead is noticed by
        # pings. Slow senders of headers are not waited for.
        stream_idle_timeout=seconds(edge.stall_seconds),
        request_headers_timeout=seconds(10),
        max_request_headers_kb=32,
        common_http_protocol_options=core.HttpProtocolOptions(idle_timeout=seconds(3600), max_headers_count=100),
        http2_protocol_options=core.Http2ProtocolOptions(
            max_concurrent_streams=1_000,
            initial_stream_window_size=1 << 20,
            initial_connection_window_size=4 << 20,
            connection_keepalive=core.KeepaliveSettings(interval=seconds(30), timeout=seconds(10)),
        ),
        local_reply_config=answers.own(),
        access_log=[
            accesslog.AccessLog(
                name="stdout",
                typed_config=Any.pack(
                    stream_log.StdoutAccessLog(
                        log_format=core.SubstitutionFormatString(
                            json_format=Struct.from_dict(dict(_ACCESS_LOG)), omit_empty_values=True
                        )
                    )
                ),
            )
        ],
    )
    host, port = split_host_port(edge.listen)
    return listener.Listener(
        name=NAME,
        address=address(host.strip("[]"), port),
        per_connection_buffer_limit_bytes=1 << 20,
        filter_chains=[
            listener.FilterChain(
                filters=[listener.Filter(name=_MANAGER, typed_config=Any.pack(manager))],
                transport_socket=_downstream_tls(edge),
            )
        ],
    )


def _token_filter(edge: Edge) -> list[hcm.HttpFilter]:
    return [filters.check_tokens()] if edge.issuers else []


def _times(stall_seconds: float, timeout: float) -> dict[str, timedelta]:
    """From the end of the request on, so that a slow client may take its time, as long as it goes on."""
    return {"timeout": seconds(timeout), "idle_timeout": seconds(timeout + stall_seconds if timeout else 0)}


def _routes(services: list[Service], edge: Edge) -> route.RouteConfiguration:
    document = route.Route(
        match=route.RouteMatch(path=OPENAPI_PATH),
        direct_response=route.DirectResponseAction(status=200, body=core.DataSource(inline_string=edge.openapi)),
        response_headers_to_add=[
            core.HeaderValueOption(header=core.HeaderValue(key="content-type", value="application/json"))
        ],
        typed_per_filter_config={filters.TRANSCODER: Any.pack(route.FilterConfig(disabled=True))},
    )
    times = partial(_times, edge.stall_seconds)
    # REST calls are here until they were translated; then their route is looked up again.
    rest = route.Route(
        match=route.RouteMatch(prefix="/v1/"),
        direct_response=route.DirectResponseAction(status=404),
        typed_per_filter_config=filters.for_rest(edge.max_body_bytes),
    )
    return route.RouteConfiguration(
        name=NAME,
        virtual_hosts=[
            route.VirtualHost(
                name=NAME,
                domains=["*"],
                routes=[
                    document,
                    rest,
                    *(_health_route(service) for service in services),
                    *(item for service in services for item in routes(service, times)),
                ],
                typed_per_filter_config={filters.CORS: Any.pack(filters.cors_policy(edge.cors_origins))},
            )
        ],
        request_headers_to_add=[
            core.HeaderValueOption(
                header=core.HeaderValue(key=HEADER, value="%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
                append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
            )
        ],
        max_direct_response_body_size_bytes=max(4096, len(edge.openapi.encode())),
    )


def _health_route(service: Service) -> route.Route:
    """Whether a service answers: grpc.health.v1, which all have, of whichever the caller names in a header.

    Of a replica that is well: those that are not get no calls. Without one Envoy itself answers UNAVAILABLE.
    """
    asked = route.HeaderMatcher(name=SERVICE_HEADER, string_match=matcher.StringMatcher(exact=service.name))
    return route.Route(
        match=route.RouteMatch(path=f"/{HEALTH}/Check", headers=[asked]),
        route=route.RouteAction(cluster=service.name, timeout=seconds(service.policy.checks.timeout_seconds)),
    )


def _health_check(checks: Checks) -> core.HealthCheck:
    return core.HealthCheck(
        interval=seconds(checks.interval_seconds),
        timeout=seconds(checks.timeout_seconds),
        unhealthy_threshold=checks.unhealthy,
        healthy_threshold=checks.healthy,
        # Envoy asks a cluster without calls once a minute only, unless told: the first call would meet the dead one.
        no_traffic_interval=seconds(checks.interval_seconds),
        grpc_health_check=core.HealthCheckGrpcHealthCheck(),
    )


def _downstream_tls(edge: Edge) -> core.TransportSocket | None:
    if edge.tls is None:
        return None
    context = tls.DownstreamTlsContext(
        common_tls_context=tls.CommonTlsContext(
            alpn_protocols=["h2", "http/1.1"],
            tls_certificate_sds_secret_configs=[_secret("gateway", edge.tls)],
        )
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(context))


def _upstream_tls(service: Service, edge: Edge) -> core.TransportSocket | None:
    if edge.upstream_tls is None:
        return None
    expected = tls.SubjectAltNameMatcher(
        san_type=tls.SubjectAltNameMatcherSanType.URI,
        matcher=matcher.StringMatcher(exact=f"{edge.trust}/{service.name}"),
    )
    context = tls.UpstreamTlsContext(
        common_tls_context=tls.CommonTlsContext(
            alpn_protocols=["h2"],
            tls_certificate_sds_secret_configs=[_secret("identity", edge.upstream_tls / "identity.yaml")],
            combined_validation_context=tls.CommonTlsContextCombinedCertificateValidationContext(
                default_validation_context=tls.CertificateValidationContext(match_typed_subject_alt_names=[expected]),
                validation_context_sds_secret_config=_secret("authority", edge.upstream_tls / "authority.yaml"),
            ),
        )
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(context))


def _secret(name: str, path: Path) -> tls.SdsSecretConfig:
    """The only secret in a file that Envoy watches: keys do not pass the control plane, nor need a restart."""
    source = core.ConfigSource(
        path_config_source=core.PathConfigSource(path=str(path)), resource_api_version=core.ApiVersion.V3
    )
    return tls.SdsSecretConfig(name=name, sds_config=source)
