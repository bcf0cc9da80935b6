"""How much of what a server has open is one caller's: whoever takes all they can get leaves enough for the others.

A caller is who authorisation found (through the gateway: whose token it forwards); where it is off, an address.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final, NamedTuple

from mesh import limits
from mesh.errors import ResourceExhausted
from mesh.peers import address_of
from mesh.principal import Principal

REASON: Final = "SHARE_USED_UP"
_RETRY_SECONDS: Final = 1.0


class Caller(NamedTuple):
    """Whose share it is, and how large."""

    key: tuple[str, str]
    most: int
    among_people: bool
    """Whether it counts as one of the people and clients, who have a limit together."""


def caller(principal: Principal | None, address: str) -> Caller:
    """Somebody who is known, else an address."""
    if principal is None:
        return Caller(("address", address), limits.ADDRESS_SHARE, False)
    # A subject may be anything: one that reads like a service's id has no part in that one's share.
    key = principal.kind, principal.name
    return Caller(key, limits.SERVICE_SHARE, False) if principal.kind == "service" else Caller(key, limits.SHARE, True)


def caller_of(principal: Principal | None, context: Any) -> Caller:
    """Who makes the call of this context."""
    return caller(principal, address_of(context) if principal is None else "")


class Shares:
    """What is open of one kind ("streams"), by caller."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._open: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._all = self._people = 0

    def take(self, who: Caller) -> None:
        """One more. Raises ResourceExhausted where it would be too many; each `take` wants its `leave`."""
        if self._open.get(who.key, 0) >= who.most:
            raise ResourceExhausted(
                f"you have {who.most} {self._kind} open here", reason=REASON, retry_after=_RETRY_SECONDS
            )
        if self._all >= limits.OPEN_CALLS or (who.among_people and self._people >= limits.PEOPLES_CALLS):
            raise ResourceExhausted(
                f"too many {self._kind} are open here", reason="TOO_MANY_CALLS", retry_after=_RETRY_SECONDS
            )
        self._open[who.key] += 1
        self._all += 1
        self._people += who.among_people

    def leave(self, who: Caller) -> None:
        """One less."""
        self._all -= 1
        self._people -= who.among_people
        left = self._open[who.key] - 1
        if left:
            self._open[who.key] = left
        else:  # memory is for those who are here
            del self._open[who.key]
