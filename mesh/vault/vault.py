"""Seals and opens content with the keys of stores.

What is sealed: `\\0PV1` | number of the data key u32 | nonce 12 bytes | AES-256-GCM of the content, its tag last.
Store, context and all that stands before the ciphertext are authenticated with it, so that a value that is put in
another's place does not open. Nonces are random: a key is good for 2^32 values (NIST SP 800-38D, 8.3), at a thousand
a second for seven weeks; rotate more often than that.
"""

from __future__ import annotations

import secrets
import struct
import threading
import time
from pathlib import Path
from typing import Final, Protocol

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mesh.errors import DataLoss
from mesh.vault import keyring
from mesh.vault.masters import KEY_BYTES, MasterKey, VaultUnusable

_log = structlog.get_logger(__name__)
MAGIC: Final = b"\0PV1"
"""No serialized message, JPEG, JSON or base64 begins like this."""
_HEAD: Final = struct.Struct(">4sI12s")
_TAG_BYTES: Final = 16
OVERHEAD: Final = _HEAD.size + _TAG_BYTES
"""How much longer sealed content is, in bytes."""
_LOOK_SECONDS: Final = 1.0
"""How long a change of the keyring may go unnoticed."""


class Unopenable(DataLoss, ValueError):
    """What is stored is not what was sealed for this store and place, or its key is gone."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="UNOPENABLE")


class NoVault(Unopenable):
    """It is sealed, and this server has no vault: nothing is wrong with what is stored."""

    def __init__(self) -> None:
        super().__init__("is sealed, and this server has no vault")


class Box(Protocol):
    """What seals and opens. From any thread. `context` says what the content is and where it belongs."""

    def seal(self, store: str, content: bytes, context: bytes) -> bytes:
        """What may be stored in place of the content. Raises VaultUnusable."""

    def open(self, store: str, content: bytes, context: bytes) -> bytes:
        """The inverse of `seal`. Raises Unopenable."""


class _Plain:
    """Stores everything as it is."""

    def seal(self, store: str, content: bytes, context: bytes) -> bytes:
        return content

    def open(self, store: str, content: bytes, context: bytes) -> bytes:
        if content.startswith(MAGIC):
            raise NoVault
        return content


PLAIN: Final[Box] = _Plain()


class Vault:
    """The keys of stores, unwrapped as they are needed."""

    def __init__(self, path: Path, master: MasterKey, *, accept_plain: bool = False) -> None:
        """`path`: of the keyring. `accept_plain`: whether `open` gives back what was never sealed.

        Raises VaultUnusable when there is no keyring.
        """
        self._path, self._master, self._accept_plain = path, master, accept_plain
        self._lock = threading.Lock()
        self._looked = -_LOOK_SECONDS
        self._stamp: tuple[int, int, int] | None = None
        self._ring = keyring.Keyring()
        self._keys: dict[tuple[str, int], bytes] = {}
        self._ciphers: dict[tuple[str, int], AESGCM] = {}
        self._look()

    def check(self, store: str = "") -> None:
        """Raises VaultUnusable unless content of this store, or of all, can be sealed."""
        for one in [store] if store else [name for name, keys in self._ring.stores.items() if not keys.erased]:
            # All of them, so that no other master key keeps a server from what it is to read later on.
            for number in sorted({self.current(one), *self._ring.of(one).keys}):
                self.key(one, number)

    def seal(self, store: str, content: bytes, context: bytes) -> bytes:
        """See Box."""
        number = self.current(store)
        head = _HEAD.pack(MAGIC, number, secrets.token_bytes(12))
        return head + self._cipher(store, number).encrypt(head[8:], content, _authenticated(store, context, head))

    def open(self, store: str, content: bytes, context: bytes) -> bytes:
        """See Box."""
        if not content.startswith(MAGIC):
            if self._accept_plain:
                return content
            raise Unopenable("is not sealed")
        head = content[: _HEAD.size]
        if len(content) < OVERHEAD:
            raise Unopenable("is cut short")
        number = int.from_bytes(head[4:8])
        self._look()
        try:
            cipher = self._cipher(store, number)
        except VaultUnusable as error:
            raise Unopenable(str(error)) from None
        try:
            return cipher.decrypt(head[8:], content[_HEAD.size :], _authenticated(store, context, head))
        except InvalidTag:
            raise Unopenable(f"was not sealed with key {number} of store {store} for this place, or changed") from None

    def is_current(self, store: str, content: bytes) -> bool:
        """Whether it is sealed with the key that seals now. Raises VaultUnusable."""
        return content.startswith(_HEAD.pack(MAGIC, self.current(store), b"")[:8])

    def current(self, store: str) -> int:
        """The number of the key that seals now. Raises VaultUnusable."""
        self._look()
        return self._ring.of(store).current

    def key(self, store: str, number: int, purpose: bytes = b"") -> bytes:
        """A data key (32 bytes), or one derived from it for another purpose. Raises VaultUnusable."""
        with self._lock:
            key = self._key(store, number)
        return HKDF(SHA256(), KEY_BYTES, None, b"poi-mesh " + purpose).derive(key) if purpose else key

    def _cipher(self, store: str, number: int) -> AESGCM:
        cipher = self._ciphers.get((store, number))
        if cipher is None:
            with self._lock:  # or one of a key that is being destroyed would be kept
                cipher = self._ciphers[store, number] = AESGCM(self._key(store, number))
        return cipher

    def _key(self, store: str, number: int) -> bytes:
        key = self._keys.get((store, number))
        if key is None:
            key = self._keys[store, number] = self._ring.key(store, number, self._master)
        return key

    def _look(self) -> None:
        """Reads the keyring again when it has changed: a key was added, or a store's were destroyed."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        with self._lock:
            self._looked = now
            try:
                found = self._path.stat()
            except OSError as error:
                if self._stamp is not None:  # it is being exchanged, or its volume is away: what is known still holds
                    return
                raise VaultUnusable(f"{self._path}: {error.strerror}") from None
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if stamp != self._stamp:
                self._take(stamp)

    def _take(self, stamp: tuple[int, int, int]) -> None:
        before = self._ring
        try:
            self._ring = keyring.load(self._path)
        except VaultUnusable as error:
            if self._stamp is None:
                raise
            _log.error("keyring_unreadable", why=error.message)  # what is known still holds
        self._stamp = stamp
        self._keys = {at: key for at, key in self._keys.items() if self._still_holds(before, *at)}
        self._ciphers = {at: cipher for at, cipher in self._ciphers.items() if at in self._keys}

    def _still_holds(self, before: keyring.Keyring, store: str, number: int) -> bool:
        """Whether it is the key that it was. One that another master key wraps by now is, and goes on being used."""
        old, new = (ring.stores.get(store, keyring.StoreKeys()).keys.get(number) for ring in (before, self._ring))
        if old is None or new is None:
            return False
        return new == old or (new.master != self._master.id and new.created == old.created)


def _authenticated(store: str, context: bytes, head: bytes) -> bytes:
    return b"poi-mesh sealed\0" + store.encode() + b"\0" + context + b"\0" + head
