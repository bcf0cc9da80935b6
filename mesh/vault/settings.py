"""What a server that stores something of people can be told about sealing it."""

from __future__ import annotations

from mesh.settings import OptionalPath, RedisUrlOrOff, ServerSettings, program_name, refuse
from mesh.vault import masters
from mesh.vault.masters import VaultUnusable
from mesh.vault.vault import PLAIN, Box, Vault


class VaultSettings(ServerSettings):
    """A service that seals subclasses this in place of ServerSettings."""

    vault_keyring: OptionalPath = None
    """File with the keys of stores (`python -m mesh.vault init`): what is written is sealed with them. Empty, the
    default, stores everything as it is."""
    vault_master: str = ""
    """The master key that wraps them: `file:PATH`, `env:VARIABLE` (32 bytes in base64), or `python:MODULE:FUNCTION`,
    which returns a `mesh.vault.MasterKey`, for example of a KMS."""
    approvals_redis_url: RedisUrlOrOff = ""
    """Redis of approvals: stores may want a second person for enrolments and erasures. Requests wait there, sealed, so
    that a vault is needed. Empty, the default, switches that off."""
    vault_accept_plain: bool = True
    """Read what was stored before there was a vault as well. Switch it off once all of it is sealed: until then,
    somebody who can write to the disk or to Redis can put content of their own there."""


def vault_of(settings: VaultSettings, store: str = "") -> Vault | None:
    """The vault that the settings ask for; None for none. Ends the process with one line when it cannot be used.

    With a `store`, it must have keys; without, those there are must be wrapped by the master key.
    """
    if settings.vault_keyring is None:
        return None
    try:
        master = masters.load(settings.vault_master)
    except VaultUnusable as error:
        refuse(program_name(type(settings)), f"POI_VAULT_MASTER: {error}")
    try:
        vault = Vault(settings.vault_keyring, master, accept_plain=settings.vault_accept_plain)
        vault.check(store)
    except VaultUnusable as error:
        refuse(program_name(type(settings)), f"POI_VAULT_KEYRING={settings.vault_keyring}: {error}")
    return vault


def box_of(settings: VaultSettings, store: str = "") -> Box:
    """The same, for who only seals and opens whole content."""
    return vault_of(settings, store) or PLAIN
