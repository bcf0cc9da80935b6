"""What the gateway itself answers, where a call does not get as far as a service."""

from __future__ import annotations

from collections.abc import Mapping

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Struct
from google.rpc import code_pb2

_REASONS: Mapping[int, tuple[int, str]] = {
    400: (code_pb2.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    401: (code_pb2.UNAUTHENTICATED, "TOKEN_INVALID"),
    403: (code_pb2.PERMISSION_DENIED, "TOKEN_INVALID"),  # for somebody else
    404: (code_pb2.NOT_FOUND, "NO_SUCH_CALL"),
    408: (code_pb2.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    413: (code_pb2.RESOURCE_EXHAUSTED, "BODY_TOO_LARGE"),
    429: (code_pb2.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS"),
    431: (code_pb2.RESOURCE_EXHAUSTED, "HEADERS_TOO_LARGE"),
    500: (code_pb2.INTERNAL, "INTERNAL"),
    503: (code_pb2.UNAVAILABLE, "SERVICE_UNAVAILABLE"),
    504: (code_pb2.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
}
"""HTTP status -> code and reason."""


def own() -> hcm.LocalReplyConfig:
    """Errors of REST calls as google.rpc.Status in JSON, as the services' are; of a gRPC call the text goes along."""
    return hcm.LocalReplyConfig(
        mappers=[
            hcm.ResponseMapper(filter=_SAID, body_format_override=_AS_IT_IS),
            *(
                hcm.ResponseMapper(filter=_both(_is(status), _REST), body_format_override=_error(code, reason))
                for status, (code, reason) in _REASONS.items()
            ),
        ]
    )


def _header(header: route.HeaderMatcher) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(header_filter=accesslog.HeaderFilter(header=header))


_NO_GRPC = route.HeaderMatcher(
    name="content-type",
    string_match=matcher.StringMatcher(prefix="application/grpc"),
    invert_match=True,
    treat_missing_header_as_empty=True,
)
_TRANSLATED = route.HeaderMatcher(name="x-envoy-original-path", present_match=True)
_REST = accesslog.AccessLogFilter(or_filter=accesslog.OrFilter(filters=[_header(_NO_GRPC), _header(_TRANSLATED)]))

_SAID = accesslog.AccessLogFilter(
    metadata_filter=accesslog.MetadataFilter(
        matcher=matcher.MetadataMatcher(
            filter="envoy.filters.http.lua",
            path=[matcher.MetadataMatcherPathSegment(key="answered")],
            value=matcher.ValueMatcher(bool_match=True),
        ),
        match_if_key_not_found=False,
    )
)
"""strict.lua has answered, and its answer is a Status."""
_AS_IT_IS = core.SubstitutionFormatString(
    text_format_source=core.DataSource(inline_string="%LOCAL_REPLY_BODY%"), content_type="application/json"
)


def _is(status: int) -> accesslog.AccessLogFilter:
    value = core.RuntimeUInt32(default_value=status, runtime_key=f"gateway.answers.{status}")
    comparison = accesslog.ComparisonFilter(op=accesslog.ComparisonFilterOp.EQ, value=value)
    return accesslog.AccessLogFilter(status_code_filter=accesslog.StatusCodeFilter(comparison=comparison))


def _both(*wanted: accesslog.AccessLogFilter) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(and_filter=accesslog.AndFilter(filters=list(wanted)))


def _error(code: int, reason: str) -> core.SubstitutionFormatString:
    details = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "poi-mesh"}
    return core.SubstitutionFormatString(
        json_format=Struct.from_dict({"code": code, "message": "%LOCAL_REPLY_BODY%", "details": [details]})
    )
