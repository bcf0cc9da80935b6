"""Receipts: canonical JSON (sorted keys, no blanks, texts and whole numbers only) with an Ed25519 signature.

As a file a receipt is `{"receipt": {...}, "signature": base64, "key": id, "algorithm": "Ed25519"}`: what is signed is
the canonical form of `receipt`, so that a file may be indented and still be read by people and verified.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from poi.v1 import audit_pb2, erasure_pb2

FORMAT: Final = "poi-mesh erasure receipt 1"
_ALGORITHM: Final = "Ed25519"


class NotGenuine(Exception):
    """The receipt is not what the key signed."""


class Signer:
    """The key of receipts."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.key_id = _key_id(key.public_key())

    @classmethod
    def create(cls, path: Path) -> Signer:
        """Makes a key, and its public half in PATH.pub. Raises OSError, FileExistsError where there is one."""
        key = Ed25519PrivateKey.generate()
        signer = cls(key)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        path.with_name(f"{path.name}.pub").write_text(signer.public_pem)
        return signer

    @classmethod
    def load(cls, path: Path) -> Signer:
        """Reads a key. Raises OSError, ValueError for what is none."""
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{path} is not an Ed25519 key")
        return cls(key)

    @property
    def public_pem(self) -> str:
        """What receipts are verified with."""
        return (
            self._key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode("ascii")
        )

    def sign(self, content: dict[str, Any]) -> erasure_pb2.ErasureReceipt:
        """The receipt of a content."""
        raw = canonical(content)
        return erasure_pb2.ErasureReceipt(content=raw, signature=self._key.sign(raw), key_id=self.key_id)


def canonical(content: Any) -> bytes:
    """What is signed."""
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)


def content_of(record: erasure_pb2.PersonErasure, key_id: str) -> dict[str, Any]:
    """What a receipt says of an erasure that is done."""
    removed: Counter[tuple[str, str]] = Counter()
    for trace in record.traces:
        removed[trace.keeper, trace.kind] += trace.count
    return {
        "format": FORMAT,
        "name": record.name,
        "person": {"poi": record.poi},
        "requested_by": _actor(record.requester),
        "approved_by": _actor(record.approver) if record.HasField("approver") else None,
        "purpose": record.purpose,
        "begun": record.create_time.ToJsonString(),
        "completed": record.complete_time.ToJsonString(),
        "removed": [
            {"keeper": keeper, "kind": kind, "count": count} for (keeper, kind), count in sorted(removed.items())
        ],
        "verified": "everybody who keeps anything of people was asked again, and has nothing more of the person",
        "stays": [
            {"keeper": one.keeper, "kind": one.kind, "count": one.count, "reason": one.reason, "detail": one.detail}
            for one in record.remainders
        ],
        "key": key_id,
    }


def as_file(receipt: erasure_pb2.ErasureReceipt) -> bytes:
    """A receipt for people, and for `verify`."""
    return orjson.dumps(
        {
            "receipt": orjson.loads(receipt.content),
            "signature": base64.b64encode(receipt.signature).decode("ascii"),
            "key": receipt.key_id,
            "algorithm": _ALGORITHM,
        },
        option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )


def verify(file: bytes, public_pem: bytes) -> dict[str, Any]:
    """The content of a receipt's file. Raises NotGenuine; ValueError where the key is none."""
    key = serialization.load_pem_public_key(public_pem)
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("the key is not an Ed25519 public key")
    try:
        whole = orjson.loads(file)
        content, signature = whole["receipt"], base64.b64decode(whole["signature"], validate=True)
        if whole["algorithm"] != _ALGORITHM or content["format"] != FORMAT:
            raise NotGenuine("it is not a receipt of this kind")
        if whole["key"] != _key_id(key) or content["key"] != whole["key"]:
            raise NotGenuine("it was signed with another key")
        key.verify(signature, canonical(content))
    except InvalidSignature:
        raise NotGenuine("it is not what was signed") from None
    except (orjson.JSONDecodeError, binascii.Error, KeyError, TypeError, ValueError) as error:
        raise NotGenuine(f"it is not a receipt: {type(error).__name__}") from None
    found: dict[str, Any] = content
    return found


def _key_id(key: Ed25519PublicKey) -> str:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()


def _actor(actor: audit_pb2.AuditActor) -> dict[str, Any]:
    kind = audit_pb2.ActorKind.Name(actor.kind).removeprefix("ACTOR_KIND_")
    return {"name": actor.name, "known_by": kind, "roles": list(actor.roles)}
