"""Refuses calls while too many are open: each costs memory for as long as its client likes."""

from __future__ import annotations

from typing import Any, Final

from mesh.errors import ResourceExhausted
from mesh.interceptors.base import Behaviour, Interceptor, Rpc
from mesh.limits import OPEN_CALLS

_RETRY_SECONDS: Final = 1.0
_ALWAYS: Final = frozenset({"grpc.health.v1.Health"})
"""Who restarts a server because its probe was refused only makes it worse."""


class OpenCallsInterceptor(Interceptor):
    """Refuses streams while too many streams are open, and others while too many others are.

    Apart, because a stream lasts as long as its client likes: whoever takes all of them keeps nobody from asking.
    """

    def __init__(self, most: int = OPEN_CALLS) -> None:
        self._most = most
        self._open = {"streams": 0, "calls": 0}

    def wrap(self, rpc: Rpc, behaviour: Behaviour) -> Behaviour:
        """Count the call while it runs. Raises ResourceExhausted."""
        if rpc.service in _ALWAYS:
            return behaviour
        kind = "calls" if rpc.kind == "unary" else "streams"

        async def run(request: Any, context: Any) -> Any:
            if self._open[kind] >= self._most:
                raise ResourceExhausted(
                    f"{self._most} {kind} are open here", reason="TOO_MANY_CALLS", retry_after=_RETRY_SECONDS
                )
            self._open[kind] += 1
            try:
                return await behaviour(request, context)
            finally:
                self._open[kind] -= 1

        return run
