"""Files that are read where they lie: encrypted in counter mode, so that any bytes of them can be read alone.

The content keeps its place; behind it comes a trailer: `\\0POIPV1\\0` | number of the data key u32 | nonce 12 bytes |
8 bytes by which another key of that number is told. Block i of 16 bytes is XORed with AES-256 of nonce | i (u32), under
a key that is derived from the data key for pages. Counter mode hides and does not authenticate: whoever keeps such
files keeps checksums of them.

Rows are opened all in one call, as ECB of their counters: one call for each of 20,000 rows would take longer than the
search that wants them.
"""

from __future__ import annotations

import secrets
import struct
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from mesh.vault.masters import VaultUnusable
from mesh.vault.vault import Unopenable, Vault

_MAGIC: Final = b"\0POIPV1\0"
_TRAILER: Final = struct.Struct(">8sI12s8s")
TRAILER_BYTES: Final = _TRAILER.size
BLOCK_BYTES: Final = 16
_MOST_BYTES: Final = BLOCK_BYTES << 32
_PURPOSE: Final = b"pages"
_CHECK: Final = b"pages check"


def seal(vault: Vault, store: str, content: bytes | memoryview) -> bytes:
    """What may be stored in place of a file. Raises VaultUnusable, ValueError for 64 GiB and more."""
    if len(content) >= _MOST_BYTES:
        raise ValueError("is too long for one nonce")
    number = vault.current(store)
    nonce = secrets.token_bytes(12)
    sealed = _Key(vault.key(store, number, _PURPOSE), nonce).whole(content)
    return sealed + _TRAILER.pack(_MAGIC, number, nonce, vault.key(store, number, _CHECK)[:8])


def is_sealed(end: bytes | memoryview) -> bool:
    """Whether the file that ends with these bytes (at least a trailer's) was sealed."""
    return len(end) >= TRAILER_BYTES and bytes(end[-TRAILER_BYTES:]).startswith(_MAGIC)


def pages_of(vault: Vault, store: str, end: bytes) -> Pages | None:
    """How to open the file that ends with these bytes; None for one that was never sealed. Raises Unopenable."""
    if not is_sealed(end):
        return None
    _, number, nonce, check = _TRAILER.unpack(end[-TRAILER_BYTES:])
    try:
        if vault.key(store, number, _CHECK)[:8] != check:
            raise Unopenable(f"was sealed with another key {number} of store {store}")
        return Pages(vault.key(store, number, _PURPOSE), nonce)
    except VaultUnusable as error:
        raise Unopenable(str(error)) from None


class _Key:
    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._key, self._nonce = key, nonce

    def whole(self, content: bytes | memoryview) -> bytes:
        """A file from its beginning, sealed or opened."""
        cipher = Cipher(algorithms.AES(self._key), modes.CTR(self._nonce + bytes(4))).encryptor()
        return cipher.update(memoryview(content).cast("B")) + cipher.finalize()  # whatever its items are


class Pages(_Key):
    """Opens parts of one file."""

    def rows(self, stored: NDArray[Any], at: NDArray[np.intp]) -> NDArray[Any]:
        """(k, width) the rows at these places of `stored` (n, width), whose rows are whole blocks of 16 bytes."""
        width = stored.dtype.itemsize * stored.shape[1]
        blocks = width // BLOCK_BYTES
        if width % BLOCK_BYTES:
            raise ValueError("rows must be whole blocks")
        counters = np.empty((len(at), blocks, BLOCK_BYTES), np.uint8)
        counters[:, :, :12] = np.frombuffer(self._nonce, np.uint8)
        numbers = at.astype(np.uint64)[:, None] * blocks + np.arange(blocks, dtype=np.uint64)
        counters[:, :, 12:] = numbers.astype(">u4").view(np.uint8).reshape(len(at), blocks, 4)
        # ECB of counters that never repeat is counter mode.
        cipher = Cipher(algorithms.AES(self._key), modes.ECB()).encryptor()
        stream = np.frombuffer(cipher.update(counters.tobytes()) + cipher.finalize(), np.uint64).reshape(
            len(at), width // 8
        )
        opened = np.ascontiguousarray(stored[at]).view(np.uint64) ^ stream
        rows: NDArray[Any] = opened.view(stored.dtype).reshape(len(at), stored.shape[1])
        return rows
