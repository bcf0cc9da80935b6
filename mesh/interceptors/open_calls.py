"""Refuses calls while too many are open: each costs memory for as long as its client likes."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

from mesh.errors import ResourceExhausted
from mesh.interceptors.base import Behaviour, Interceptor, Rpc
from mesh.limits import OPEN_CALLS

_RETRY_SECONDS: Final = 1.0
_HEALTH: Final = "grpc.health.v1.Health"


def kind_of(rpc: Rpc) -> str | None:
    """What a call counts as: streams, calls, or watches of health; None for a probe, which is never refused.

    Who restarts a server because its probe was refused only makes it worse. A watch lasts, so it counts; but not as a
    stream, as balancers must see how servers do also when all of those are taken.
    """
    if rpc.service == _HEALTH:
        return None if rpc.kind == "unary" else "watches"
    return "calls" if rpc.kind == "unary" else "streams"


class OpenCallsInterceptor(Interceptor):
    """Refuses streams while too many streams are open, and others while too many others are.

    Apart, because a stream lasts as long as its client likes: whoever takes all of them keeps nobody from asking. It
    asks for nothing that costs, so it stands before authorisation; what one caller may have of it is `shares`' matter.
    """

    def __init__(self, most: int = OPEN_CALLS) -> None:
        self._most = most
        self._open: defaultdict[str, int] = defaultdict(int)

    def wrap(self, rpc: Rpc, behaviour: Behaviour) -> Behaviour:
        """Count the call while it runs. Raises ResourceExhausted."""
        kind = kind_of(rpc)
        if kind is None:
            return behaviour

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
