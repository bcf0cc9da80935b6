"""Refuses a caller who has their share of the open calls, whoever else there is."""

from __future__ import annotations

from typing import Any

from mesh.interceptors.base import Behaviour, Interceptor, Rpc
from mesh.interceptors.open_calls import kind_of
from mesh.principal import current
from mesh.shares import Shares, caller_of


class SharesInterceptor(Interceptor):
    """Counts what each caller has open, streams and others apart. It runs inside authorisation: that says who calls."""

    def __init__(self) -> None:
        self._shares: dict[str, Shares] = {}

    def wrap(self, rpc: Rpc, behaviour: Behaviour) -> Behaviour:
        """Count the call while it runs. Raises ResourceExhausted (SHARE_USED_UP)."""
        kind = kind_of(rpc)
        if kind is None:
            return behaviour
        shares = self._shares.get(kind)
        if shares is None:
            shares = self._shares[kind] = Shares(kind)

        async def run(request: Any, context: Any) -> Any:
            caller = caller_of(current(), context)
            shares.take(caller)
            try:
                return await behaviour(request, context)
            finally:
                shares.leave(caller)

        return run
