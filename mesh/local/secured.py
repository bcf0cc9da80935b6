"""Certificates and tokens for a mesh on this machine, made for it and gone with its directory."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Final

from mesh.auth import Role
from mesh.pki import Authority
from mesh.settings import TlsFiles
from mesh.token import Accounts

_LIFETIME: Final = timedelta(days=30)  # a demo may be left to itself; nobody renews what it has
TOOL: Final = "cli"
"""By what name people's tools are known: it lets them knock, and nothing more."""


class Secured:
    """An authority and local accounts in `directory`, for one store."""

    def __init__(self, directory: Path, store: str, services: Iterable[str]) -> None:
        self._store = store
        self.accounts = Accounts(directory / "keys")
        authority = Authority(directory / "pki")
        authority.create("poi-mesh")
        self._files = {name: authority.issue(name, store, _LIFETIME).files for name in (*services, TOOL)}
        self.accounts.add_key()
        self.authority = authority

    def files(self, name: str) -> TlsFiles:
        """The identity of a service, or of people's tools."""
        return self._files[name]

    def token(self, roles: Iterable[Role], subject: str, stores: Iterable[str] = ()) -> str:
        """A token of somebody with these roles, for the mesh's store unless others are named."""
        return self.accounts.issue(subject, set(roles), set(stores) or {self._store}, _LIFETIME)

    @property
    def env(self) -> dict[str, str]:
        """The settings of all services."""
        told = {"POI_AUTH": "required", "POI_JWKS": str(self.accounts.jwks.resolve())}
        for name, files in self._files.items():
            if name != TOOL:
                told |= tls_env(files, f"POI_{name.upper()}_")
        return told


def tls_env(files: TlsFiles, prefix: str = "POI_") -> dict[str, str]:
    """The variables that say where an identity is."""
    return {
        f"{prefix}TLS_CERTIFICATE": str(files.certificate.resolve()),
        f"{prefix}TLS_KEY": str(files.key.resolve()),
        f"{prefix}TLS_CA": str(files.ca.resolve()),
    }
