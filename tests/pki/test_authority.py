"""The authority makes identities that say who somebody is, and nothing more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from typer.testing import CliRunner

from mesh.pki import Authority, PkiError
from mesh.pki import __main__ as pki_command
from mesh.settings import TlsFiles
from mesh.tls import Identity, SpiffeId, TlsError
from mesh.token import __main__ as token_command

DAY = timedelta(days=1)


def leaf(files: TlsFiles) -> x509.Certificate:
    return x509.load_pem_x509_certificate(files.certificate.read_bytes())


def roots(files: TlsFiles) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(files.ca.read_bytes())


def test_a_service_has_its_spiffe_id_its_name_and_this_machine(pki: Authority) -> None:
    issued = pki.issue("match", "store-1", DAY, hosts=["match.example.com"])

    made = leaf(issued.files)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://poi-mesh/store-1/match"]
    assert names.get_values_for_type(x509.DNSName) == ["match.store-1.poi-mesh", "localhost", "match.example.com"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    life = made.not_valid_after_utc - datetime.now(UTC)
    assert DAY - timedelta(minutes=1) < life <= DAY


def test_a_certificate_verifies_against_the_root_and_no_other(pki: Authority, tmp_path: Path) -> None:
    issued = pki.issue("match", "store-1", DAY)
    other = Authority(tmp_path / "other")
    other.create("poi-mesh")

    def verify(trusted: list[x509.Certificate]) -> None:
        policy = PolicyBuilder().store(Store(trusted))
        policy.build_server_verifier(x509.DNSName("match.store-1.poi-mesh")).verify(leaf(issued.files), [])

    verify(roots(issued.files))
    with pytest.raises(VerificationError):
        verify(roots(other.issue("match", "store-1", DAY).files))


def test_a_client_cannot_be_taken_for_a_server(pki: Authority) -> None:
    made = leaf(pki.issue("cli", "store-1", DAY).files)

    assert list(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert not names.get_values_for_type(x509.DNSName)


def test_keys_are_for_their_owner_alone(pki: Authority, tmp_path: Path) -> None:
    issued = pki.issue("match", "store-1", DAY)

    keys = [issued.files.key, tmp_path / "pki" / "ca" / "root.key"]
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
    assert {path.parent.stat().st_mode & 0o777 for path in keys} == {0o700}
    assert not list((tmp_path / "pki").rglob(".*"))


def test_a_second_root_does_not_come_by_mistake(pki: Authority) -> None:
    with pytest.raises(PkiError, match="already"):
        pki.create("poi-mesh")


def test_without_a_root_nothing_is_issued(tmp_path: Path) -> None:
    with pytest.raises(PkiError, match="init first"):
        Authority(tmp_path).issue("match", "store-1", DAY)


@pytest.mark.parametrize(("name", "scope"), [("match", "a/b"), ("", "s1"), ("match", "s:1"), ("mä", "s1")])
def test_an_id_that_there_cannot_be(pki: Authority, name: str, scope: str) -> None:
    with pytest.raises(PkiError):
        pki.issue(name, scope, DAY)


def test_no_two_stores_have_one_name() -> None:
    """DNS names ignore case and know no `_` or `.` in a label: what differs in an id must differ there too."""
    scopes = ["store-1", "Store-1", "store_1", "store.1", "STORE-1", "store-1-", "a" * 64]
    names = {SpiffeId("poi-mesh", scope, "match").server_name.lower() for scope in scopes}

    assert len(names) == len(scopes)
    assert all(len(label) <= 63 for name in names for label in name.split("."))


@pytest.mark.parametrize("uri", ["spiffe://poi-mesh/match", "https://poi-mesh/s1/match", "spiffe://A/s1/match", "x"])
def test_what_is_no_id_of_ours(uri: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        SpiffeId.parse(uri)


def test_renewing_takes_those_that_are_due(pki: Authority) -> None:
    fresh, due = pki.issue("match", "s1", DAY), pki.issue("history", "s1", timedelta(seconds=0.01))
    before = leaf(fresh.files), leaf(due.files)

    renewed = pki.renew()

    assert [issued.id.name for issued in renewed] == ["history"]
    assert leaf(fresh.files) == before[0]
    again = leaf(due.files)
    assert again.public_key() != before[1].public_key()
    assert again.extensions.get_extension_for_class(x509.SubjectAlternativeName) == before[
        1
    ].extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_a_root_is_replaced_in_three_steps(pki: Authority) -> None:
    files = pki.issue("match", "s1", DAY).files
    old = roots(files)

    pki.roll()
    assert len(roots(files)) == 2
    assert leaf(files).issuer == old[0].subject
    with pytest.raises(PkiError, match="renew first"):
        pki.retire()

    pki.renew()
    assert leaf(files).issuer != old[0].subject
    pki.retire()
    assert len(roots(files)) == 1
    assert roots(files) != old


def test_files_that_do_not_belong_together_are_waited_out(pki: Authority) -> None:
    """Between the writing of a key and that of its certificate, whoever looks keeps what it has."""
    files = pki.issue("match", "s1", DAY).files
    identity = Identity(files)
    first, old_certificate = identity.current, files.certificate.read_bytes()

    pki.renew(everything=True)
    new_certificate = files.certificate.read_bytes()
    files.certificate.write_bytes(old_certificate)
    assert identity.refresh() is None
    assert identity.current is first

    files.certificate.write_bytes(new_certificate)
    assert identity.refresh() is not None
    assert identity.current.certificate == new_certificate
    assert identity.refresh() is None


def test_files_that_make_no_identity(pki: Authority, tmp_path: Path) -> None:
    one, two = pki.issue("match", "s1", DAY).files, pki.issue("history", "s1", DAY).files
    root = tmp_path / "pki" / "ca" / "root.crt"
    for files, why in (
        (TlsFiles(one.certificate, two.key, one.ca), "is not the key of"),
        (TlsFiles(tmp_path / "missing", one.key, one.ca), "No such file"),
        (TlsFiles(one.certificate, one.key, one.key), "tls.key"),
        (TlsFiles(root, one.key, one.ca), "not spiffe://"),
    ):
        with pytest.raises(TlsError, match=why):
            Identity(files)


def test_the_commands(tmp_path: Path) -> None:
    def run(*words: str, app: typer.Typer = pki_command.app, where: str = "--dir") -> tuple[int, str]:
        done = CliRunner().invoke(app, [*words, where, str(tmp_path / where)])
        return done.exit_code, done.output

    assert run("issue", "match") == (1, f"pki: {tmp_path / '--dir' / 'ca'} has no root: init first\n")
    assert run("init")[0] == 0
    status, text = run("issue", "match", "cli", "--scope", "store-1", "--for", "2h")
    assert status == 0
    assert text.splitlines()[0].startswith("spiffe://poi-mesh/store-1/match  until ")
    assert (tmp_path / "--dir" / "cli" / "tls.key").exists()
    assert run("renew", "--all")[1].count("spiffe://") == 2
    assert run("issue", "match", "--for", "ever")[0] == 2

    words = ("issue", "--role", "operator", "--store", "s1", "--for", "8h", "--subject", "alex")
    status, token = run(*words, app=token_command.app, where="--keys")
    assert status == 0
    assert token.count(".") == 2
    assert run("issue", "--role", "king", "--store", "s1", app=token_command.app, where="--keys")[0] == 2
