"""What happens around every RPC: counted, logged, its errors answered, its messages validated. One interceptor a file.

Their order, outermost first: metrics and log see the status that the client sees; errors turns what a handler raises
into that status; open_calls, authorisation (`mesh.auth`, where it is switched on), shares and validation raise like a
handler would. Where too many calls are open that is told before anything is looked up; who has their own share of them
is known only behind authorisation, which lets nobody in for longer than it takes to ask. Authorisation comes before
validation: who may not call learns nothing about the request, and it fills in who acts.
"""

import grpc

from mesh.interceptors.errors import ErrorsInterceptor
from mesh.interceptors.metrics import MetricsInterceptor
from mesh.interceptors.open_calls import OpenCallsInterceptor
from mesh.interceptors.request_log import RequestLogInterceptor
from mesh.interceptors.shares import SharesInterceptor
from mesh.interceptors.validation import ValidationInterceptor

__all__ = [
    "ErrorsInterceptor",
    "MetricsInterceptor",
    "OpenCallsInterceptor",
    "RequestLogInterceptor",
    "SharesInterceptor",
    "ValidationInterceptor",
    "standard",
]


def standard(*authorisation: grpc.aio.ServerInterceptor) -> list[grpc.aio.ServerInterceptor]:
    """The interceptors of every server, in order."""
    return [
        *(MetricsInterceptor(), RequestLogInterceptor(), ErrorsInterceptor()),
        *(OpenCallsInterceptor(), *authorisation, SharesInterceptor(), ValidationInterceptor()),
    ]
