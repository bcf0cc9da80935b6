"""What happens around every RPC: counted, logged, its errors answered, its messages validated. One interceptor a file.

Their order, outermost first: metrics and log see the status that the client sees; errors turns what a handler raises
into that status; open_calls and validation raise like a handler would.
"""

import grpc

from mesh.interceptors.errors import ErrorsInterceptor
from mesh.interceptors.metrics import MetricsInterceptor
from mesh.interceptors.open_calls import OpenCallsInterceptor
from mesh.interceptors.request_log import RequestLogInterceptor
from mesh.interceptors.validation import ValidationInterceptor

__all__ = [
    "ErrorsInterceptor",
    "MetricsInterceptor",
    "OpenCallsInterceptor",
    "RequestLogInterceptor",
    "ValidationInterceptor",
    "standard",
]


def standard() -> list[grpc.aio.ServerInterceptor]:
    """The interceptors of every server, in order."""
    return [
        *(MetricsInterceptor(), RequestLogInterceptor(), ErrorsInterceptor()),
        *(OpenCallsInterceptor(), ValidationInterceptor()),
    ]
