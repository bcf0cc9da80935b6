"""Pages of a list (AIP-158): page tokens that fit one query only, and page sizes within bounds."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import Any

import orjson
from google.protobuf.message import Message

from mesh.errors import InvalidArgument

_DIGEST_BYTES = 12


def encode(state: dict[str, Any], request: Message) -> str:
    """An opaque token that carries `state` (JSON values) to the next call of the same query."""
    payload = orjson.dumps(state)
    return base64.urlsafe_b64encode(_digest(payload, request) + payload).decode("ascii")


def decode(token: str, request: Message, **fields: Callable[[Any], Any]) -> dict[str, Any]:
    """The state in `token`, {} for an empty one.

    `fields` say what is in the state and turn it into what is used (`text`, `whole`, `bytes.fromhex`, ...). The digest
    guards against mistakes, not against forgery: what is in the state is what a client said.

    Raises InvalidArgument (field `page_token`) when the token is damaged, when a field of `request` other than
    `page_token` and `page_size` has changed since, or when one of `fields` is missing or raises ValueError or
    TypeError.
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
    try:
        state = orjson.loads(payload)
        return {name: read(state[name]) for name, read in fields.items()} if fields else dict(state)
    except (ValueError, TypeError, LookupError):  # of JSON too
        raise _refused("is not a page token") from None


def text(value: object) -> str:
    """For `decode`: a string."""
    if not isinstance(value, str):
        raise TypeError
    return value


def whole(value: object) -> int:
    """For `decode`: a whole number of 64 bits."""
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise TypeError
    return value


def number(value: object) -> float:
    """For `decode`: a number; JSON has finite ones only. Whole ones stay so: times keep their nanoseconds."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError
    return value


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
