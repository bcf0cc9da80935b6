"""The keyring: a JSON file with the data keys of stores, each wrapped by the master key.

    {"version": 1, "stores": {
        "s1": {"current": 2, "keys": {"1": {"wrapped": base64, "master": id, "created": time}, "2": …}},
        "s2": {"erased": time}}}

It may be read by anybody who may not have the keys: without the master key it says nothing. Only
`python -m mesh.vault` writes it, whole or not at all, one at a time. Services read it, and again when it has changed.
"""

from __future__ import annotations

import base64
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mesh.vault.masters import KEY_BYTES, MasterKey, VaultUnusable, WrongMaster

_VERSION: Final = 1


class DataKey(BaseModel):
    """One key of a store."""

    model_config = ConfigDict(extra="forbid")
    wrapped: str
    """Base64."""
    master: str
    """Id of the master key that wraps it."""
    created: str
    """ISO 8601, UTC."""


class StoreKeys(BaseModel):
    """The keys of a store, by number; what is sealed now is sealed with `current`. Without any once erased."""

    model_config = ConfigDict(extra="forbid")
    current: int = 0
    keys: dict[int, DataKey] = Field(default_factory=dict)
    erased: str = ""
    """When its keys were destroyed: ISO 8601, UTC."""


class Keyring(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid")
    version: int = _VERSION
    stores: dict[str, StoreKeys] = Field(default_factory=dict)

    def key(self, store: str, number: int, master: MasterKey) -> bytes:
        """A data key. Raises VaultUnusable, naming what is wrong."""
        keys = self.of(store)
        found = keys.keys.get(number)
        if found is None:
            raise VaultUnusable(f"the keyring has no key {number} of store {store}")
        if found.master != master.id:
            raise WrongMaster(f"key {number} of store {store} is wrapped by master key {found.master}, not {master.id}")
        try:
            return master.unwrap(base64.b64decode(found.wrapped), _context(store, number))
        except WrongMaster as error:
            raise WrongMaster(f"key {number} of store {store} {error}") from None

    def of(self, store: str) -> StoreKeys:
        """The keys of a store. Raises VaultUnusable where it has none, or none any more."""
        keys = self.stores.get(store)
        if keys is None:
            raise VaultUnusable(
                f"the keyring has no keys of store {store}: `python -m mesh.vault init --store {store}`"
            )
        if keys.erased:
            raise VaultUnusable(f"the keys of store {store} were destroyed at {keys.erased}")
        return keys

    def add(self, store: str, master: MasterKey) -> int:
        """A new key of a store, which is its current one from now on; its number."""
        keys = self.stores.setdefault(store, StoreKeys())
        if keys.erased:
            raise VaultUnusable(f"the keys of store {store} were destroyed at {keys.erased}")
        number = max(keys.keys, default=0) + 1
        wrapped = master.wrap(secrets.token_bytes(KEY_BYTES), _context(store, number))
        keys.keys[number] = DataKey(wrapped=base64.b64encode(wrapped).decode(), master=master.id, created=_now())
        keys.current = number
        return number

    def rewrap(self, old: MasterKey, new: MasterKey) -> int:
        """Wraps every key that `old` wraps with `new` instead; how many. What they sealed stays as it is."""
        count = 0
        for store, keys in self.stores.items():
            for number, one in keys.keys.items():
                if one.master == new.id:
                    continue
                wrapped = new.wrap(self.key(store, number, old), _context(store, number))
                one.wrapped, one.master = base64.b64encode(wrapped).decode(), new.id
                count += 1
        return count

    def erase(self, store: str) -> None:
        """Destroys the keys of a store; that it was done is kept. Raises VaultUnusable where there are none."""
        self.of(store)
        self.stores[store] = StoreKeys(erased=_now())


def load(path: Path) -> Keyring:
    """Reads the file. Raises VaultUnusable."""
    try:
        ring = Keyring.model_validate_json(path.read_bytes())
    except OSError as error:
        raise VaultUnusable(f"{path}: {error.strerror}; `python -m mesh.vault init` makes a keyring") from None
    except ValidationError:
        raise VaultUnusable(f"{path}: is not a keyring") from None
    if ring.version != _VERSION:
        raise VaultUnusable(f"{path}: is a keyring of version {ring.version}; this program knows {_VERSION}")
    return ring


@contextmanager
def editing(path: Path, *, create: bool = False) -> Iterator[Keyring]:
    """The keyring, written durably at the end unless something is raised. Waits for another one who edits it."""
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ring = Keyring() if create and not path.exists() else load(path)
        yield ring
        _save(path, ring)
    finally:
        os.close(lock)


def _save(path: Path, ring: Keyring) -> None:
    draft = path.with_name(f"{path.name}.draft")
    with draft.open("wb") as file:
        file.write(ring.model_dump_json(indent=1).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _context(store: str, number: int) -> bytes:
    """A wrapped key of one store is none of another."""
    return f"poi-mesh data key\0{store}\0{number}".encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
