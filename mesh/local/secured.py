"""Certificates and tokens for a mesh on this machine, made for it and gone with its directory."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Final

from mesh import brokers
from mesh.auth import Role
from mesh.local.control import write_secrets
from mesh.pki import Authority
from mesh.settings import TlsFiles
from mesh.telemetry import MONITORING
from mesh.token import Accounts

_LIFETIME: Final = timedelta(days=30)  # a demo may be left to itself; nobody renews what it has
TOOL: Final = "cli"
"""By what name people's tools are known: it lets them knock, and nothing more."""
XDS: Final = "xds"
GATEWAY: Final = "gateway"
REDIS, BROKER, CAMERA = "redis", "broker", "camera"
_NOT_OURS: Final = frozenset({TOOL, GATEWAY, REDIS, BROKER, CAMERA, MONITORING})
_OTHERS: Final = (XDS, *sorted(_NOT_OURS))
_ON_THE_BROKER: Final = (CAMERA, "ingest", "alert")


class Secured:
    """An authority and local accounts in `directory`, for one store."""

    def __init__(self, directory: Path, store: str, services: Iterable[str]) -> None:
        self._store = store
        self.accounts = Accounts(directory / "keys")
        authority = Authority(directory / "pki")
        authority.create("poi-mesh")
        issued = {name: authority.issue(name, store, _LIFETIME) for name in (*services, *_OTHERS)}
        self._files = {name: one.files for name, one in issued.items()}
        self.ids = {name: str(one.id) for name, one in issued.items()}
        """SPIFFE ids, by name."""
        self.accounts.add_key()
        self.authority = authority

    def files(self, name: str) -> TlsFiles:
        """The identity of a service, or of people's tools."""
        return self._files[name]

    @property
    def reader(self) -> TlsFiles:
        """The identity of who reads the services' metrics."""
        return self.files(MONITORING)

    def token(self, roles: Iterable[Role], subject: str, stores: Iterable[str] = ()) -> str:
        """A token of somebody with these roles, for the mesh's store unless others are named."""
        return self.accounts.issue(subject, set(roles), set(stores) or {self._store}, _LIFETIME)

    def gateway(self, directory: Path) -> dict[str, str]:
        """Writes Envoy's secrets to `directory`; the settings of a control plane whose gateway asks for tokens."""
        write_secrets(directory, self.files(GATEWAY).certificate.parent)
        return {
            "POI_XDS_GATEWAY_TLS": str(directory.resolve() / "tls.yaml"),
            "POI_XDS_GATEWAY_UPSTREAM_TLS": str(directory.resolve()),
            "POI_XDS_GATEWAY_TRUST": self.ids[XDS].rpartition("/")[0],
            "POI_XDS_GATEWAY_JWKS": str(self.accounts.jwks.resolve()),
        }

    @property
    def broker_users(self) -> list[str]:
        """Those who may use the broker, by what stands in their certificates."""
        return [f"{self._store}/{name}" for name in _ON_THE_BROKER]

    def broker_env(self, url: str) -> dict[str, str]:
        """Settings of the services that use the broker at `url`, each with its own certificate."""
        return {
            f"POI_{name.upper()}_MQTT_URL": brokers.with_files(url, self.files(name))
            for name in _ON_THE_BROKER
            if name != CAMERA
        }

    @property
    def env(self) -> dict[str, str]:
        """The settings of all services."""
        told = {"POI_AUTH": "required", "POI_JWKS": str(self.accounts.jwks.resolve())}
        for name, files in self._files.items():
            if name not in _NOT_OURS:
                told |= tls_env(files, f"POI_{name.upper()}_")
        return told


def tls_env(files: TlsFiles, prefix: str = "POI_") -> dict[str, str]:
    """The variables that say where an identity is."""
    return {
        f"{prefix}TLS_CERTIFICATE": str(files.certificate.resolve()),
        f"{prefix}TLS_KEY": str(files.key.resolve()),
        f"{prefix}TLS_CA": str(files.ca.resolve()),
    }
