"""Receipts: whoever has the public key can tell a genuine one from any other, without a server."""

from __future__ import annotations

import stat
from pathlib import Path

import orjson
import pytest
from poi.v1 import audit_pb2, erasure_pb2

from mesh.erasure import receipts
from mesh.erasure.__main__ import main


@pytest.fixture
def signer(tmp_path: Path) -> receipts.Signer:
    """A new key."""
    return receipts.Signer.create(tmp_path / "key.pem")


def _receipt(signer: receipts.Signer) -> bytes:
    record = erasure_pb2.PersonErasure(
        name="stores/s1/personErasures/e1",
        poi="stores/s1/pois/p1",
        requester=audit_pb2.AuditActor(kind=audit_pb2.ACTOR_KIND_PERSON, name="Zoë", roles=["admin"]),
        traces=[
            erasure_pb2.TraceCount(keeper="history", kind="frames", count=3),
            erasure_pb2.TraceCount(keeper="history", kind="frames", count=4),
        ],
        remainders=[erasure_pb2.Remainder(keeper="audit", kind="audit records", reason="the law")],
    )
    return receipts.as_file(signer.sign(receipts.content_of(record, signer.key_id)))


def test_a_receipt_verifies_also_when_it_was_formatted_otherwise(signer: receipts.Signer) -> None:
    file = _receipt(signer)
    for one in (file, orjson.dumps(orjson.loads(file)), orjson.dumps(orjson.loads(file), option=orjson.OPT_SORT_KEYS)):
        content = receipts.verify(one, signer.public_pem.encode())
        assert content["removed"] == [{"keeper": "history", "kind": "frames", "count": 7}]
        assert content["requested_by"]["name"] == "Zoë"


def test_whatever_is_changed_in_a_receipt_is_noticed(signer: receipts.Signer) -> None:
    whole = orjson.loads(_receipt(signer))
    changes = {
        "name": "stores/s1/personErasures/e2",
        "person": {"poi": "stores/s1/pois/p2"},
        "removed": [],
        "stays": [],
        "purpose": "another",
        "completed": "2020-01-01T00:00:00Z",
        "approved_by": {"name": "somebody"},
        "more": 1,
    }
    for field, value in changes.items():
        forged = {**whole, "receipt": {**whole["receipt"], field: value}}
        with pytest.raises(receipts.NotGenuine):
            receipts.verify(orjson.dumps(forged), signer.public_pem.encode())


@pytest.mark.parametrize("file", [b"", b"{}", b"[]", b"null", b'{"receipt": 1}', b"\xff\xd8"])
def test_what_is_no_receipt_is_said_to_be_none(signer: receipts.Signer, file: bytes) -> None:
    with pytest.raises(receipts.NotGenuine):
        receipts.verify(file, signer.public_pem.encode())


def test_another_key_verifies_nothing(signer: receipts.Signer, tmp_path: Path) -> None:
    other = receipts.Signer.create(tmp_path / "other.pem")
    with pytest.raises(receipts.NotGenuine, match="another key"):
        receipts.verify(_receipt(signer), other.public_pem.encode())
    whole = orjson.loads(_receipt(signer))
    whole["key"] = whole["receipt"]["key"] = other.key_id
    with pytest.raises(receipts.NotGenuine):
        receipts.verify(orjson.dumps(whole), other.public_pem.encode())


def test_the_command_makes_a_key_once_for_its_owner_alone_and_verifies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, file = tmp_path / "made.pem", tmp_path / "receipt.json"
    assert main(["init", "--key", str(key)]) == 0
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert main(["init", "--key", str(key)]) == 2, "a key is not replaced"
    file.write_bytes(_receipt(receipts.Signer.load(key)))

    assert main(["verify", str(file), "--key", f"{key}.pub"]) == 0
    file.write_bytes(file.read_bytes().replace(b"p1", b"p2"))
    assert main(["verify", str(file), "--key", f"{key}.pub"]) == 1
    assert "not what was signed" in capsys.readouterr().err
