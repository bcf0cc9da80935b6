"""What happens around every RPC: counted, logged, its errors answered, its messages validated. One interceptor a file.

Their order, outermost first: metrics and log see the status that the client sees; errors turns what a handler raises
into that status; authorisation (`mesh.auth`, where it is switched on) and validation raise like a handler would.
Authorisation comes first: who may not call learns nothing about the request, and it fills in who acts.
"""

import grpc

from mesh.interceptors.errors import ErrorsInterceptor
from mesh.interceptors.metrics import MetricsInterceptor
from mesh.interceptors.request_log import RequestLogInterceptor
from mesh.interceptors.validation import ValidationInterceptor

__all__ = ["ErrorsInterceptor", "MetricsInterceptor", "RequestLogInterceptor", "ValidationInterceptor", "standard"]


def standard(*authorisation: grpc.aio.ServerInterceptor) -> list[grpc.aio.ServerInterceptor]:
    """The interceptors of every server, in order."""
    return [
        MetricsInterceptor(),
        RequestLogInterceptor(),
        ErrorsInterceptor(),
        *authorisation,
        ValidationInterceptor(),
    ]
