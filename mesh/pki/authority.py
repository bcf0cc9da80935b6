"""The authority: roots, and certificates signed by the newest of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.pki.files import write
from mesh.settings import SERVICES, TlsFiles
from mesh.tls import SpiffeId, spiffe_id

_ROOT_DAYS: Final = 3650
_BACKDATED: Final = timedelta(minutes=5)
"""Clocks differ: what was made now must be good on a machine that is a little behind."""
_RENEW_AT: Final = 2 / 3
"""Of a certificate's life."""
_SERVERS: Final = frozenset({*SERVICES, "gateway", "console", "redis", "broker"})
"""Who is called, and not only calls."""


class PkiError(Exception):
    """It cannot be done; the text says why."""


@dataclass(frozen=True, slots=True)
class Issued:
    """An identity on disk."""

    id: SpiffeId
    files: TlsFiles
    not_after: datetime


class Authority:
    """The authority in a directory. Making one reads nothing; `create` or an earlier one must have made its root."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ca = directory / "ca"

    def create(self, trust_domain: str) -> None:
        """Make the root. Raises PkiError where there is one: certificates of it would be good no more."""
        if (self._ca / "root.key").exists():
            raise PkiError(f"{self._ca} has a root already")
        try:
            SpiffeId(trust_domain, "mesh", "ca")
        except ValueError as error:
            raise PkiError(str(error)) from None
        self._new_root(trust_domain, [])

    def issue(
        self,
        name: str,
        scope: str,
        lifetime: timedelta,
        *,
        directory: Path | None = None,
        hosts: Sequence[str] = (),
    ) -> Issued:
        """A certificate for a service ("match"), or for a client by another name ("cli"), of a store or of "mesh".

        A service's also names this machine (localhost, 127.0.0.1, ::1) and `hosts`, for tools that check an address;
        our own clients check its service's name. Written to `directory`, by default one of its name here.
        """
        root, key = self._root()
        try:
            identity = SpiffeId(spiffe_domain(root), scope, name)
        except ValueError as error:
            raise PkiError(str(error)) from None
        extra = ["localhost", "127.0.0.1", "::1", *hosts] if name in _SERVERS else list(hosts)
        names = [identity.server_name, *extra] if name in _SERVERS else extra
        return self._write(directory or self._directory / name, identity, names, lifetime, root, key)

    def renew(self, *, everything: bool = False) -> list[Issued]:
        """New certificates for the identities here that two thirds of the life are gone of, or whose root is not ours.

        With `everything`, for all. Returns those that were renewed. Every identity gets the roots of now.
        """
        root, key = self._root()
        renewed = []
        for directory in self._identities():
            old = x509.load_pem_x509_certificates((directory / "tls.crt").read_bytes())[0]
            lifetime = old.not_valid_after_utc - old.not_valid_before_utc - _BACKDATED
            due = old.not_valid_before_utc + _RENEW_AT * lifetime < datetime.now(UTC)
            if everything or due or old.issuer != root.subject:
                alternatives = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
                names = [
                    *alternatives.get_values_for_type(x509.DNSName),
                    *map(str, alternatives.get_values_for_type(x509.IPAddress)),
                ]
                renewed.append(self._write(directory, spiffe_id(old), names, lifetime, root, key))
        self._spread()
        return renewed

    def roll(self) -> None:
        """Make a new root, which signs from now on; everybody trusts the old one too, until `retire`."""
        root, _ = self._root()
        self._new_root(spiffe_domain(root), self._trusted())
        self._spread()

    def retire(self) -> None:
        """Trust the newest root only. Raises PkiError while an identity here has a certificate of an older one."""
        root, _ = self._root()
        for directory in self._identities():
            if x509.load_pem_x509_certificates((directory / "tls.crt").read_bytes())[0].issuer != root.subject:
                raise PkiError(f"{directory} has a certificate of the old root: renew first")
        write(self._ca / "bundle.crt", _pem(root), 0o644)
        self._spread()

    def _root(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        try:
            root = x509.load_pem_x509_certificate((self._ca / "root.crt").read_bytes())
            key = serialization.load_pem_private_key((self._ca / "root.key").read_bytes(), password=None)
        except FileNotFoundError:
            raise PkiError(f"{self._ca} has no root: init first") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != root.public_key():
            raise PkiError(f"{self._ca}: root.key is not the key of root.crt")
        return root, key

    def _trusted(self) -> list[x509.Certificate]:
        return x509.load_pem_x509_certificates((self._ca / "bundle.crt").read_bytes())

    def _new_root(self, trust_domain: str, others: Sequence[x509.Certificate]) -> None:
        now = datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain),
                # Roots must not have one name: which of them signed is told by it.
                x509.NameAttribute(NameOID.COMMON_NAME, f"root {now:%Y-%m-%dT%H:%M:%S.%fZ}"),
            ]
        )
        root = (
            _builder(subject, subject, key.public_key(), now, timedelta(days=_ROOT_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        write(self._ca / "root.key", _key_pem(key))
        write(self._ca / "root.crt", _pem(root), 0o644)
        write(self._ca / "bundle.crt", b"".join(map(_pem, [root, *others])), 0o644)

    def _write(
        self,
        directory: Path,
        identity: SpiffeId,
        names: Sequence[str],
        lifetime: timedelta,
        root: x509.Certificate,
        root_key: ec.EllipticCurvePrivateKey,
    ) -> Issued:
        now = datetime.now(UTC)
        lifetime = min(lifetime, root.not_valid_after_utc - now)
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(identity))]
        alternatives += map(_general_name, names)
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if identity.name in _SERVERS:
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{identity.scope}/{identity.name}"[:64])])
        leaf = (
            _builder(subject, root.subject, key.public_key(), now, lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .sign(root_key, hashes.SHA256())
        )
        files = TlsFiles(directory / "tls.crt", directory / "tls.key", directory / "ca.crt")
        # Readers check that key and certificate belong together, and wait where they come between the two.
        write(files.ca, (self._ca / "bundle.crt").read_bytes())
        write(files.key, _key_pem(key))
        write(files.certificate, _pem(leaf))
        return Issued(identity, files, leaf.not_valid_after_utc)

    def _identities(self) -> Iterator[Path]:
        for certificate in sorted(self._directory.glob("*/tls.crt")):
            yield certificate.parent

    def _spread(self) -> None:
        bundle = (self._ca / "bundle.crt").read_bytes()
        for directory in self._identities():
            if (directory / "ca.crt").read_bytes() != bundle:
                write(directory / "ca.crt", bundle)


def spiffe_domain(root: x509.Certificate) -> str:
    """The trust domain of a root."""
    names = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)[0].removeprefix("spiffe://")


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + lifetime)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
