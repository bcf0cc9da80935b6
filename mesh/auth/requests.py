"""The fields of requests that a row of the policy names: read, checked, filled in.

`vet` runs on every message of the hot streams: one attribute, one look into a small set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, Final

from google.protobuf.message import Message

from mesh.auth.policy import Rule
from mesh.errors import InvalidArgument, NotFound, PermissionDenied
from mesh.principal import ALL, Principal, Stores

_MOST: Final = 500
"""Characters of a name that are remembered or put on record: nobody has looked at it yet, and it may be megabytes."""
_REMEMBERED: Final = 64
"""How many names one stream may have that need no second look."""


class Requests:
    """Checks the requests of one method."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._store: Callable[[Any], str] | None = attrgetter(rule.store) if rule.store else None

    def needed(self, principal: Principal) -> bool:
        """Whether there is anything to check or fill in for this caller."""
        rule = self._rule
        if principal.kind == "service" and principal.stores is ALL:
            return False  # the hot streams of a mesh for all stores: nothing to do for any message
        return bool(rule.store)

    def vetting(self, principal: Principal) -> Callable[[Any], None]:
        """What to call with each message of this caller's call.

        It raises NotFound for a name of another store, as if there were none; InvalidArgument where the store is
        missing; PermissionDenied for an actor who is somebody else.
        """
        rule, store, stores = self._rule, self._store, principal.stores
        acts = principal.kind != "service"
        known: set[str] = set()

        def vet(message: Any) -> None:
            if store is not None:
                name = store(message)
                if name not in known:
                    if not name.startswith("stores/"):
                        raise InvalidArgument(violations=[(rule.store, "must be a name under stores/{store}")])
                    _check(name, stores)
                    if len(known) < _REMEMBERED and len(name) <= _MOST:
                        known.add(name)
            for path in rule.more:
                for name in read(message, path):
                    # Anything else is no resource name, which the service will say.
                    if name.startswith("stores/"):
                        _check(name, stores)
            if acts:
                self._actor(message, principal)

        return vet

    def _actor(self, message: Any, principal: Principal) -> None:
        rule = self._rule
        for path, value in rule.reserved:
            if value in read(message, path):
                raise PermissionDenied(f"{path}: this is for services", reason="RESERVED_FIELD")
        if rule.actor:
            owner, field = _owner(message, rule.actor)
            said = getattr(owner, field) if owner is not None else principal.name
            if said and said != principal.name:
                raise PermissionDenied(f"{rule.actor}: is not who calls", reason="ACTOR_MISMATCH")
            if owner is not None:
                setattr(owner, field, principal.name)
        if rule.actor_default:
            owner, field = _owner(message, rule.actor_default)
            if owner is not None and not getattr(owner, field):
                setattr(owner, field, principal.name)

    def name(self, message: Any) -> str:
        """The resource that a request is about, for the record."""
        return self._store(message)[:_MOST] if self._store is not None else ""


def read(message: Any, path: str) -> Iterator[Any]:
    """The values of a field, through repeated ones: "candidates.match.poi" has as many as there are candidates."""
    first, _, rest = path.partition(".")
    value = getattr(message, first)
    # Neither a text nor a number nor a message: a repeated field.
    values = [value] if isinstance(value, str | int | Message) else value
    for one in values:
        if rest:
            yield from read(one, rest)
        else:
            yield one


def _owner(message: Any, path: str) -> tuple[Any, str]:
    """The message that has the field at the end of a path, None where it is absent: that is not ours to add."""
    *way, field = path.split(".")
    for step in way:
        if not message.HasField(step):
            return None, field
        message = getattr(message, step)
    return message, field


def _check(name: str, stores: Stores) -> None:
    if name.split("/", 2)[1] not in stores:
        raise NotFound(name)
