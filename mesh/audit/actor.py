"""Who calls: the principal that authorisation found; without any, whoever they say they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

from poi.v1 import audit_pb2

from mesh.principal import Principal, current

MOST_TEXT: Final = 500
_KINDS: Final = {
    "service": audit_pb2.ACTOR_KIND_SERVICE,
    "person": audit_pb2.ACTOR_KIND_PERSON,
    "client": audit_pb2.ACTOR_KIND_CLIENT,
}


def metadata_of(context: Any) -> dict[str, str]:
    """The text metadata of a call."""
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def actor_of(metadata: Mapping[str, str]) -> audit_pb2.AuditActor:
    """Who calls; without a name when nothing is known."""
    return _principal() or claimed(unquote(metadata.get("actor", "")))


def purpose_of(metadata: Mapping[str, str]) -> str:
    """Why, as they say; empty when they do not."""
    return unquote(metadata.get("purpose", ""))[:MOST_TEXT]


def claimed(name: str) -> audit_pb2.AuditActor:
    """Somebody who says that this is their name."""
    kind = audit_pb2.ACTOR_KIND_CLAIMED if name else audit_pb2.ACTOR_KIND_UNSPECIFIED
    return audit_pb2.AuditActor(kind=kind, name=name[:MOST_TEXT])


def _principal() -> audit_pb2.AuditActor | None:
    """Who authorisation found, in a server that has it."""
    principal = current()
    return None if principal is None else actor_from(principal)


def actor_from(principal: Principal) -> audit_pb2.AuditActor:
    """Somebody whom authorisation found."""
    return audit_pb2.AuditActor(
        kind=_KINDS[principal.kind],
        name=principal.name,
        roles=sorted(principal.roles),
        token_id=principal.token_id,
    )
