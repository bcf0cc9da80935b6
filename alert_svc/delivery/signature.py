"""Signatures of webhooks, as the Standard Webhooks specification has them (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

_PREFIX: Final = "whsec_"
_MIN_BYTES: Final = 16


def key(secret: str) -> bytes:
    """The key that a secret stands for: base64 after `whsec_`, else its own bytes. Raises ValueError."""
    if secret.startswith(_PREFIX):
        try:
            found = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except ValueError:
            raise ValueError("is not base64 after whsec_") from None
    else:
        found = secret.encode()
    if len(found) < _MIN_BYTES:
        raise ValueError(f"must have {_MIN_BYTES} bytes or more")
    return found


def headers(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """What a receiver needs to check that `body` is ours and recent. `timestamp`: epoch seconds."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(key(secret), signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode('ascii')}",
    }
