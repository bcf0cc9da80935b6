"""What happens around every RPC: counted, logged, its errors answered, its messages validated. One interceptor a file.

Their order, outermost first: metrics and log see the status that the client sees; errors turns what a handler raises
into that status; open_calls, shares, authorisation (`mesh.auth`, where it is switched on) and validation raise like a
handler would. All begin when a call's headers are there (`AtHeaders`). Where too many calls are open that is told
before anything is looked up; shares asks who calls, and only who has a part left of theirs is listened to: there the
request of a unary call is received. Authorisation comes before validation: who may not call learns nothing about the
request, and it fills in who acts.
"""

from __future__ import annotations

import grpc

from mesh.interceptors.base import AtHeaders
from mesh.interceptors.errors import ErrorsInterceptor
from mesh.interceptors.metrics import MetricsInterceptor
from mesh.interceptors.open_calls import OpenCallsInterceptor
from mesh.interceptors.request_log import RequestLogInterceptor
from mesh.interceptors.shares import Identify, SharesInterceptor
from mesh.interceptors.validation import ValidationInterceptor

__all__ = [
    "AtHeaders",
    "ErrorsInterceptor",
    "MetricsInterceptor",
    "OpenCallsInterceptor",
    "RequestLogInterceptor",
    "SharesInterceptor",
    "ValidationInterceptor",
    "standard",
]


def standard(
    *authorisation: grpc.aio.ServerInterceptor, identify: Identify | None = None
) -> list[grpc.aio.ServerInterceptor]:
    """The interceptors of every server, in order. `identify` says whose share a call is of; else it is an address's."""
    return [
        *(AtHeaders(), MetricsInterceptor(), RequestLogInterceptor(), ErrorsInterceptor()),
        *(OpenCallsInterceptor(), SharesInterceptor(identify), *authorisation, ValidationInterceptor()),
    ]
