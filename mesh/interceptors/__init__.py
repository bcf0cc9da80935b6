"""What happens around every RPC: counted, logged, its errors answered, its messages validated. One interceptor a file.

Their order, outermost first: metrics and log see the status that the client sees; errors turns what a handler raises
into that status; open_calls, authorisation (`mesh.auth`, where it is switched on) and validation raise like a handler
would. Who has too many calls open is told before anything is looked up for them; authorisation comes before validation:
who may not call learns nothing about the request, and it fills in who acts.
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


def standard(*authorisation: grpc.aio.ServerInterceptor) -> list[grpc.aio.ServerInterceptor]:
    """The interceptors of every server, in order."""
    return [
        *(MetricsInterceptor(), RequestLogInterceptor(), ErrorsInterceptor()),
        *(OpenCallsInterceptor(), *authorisation, ValidationInterceptor()),
    ]
