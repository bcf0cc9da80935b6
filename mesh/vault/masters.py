"""The master key, which wraps the keys of stores and touches nothing else."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
from importlib import import_module
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mesh.errors import FailedPrecondition

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class VaultUnusable(FailedPrecondition):
    """The vault is not set up, or its keys are not the ones that are needed. One line for whoever runs the server."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="VAULT_UNUSABLE")


class WrongMaster(VaultUnusable):
    """A key was not wrapped by this master key, or was changed."""


class MasterKey(Protocol):
    """What wraps data keys. A KMS does this in a call; it is asked once per data key and process.

    `unwrap` MUST raise WrongMaster for what `wrap` did not give for this very context.
    """

    @property
    def id(self) -> str:
        """Names the key, and says nothing of it. Another key MUST have another id."""

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """The key as it may be stored. Raises VaultUnusable when the master key cannot be reached."""

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """The inverse of `wrap`."""


class LocalMaster:
    """A master key that this process holds."""

    def __init__(self, key: bytes) -> None:
        """Raises VaultUnusable for a key that has not 32 bytes."""
        if len(key) != KEY_BYTES:
            raise VaultUnusable(f"a master key has {KEY_BYTES} bytes, not {len(key)}")
        self._cipher = AESGCM(key)
        self.id = "local-" + hashlib.sha256(b"poi-mesh master key id\0" + key).hexdigest()[:16]

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """See MasterKey."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See MasterKey."""
        try:
            return self._cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise WrongMaster(f"was not wrapped by master key {self.id}, or was changed") from None


def load(where: str) -> MasterKey:
    """The master key at `where`: see settings. Raises VaultUnusable, whose text never holds the key."""
    kind, _, rest = where.partition(":")
    if kind == "file" and rest:
        return LocalMaster(_decoded(_read(Path(rest)), rest))
    if kind == "env" and rest:
        if rest not in os.environ:
            raise VaultUnusable(f"there is no environment variable {rest}")
        return LocalMaster(_decoded(os.environ[rest], rest))
    if kind == "python" and rest.count(":") == 1:
        module, _, function = rest.partition(":")
        try:
            made: MasterKey = getattr(import_module(module), function)()
        except (ImportError, AttributeError) as error:
            raise VaultUnusable(f"{rest} cannot be loaded: {error}") from None
        return made
    raise VaultUnusable(f"{where!r} is not file:PATH, env:VARIABLE or python:MODULE:FUNCTION")


def create_file(path: Path) -> None:
    """Makes a new master key in a file that only its owner can read. Raises VaultUnusable where there is one."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise VaultUnusable(f"{path} exists already") from None
    except OSError as error:
        raise VaultUnusable(f"{path}: {error.strerror}") from None
    with os.fdopen(fd, "wb") as file:
        file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> str:
    try:
        if path.stat().st_mode & 0o007:
            raise VaultUnusable(f"{path}: everybody may read the master key; `chmod o= {path}`")
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise VaultUnusable(f"{path}: {getattr(error, 'strerror', None) or 'is not base64'}") from None


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise VaultUnusable(f"{where}: is not base64") from None
