"""`python -m mesh.vault`: makes, exchanges and destroys the keys that seal what is stored of people.

Where keyring and master key are is said by --keyring and --master, else POI_VAULT_KEYRING and POI_VAULT_MASTER. Running
services see a change within seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mesh.vault import keyring, masters
from mesh.vault.masters import VaultUnusable


def main(arguments: Sequence[str]) -> int:
    """Runs a command; 0 when it was done, 2 after one line on stderr when not."""
    options = _parser().parse_args(arguments)
    try:
        if not options.keyring:
            raise VaultUnusable("--keyring (or POI_VAULT_KEYRING) is needed")
        for line in _COMMANDS[options.command](options, Path(options.keyring)):
            sys.stdout.write(line + "\n")
    except VaultUnusable as error:
        sys.stderr.write(f"mesh.vault: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"mesh.vault: {options.keyring}: {error.strerror or error}\n")
        return 2
    return 0


def _init(options: argparse.Namespace, path: Path) -> list[str]:
    """Keys for stores that have none; a master key and a keyring where there is none."""
    lines = []
    where: str = options.master
    if where.startswith("file:") and not Path(where[5:]).exists():
        masters.create_file(Path(where[5:]))
        lines.append(f"made a master key: {where[5:]} (keep a copy: without it nothing that was sealed can be read)")
    master = masters.load(where)
    with keyring.editing(path, create=True) as ring:
        for store in options.store:
            if store in ring.stores:
                ring.key(store, ring.of(store).current, master)  # raises where it is not ours
                lines.append(f"store {store} has keys already")
            else:
                lines.append(f"store {store} has key {ring.add(store, master)}")
    return lines


def _rotate(options: argparse.Namespace, path: Path) -> list[str]:
    """New data keys, or another master key."""
    master = masters.load(options.master)
    if options.new_master:
        where: str = options.new_master
        if where.startswith("file:") and not Path(where[5:]).exists():
            masters.create_file(Path(where[5:]))
        new = masters.load(where)
        with keyring.editing(path) as ring:
            count = ring.rewrap(master, new)
        return [f"{count} keys are wrapped by master key {new.id}; give the services POI_VAULT_MASTER={where}"]
    with keyring.editing(path) as ring:
        chosen = options.store or [store for store, keys in ring.stores.items() if not keys.erased]
        for store in chosen:
            ring.of(store)
        return [f"store {store} seals with key {ring.add(store, master)} from now on" for store in chosen]


def _status(options: argparse.Namespace, path: Path) -> list[str]:
    """What keys there are, and with a master key whether it is theirs."""
    ring = keyring.load(path)
    master = masters.load(options.master) if options.master else None
    lines = []
    for store, keys in sorted(ring.stores.items()):
        if keys.erased:
            lines.append(f"{store}: keys destroyed at {keys.erased}")
        for number, one in sorted(keys.keys.items()):
            if master is not None:
                ring.key(store, number, master)
            now = ", seals" if number == keys.current else ""
            lines.append(f"{store}: key {number} of {one.created}, wrapped by {one.master}{now}")
    return lines or ["there are no keys"]


def _erase(options: argparse.Namespace, path: Path) -> list[str]:
    """Destroys the keys of a store."""
    if options.confirm != options.erased_store:
        raise VaultUnusable(f"nothing was done: repeat the name, --confirm {options.erased_store}")
    with keyring.editing(path) as ring:
        ring.erase(options.erased_store)
    return [
        f"the keys of store {options.erased_store} are destroyed: nothing that was sealed for it can be read any more",
        "restart its services, which may have keys in memory, and destroy copies of the keyring together with theirs",
    ]


_COMMANDS = {"init": _init, "rotate": _rotate, "status": _status, "erase-store": _erase}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mesh.vault", description=__doc__)
    parser.add_argument("--keyring", default=os.environ.get("POI_VAULT_KEYRING", ""), metavar="FILE")
    parser.add_argument("--master", default=os.environ.get("POI_VAULT_MASTER", ""), metavar="WHERE")
    commands = parser.add_subparsers(dest="command", required=True)
    init = commands.add_parser("init", help="keys for stores; makes master key (file:PATH) and keyring if need be")
    init.add_argument("--store", action="append", required=True, metavar="STORE")
    rotate = commands.add_parser("rotate", help="new data keys, of all stores or some; or another master key")
    rotate.add_argument("--store", action="append", default=[], metavar="STORE")
    rotate.add_argument("--new-master", default="", metavar="WHERE")
    commands.add_parser("status", help="what keys there are")
    erase = commands.add_parser("erase-store", help="destroys the keys of a store, for good")
    erase.add_argument("erased_store", metavar="STORE")
    erase.add_argument("--confirm", default="", metavar="STORE")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
