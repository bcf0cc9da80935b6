"""Pages of a list (AIP-158): page tokens that fit one query only, and page sizes within bounds."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any

import orjson
from google.protobuf.message import Message

from mesh.errors import InvalidArgument

_DIGEST_BYTES = 12


def encode(state: dict[str, Any], request: Message) -> str:
    """An opaque token that carries `state` (JSON values) to the next call of the same query."""
    payload = orjson.dumps(state)
    return base64.urlsafe_b64encode(_digest(payload, request) + payload).decode("ascii")


def decode(token: str, request: Message) -> dict[str, Any]:
    """The state in `token`, {} for an empty one.

    Raises InvalidArgument (field `page_token`) when the token is damaged, or when a field of `request` other than
    `page_token` and `page_size` has changed since. The digest guards against mistakes, not against forgery: treat the
    state as what a client said.
    """
    if not token:
        return {}
    try:
        raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise _refused("is not a page token") from None
    digest, payload = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
    if digest != _digest(payload, request):
        raise _refused("belongs to another query: send the same request, changing page_token and page_size only")
    state: dict[str, Any] = orjson.loads(payload)
    return state


def clamp(page_size: int, default: int, maximum: int) -> int:
    """The number of items to return: `default` for 0, at most `maximum`. Raises InvalidArgument for a negative size."""
    if page_size < 0:
        raise InvalidArgument(violations=[("page_size", "must not be negative")])
    return min(page_size or default, maximum)


def _digest(payload: bytes, request: Message) -> bytes:
    query = type(request)()
    query.CopyFrom(request)
    for field in ("page_token", "page_size"):
        if field in query.DESCRIPTOR.fields_by_name:
            query.ClearField(field)
    content = (
        query.DESCRIPTOR.full_name.encode() + b"\0" + query.SerializeToString(deterministic=True) + b"\0" + payload
    )
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _refused(why: str) -> InvalidArgument:
    return InvalidArgument(violations=[("page_token", why)], reason="INVALID_PAGE_TOKEN")
