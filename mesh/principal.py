"""Who calls."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, TypeAlias


class Role(StrEnum):
    """What a person, or a client, does. One may have several; what each may do is in `mesh.auth.policy`."""

    OPERATOR = "operator"
    """Works the alerts of a store."""
    ANALYST = "analyst"
    """Investigates: searches for people, follows their ways, exports."""
    ENROLLER = "enroller"
    """Enrols persons of interest and removes them."""
    ADMIN = "admin"
    """Sets things up and erases; sees nobody's face for it."""
    AUDITOR = "auditor"
    """Reads settings and what was done, changes nothing."""
    CAMERA = "camera"
    """A camera, or what stands before it: sends frames."""


class _All:
    """Every store there is."""

    def __contains__(self, store: object) -> bool:
        return True

    def __repr__(self) -> str:
        return "ALL"


ALL: Final = _All()
"""In place of a set of stores: whichever it is."""
Stores: TypeAlias = frozenset[str] | _All


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody whose certificate or token was checked.

    A `service` of the mesh is known by its SPIFFE id, a `person` or a `client` (a program with a token of its own) by
    the token's subject; who has a client's certificate and no token may do what everybody may.
    """

    kind: Literal["service", "person", "client"]
    name: str
    """SPIFFE id, or the token's `sub`."""
    roles: frozenset[Role] = frozenset()
    stores: Stores = frozenset()
    token_id: str = ""
    """The token's `jti`, where it has one."""
    service: str = ""
    """Of a service: what it is called in the table ("match")."""
    expires: float | None = None
    """When the token ends, in seconds since the epoch."""
    trusted: Callable[[], bool] = field(default=lambda: True, compare=False, repr=False)
    """Whether the key that signed the token is still one of its issuer's. Cheap; for who lasts longer than one call."""


CURRENT: ContextVar[Principal | None] = ContextVar("principal", default=None)


def current() -> Principal | None:
    """Who makes the call that is being handled; None where authorisation is off."""
    return CURRENT.get()
