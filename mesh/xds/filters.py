"""HTTP filters of the gateway, one function each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import betterproto2
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.common.ratelimit import v3 as ratelimit
from envoy_data_plane.envoy.extensions.filters.http.buffer import v3 as buffer
from envoy_data_plane.envoy.extensions.filters.http.cors import v3 as cors
from envoy_data_plane.envoy.extensions.filters.http.grpc_json_transcoder import v3 as transcoder
from envoy_data_plane.envoy.extensions.filters.http.grpc_web import v3 as grpc_web
from envoy_data_plane.envoy.extensions.filters.http.health_check import v3 as health_check
from envoy_data_plane.envoy.extensions.filters.http.jwt_authn import v3 as jwt_authn
from envoy_data_plane.envoy.extensions.filters.http.local_ratelimit import v3 as local_ratelimit
from envoy_data_plane.envoy.extensions.filters.http.lua import v3 as lua
from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any, Struct

from mesh.auth.tokens import LEEWAY_SECONDS
from mesh.xds.model import Service
from mesh.xds.resources import ADS, extension, seconds

CORS = "envoy.filters.http.cors"
TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
BODIES = "envoy.filters.http.buffer"
STRICT = "envoy.filters.http.lua"
JWT = "envoy.filters.http.jwt_authn"
_ALWAYS = core.RuntimeFractionalPercent(
    default_value=envoy_type.FractionalPercent(
        numerator=100, denominator=envoy_type.FractionalPercentDenominatorType.HUNDRED
    )
)


def a_filter(name: str, message: betterproto2.Message) -> HttpFilter:
    """A filter with its configuration."""
    return HttpFilter(name=name, typed_config=Any.pack(message))


def answer_health(path: str) -> HttpFilter:
    """200 at `path` while the gateway takes calls, 503 when it drains; says nothing about the services."""
    exactly = route.HeaderMatcher(name=":path", string_match=matcher.StringMatcher(exact=path))
    return a_filter(
        "envoy.filters.http.health_check", health_check.HealthCheck(pass_through_mode=False, headers=[exactly])
    )


def allow_origins() -> HttpFilter:
    """CORS, by the policy of the virtual host."""
    return a_filter(CORS, cors.Cors())


def cors_policy(origins: Sequence[str]) -> cors.CorsPolicy:
    """Which pages may call; nobody's without origins."""
    anything = matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=".*"))
    return cors.CorsPolicy(
        allow_origin_string_match=[
            anything if origin == "*" else matcher.StringMatcher(exact=origin) for origin in origins
        ],
        allow_methods="GET, POST, PATCH, PUT, DELETE, OPTIONS",
        allow_headers="authorization,content-type,grpc-timeout,keep-alive,purpose,x-grpc-web,x-user-agent,x-request-id",
        expose_headers="grpc-message,grpc-status,grpc-status-details-bin,x-request-id",
        max_age="3600",
    )


def translate_grpc_web() -> HttpFilter:
    """gRPC-Web, binary and text, to gRPC."""
    return a_filter("envoy.filters.http.grpc_web", grpc_web.GrpcWeb())


def check_tokens() -> HttpFilter:
    """What `token_check` says, which is sent by itself: with other keys the listener, and who is on it, stay.

    Envoy does not listen before it has been told, and would answer every call with 500.
    """
    return HttpFilter(
        name=JWT,
        config_discovery=core.ExtensionConfigSource(
            config_source=ADS, type_urls=[Any.pack(jwt_authn.JwtAuthentication()).type_url]
        ),
    )


def token_check(jwks: Mapping[str, str], audience: str, public: Iterable[str]) -> core.TypedExtensionConfig:
    """No call without a valid token, but for the paths in `public`. Services look at the token as well: it goes on.

    `jwks`: the keys of each issuer, by its name; at least one.
    """
    providers = {
        issuer: jwt_authn.JwtProvider(
            issuer=issuer,
            audiences=[audience],
            local_jwks=core.DataSource(inline_string=keys),
            forward=True,
            require_expiration=True,
            clock_skew_seconds=int(LEEWAY_SECONDS),
            payload_in_metadata="payload",
        )
        for issuer, keys in jwks.items()
    }
    each = [jwt_authn.JwtRequirement(provider_name=issuer) for issuer in jwks]
    # Envoy takes no "any of" one.
    any_of_them = (
        each[0]
        if len(each) == 1
        else jwt_authn.JwtRequirement(requires_any=jwt_authn.JwtRequirementOrList(requirements=each))
    )
    return extension(
        JWT,
        jwt_authn.JwtAuthentication(
            providers=providers,
            rules=[
                *(jwt_authn.RequirementRule(match=route.RouteMatch(path=path)) for path in public),
                jwt_authn.RequirementRule(match=route.RouteMatch(prefix="/"), requires=any_of_them),
            ],
            bypass_cors_preflight=True,
        ),
    )


def limit_rate(calls_per_second: int, burst: int) -> HttpFilter:
    """So many calls for each client address; the gateway as a whole has no limit of its own that matters."""

    def bucket(times: int) -> envoy_type.TokenBucket:
        return envoy_type.TokenBucket(
            max_tokens=burst * times, tokens_per_fill=calls_per_second * times, fill_interval=seconds(1)
        )

    by_address = route.RateLimit(actions=[route.RateLimitAction(remote_address=route.RateLimitActionRemoteAddress())])
    return a_filter(
        "envoy.filters.http.local_ratelimit",
        local_ratelimit.LocalRateLimit(
            stat_prefix="gateway",
            token_bucket=bucket(1_000),
            filter_enabled=_ALWAYS,
            filter_enforced=_ALWAYS,
            rate_limits=[by_address],
            descriptors=[
                # Without a value: a bucket for each address that calls, as many as are remembered.
                ratelimit.LocalRateLimitDescriptor(
                    entries=[ratelimit.RateLimitDescriptorEntry(key="remote_address")], token_bucket=bucket(1)
                )
            ],
            max_dynamic_descriptors=10_000,
            rate_limited_as_resource_exhausted=True,
        ),
    )


def refuse_unknown_fields(script: str) -> HttpFilter:
    """Runs where a route asks for it."""
    filter_ = a_filter(STRICT, lua.Lua(default_source_code=core.DataSource(inline_string=script)))
    filter_.disabled = True
    return filter_


def limit_bodies(max_bytes: int) -> HttpFilter:
    """Takes a whole body in before it goes on, 413 when it is too large. Runs where a route asks for it."""
    filter_ = a_filter(BODIES, buffer.Buffer(max_request_bytes=max_bytes))
    filter_.disabled = True
    return filter_


def for_rest(max_body_bytes: int) -> dict[str, Any]:
    """What a route of REST calls asks for; the other calls are streams, to be neither held up nor looked into."""
    limit = buffer.BufferPerRoute(buffer=buffer.Buffer(max_request_bytes=max_body_bytes))
    wanted = {BODIES: limit, STRICT: lua.LuaPerRoute(filter_context=Struct())}
    return {name: Any.pack(route.FilterConfig(config=Any.pack(message))) for name, message in wanted.items()}


def translate_json(services: Iterable[Service], descriptors: bytes, max_body_bytes: int) -> HttpFilter:
    """REST to gRPC by the contracts' google.api.http; streams are answered as newline-delimited JSON."""
    return a_filter(
        TRANSCODER,
        transcoder.GrpcJsonTranscoder(
            proto_descriptor_bin=descriptors,
            services=[name for service in services for name in service.contracts],
            convert_grpc_status=True,
            print_options=transcoder.GrpcJsonTranscoderPrintOptions(stream_newline_delimited=True),
            request_validation_options=transcoder.GrpcJsonTranscoderRequestValidationOptions(
                reject_unknown_method=True,
                reject_unknown_query_parameters=True,
                reject_binding_body_field_collisions=True,
            ),
            max_request_body_size=max_body_bytes,
            max_response_body_size=64 << 20,
        ),
    )


def send_on() -> HttpFilter:
    """The last one."""
    return a_filter("envoy.filters.http.router", router.Router())
