"""Who a server or a client is: a certificate with a SPIFFE id, its key, and the roots it trusts, in files that change.

An id is `spiffe://{trust domain}/{scope}/{name}`; the scope is a store, or `mesh` for what serves all of them. The same
certificate holds the DNS name `{name}.{scope}.{trust domain}` (lower case; see `SpiffeId.server_name`), which is what a
client checks of a server: gRPC compares host names, not URIs. So a client that wants `match` takes no other service of
the mesh for it, wherever an address leads to.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from prometheus_client import Gauge

from mesh.settings import TlsFiles

_log = structlog.get_logger(__name__)
_NOT_AFTER: Final = Gauge("poi_tls_certificate_not_after_seconds", "When our certificate ends, since the epoch.")

WHOLE_MESH: Final = "mesh"
"""The scope of what serves all stores."""

_DOMAIN: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,252}[a-z0-9])?")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class TlsError(ValueError):
    """The files do not make an identity; the text says which and why."""


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """Somebody of the mesh. Raises ValueError for parts that an id cannot have: no `:`, though a store's id may."""

    trust_domain: str
    scope: str
    name: str

    def __post_init__(self) -> None:
        if not _DOMAIN.fullmatch(self.trust_domain):
            raise ValueError(f"{self.trust_domain!r} is not a trust domain (lower case letters, digits, . and -)")
        for part in (self.scope, self.name):
            if not _SEGMENT.fullmatch(part):
                raise ValueError(f"{part!r} cannot be in a SPIFFE id (letters, digits and . _ -)")

    @classmethod
    def parse(cls, uri: str) -> SpiffeId:
        """The id of `spiffe://...`. Raises ValueError."""
        parts = uri.removeprefix("spiffe://").split("/")
        if not uri.startswith("spiffe://") or len(parts) != 3:
            raise ValueError(f"{uri!r} is not spiffe://trust-domain/scope/name")
        return cls(*parts)

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/{self.scope}/{self.name}"

    @property
    def server_name(self) -> str:
        """The DNS name in its certificate. What is no DNS label stands there as a hash, so that no two are alike."""
        return f"{_label(self.name)}.{_label(self.scope)}.{self.trust_domain}"

    def neighbour(self, name: str) -> SpiffeId:
        """Who is called `name` in the same scope."""
        return SpiffeId(self.trust_domain, self.scope, name)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The contents of the files: PEM, and what the certificate says."""

    certificate: bytes
    key: bytes
    ca: bytes
    id: SpiffeId
    not_after: datetime


class Identity:
    """The credentials in some files, read again when those change. `refresh` may be called from any thread."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises TlsError."""
        self._files = files
        self._seen = _signature(files)
        self.current = _read(files)
        _NOT_AFTER.set(self.current.not_after.timestamp())

    def refresh(self) -> Credentials | None:
        """The new credentials, if the files have changed since the last call.

        Files that make no identity (a certificate whose key is still to be written) leave things as they are.
        """
        seen = _signature(self._files)
        if seen == self._seen:
            return None
        try:
            fresh = _read(self._files)
        except TlsError as error:
            _log.warning("certificate_not_usable", why=str(error))
            return None  # looked at again next time: the signature is not remembered
        self._seen = seen
        if fresh == self.current:
            return None
        self.current = fresh
        _NOT_AFTER.set(fresh.not_after.timestamp())
        _log.info("certificate_renewed", id=str(fresh.id), not_after=fresh.not_after.isoformat())
        return fresh


def server_context(files: TlsFiles, *, ask: bool = False) -> ssl.SSLContext:
    """For a server that is no gRPC server: our certificate, whatever the files hold when a client connects.

    Clients show none: browsers have none. With `ask` they may; then it is one of our roots', which are those of the
    moment too. Raises TlsError.
    """
    identity = Identity(files)
    latest = _context(files, ask)

    def renewed(connection: ssl.SSLObject, _name: str | None, _context_of_it: ssl.SSLContext) -> None:
        nonlocal latest
        if identity.refresh() is not None:
            latest = _context(files, ask)
        connection.context = latest

    listening = _context(files, ask)
    listening.sni_callback = renewed
    return listening


def _context(files: TlsFiles, ask: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.certificate, files.key)
        if ask:
            context.load_verify_locations(files.ca)
            context.verify_mode = ssl.CERT_OPTIONAL
    except OSError as error:  # ssl.SSLError too
        raise TlsError(f"{files.certificate}: {error.strerror or error}") from None
    return context


def is_called(name: str, certificate: Mapping[str, Any] | None) -> bool:
    """Whether a certificate that was checked, as `getpeercert` gives it, is of somebody of this name."""
    uris = [value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "URI"]
    try:
        return len(uris) == 1 and SpiffeId.parse(uris[0]).name == name
    except ValueError:
        return False


def spiffe_id(certificate: x509.Certificate) -> SpiffeId:
    """The id in a certificate. Raises ValueError where it has none, or several."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise ValueError("has no SPIFFE id") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise ValueError("has no SPIFFE id" if not uris else "has several ids")
    return SpiffeId.parse(uris[0])


def _signature(files: TlsFiles) -> tuple[tuple[int, int, int] | None, ...]:
    """Changes when a file does, also where a link leads to another one (Kubernetes swaps whole directories)."""
    found: list[tuple[int, int, int] | None] = []
    for path in (files.certificate, files.key, files.ca):
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def _read(files: TlsFiles) -> Credentials:
    path = files.certificate
    try:
        pem = files.certificate.read_bytes()
        leaf = x509.load_pem_x509_certificates(pem)[0]
        identity = spiffe_id(leaf)
        path = files.key
        key = files.key.read_bytes()
        public = load_pem_private_key(key, password=None).public_key()
        path = files.ca
        ca = files.ca.read_bytes()
        x509.load_pem_x509_certificates(ca)
    except OSError as error:
        raise TlsError(f"{path}: {error.strerror or error}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise TlsError(f"{path}: {error}") from None
    if leaf.public_key() != public:
        raise TlsError(f"{files.key}: is not the key of {files.certificate}")
    return Credentials(pem, key, ca, identity, leaf.not_valid_after_utc)


def _label(text: str) -> str:
    return text if _LABEL.fullmatch(text) else f"x-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
