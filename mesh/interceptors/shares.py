"""Refuses a caller who has their share of the open calls, whoever else there is; receives the request of others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from mesh.interceptors.base import Behaviour, Interceptor, Rpc
from mesh.interceptors.open_calls import kind_of
from mesh.principal import CURRENT, Principal, current
from mesh.receiving import Receiving
from mesh.shares import Shares, caller_of

Identify: TypeAlias = Callable[[Rpc, Any], Awaitable[Principal]]
"""Says who makes the call of a context. Raises Unauthenticated."""


class SharesInterceptor(Interceptor):
    """Asks who calls (`current()` for what is inside), and counts what each has open, streams and others apart.

    Of a unary call, and of a server stream, it gets what receives the request, and hands on the request.
    """

    def __init__(self, identify: Identify | None = None) -> None:
        self._identify = identify
        self._shares: dict[str, Shares] = {}
        self._receiving = Receiving()

    def wrap(self, rpc: Rpc, behaviour: Behaviour) -> Behaviour:
        """Count the call while it runs. Raises ResourceExhausted (SHARE_USED_UP), and what `Receiving` raises."""
        kind, identify, receive = kind_of(rpc), self._identify, self._receiving.receive
        shares = None if kind is None else self._shares.setdefault(kind, Shares(kind))

        async def counted(request: Any, context: Any) -> Any:
            caller = caller_of(current(), context)
            if shares is not None:
                shares.take(caller)
            try:
                if not rpc.request_streaming:
                    request = await receive(caller.key, request)
                return await behaviour(request, context)
            finally:
                if shares is not None:
                    shares.leave(caller)

        if identify is None:
            return counted

        async def run(request: Any, context: Any) -> Any:
            token = CURRENT.set(await identify(rpc, context))
            try:
                return await counted(request, context)
            finally:
                CURRENT.reset(token)

        return run
