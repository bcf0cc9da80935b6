"""Content comes back as it was, for its own store and place, with its own keys, and not otherwise."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.vault import PLAIN, Unopenable, Vault, VaultUnusable, keyring, masters, pages
from mesh.vault.vault import OVERHEAD
from tests.vault.conftest import STORE, Keys

_ROOT = Path(__file__).resolve().parents[2]


def test_what_was_sealed_opens_and_shows_nothing(keys: Keys) -> None:
    vault = keys.vault()
    sealed = vault.seal(STORE, b"a face" * 100, b"here")

    assert b"a face" not in sealed
    assert len(sealed) == 600 + OVERHEAD
    assert vault.open(STORE, sealed, b"here") == b"a face" * 100
    assert vault.seal(STORE, b"a face" * 100, b"here") != sealed, "never the same twice"


@pytest.fixture(scope="module")
def one_vault(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    return Keys(tmp_path_factory.mktemp("keys")).vault()


@given(content=st.binary(max_size=300), position=st.integers(min_value=0), bit=st.integers(0, 7))
def test_any_bit_that_was_changed_is_noticed(one_vault: Vault, content: bytes, position: int, bit: int) -> None:
    sealed = bytearray(one_vault.seal(STORE, content, b"here"))
    sealed[position % len(sealed)] ^= 1 << bit

    with pytest.raises(Unopenable):
        one_vault.open(STORE, bytes(sealed), b"here")


def test_a_value_put_in_anothers_place_does_not_open(keys: Keys) -> None:
    keys.run("init", "--store", "s2")
    vault = keys.vault()
    sealed = vault.seal(STORE, b"a face", b"poi/p1")

    for store, context in ((STORE, b"poi/p2"), ("s2", b"poi/p1")):
        with pytest.raises(Unopenable):
            vault.open(store, sealed, context)


def test_what_was_stored_before_there_was_a_vault_is_read_if_that_is_wanted(keys: Keys) -> None:
    assert keys.vault(accept_plain=True).open(STORE, b"\x0a\x02p1", b"") == b"\x0a\x02p1"
    with pytest.raises(Unopenable, match="is not sealed"):
        keys.vault(accept_plain=False).open(STORE, b"\x0a\x02p1", b"")


def test_without_a_vault_all_stays_as_it_is_but_what_is_sealed_is_not_taken_for_content(keys: Keys) -> None:
    assert PLAIN.open(STORE, PLAIN.seal(STORE, b"content", b""), b"") == b"content"
    with pytest.raises(Unopenable, match="no vault"):
        PLAIN.open(STORE, keys.vault().seal(STORE, b"content", b""), b"")


def test_another_master_key_is_one_clear_line(
    keys: Keys, make_keys: Callable[[str], Keys], capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_keys("other")
    with pytest.raises(VaultUnusable, match=r"key 1 of store s1 is wrapped by master key local-\w+, not local-\w+"):
        Vault(keys.keyring, masters.load(other.master)).check(STORE)

    keys.run("status", master=other.master, status=2)
    error = capsys.readouterr().err
    assert error.startswith("mesh.vault: key 1 of store s1 is wrapped by master key")
    assert error.count("\n") == 1


def test_a_service_with_another_master_key_ends_with_one_line(keys: Keys, make_keys: Callable[[str], Keys]) -> None:
    environment = {
        **os.environ,
        **keys.environment,
        "POI_VAULT_MASTER": make_keys("other").master,
        "POI_STORE": STORE,
        "POI_METRICS_LISTEN": "127.0.0.1:0",
        "POI_HISTORY_LISTEN": "127.0.0.1:0",
        "POI_HISTORY_DATA_DIR": str(keys.keyring.parent / "data"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "history_svc"], env=environment, cwd=_ROOT, capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 2
    *_, line = done.stderr.splitlines()
    assert line.startswith("history_svc: POI_VAULT_KEYRING=")
    assert "is wrapped by master key" in line
    assert "Traceback" not in done.stderr


def test_after_a_rotation_the_old_is_read_and_the_new_key_seals(keys: Keys) -> None:
    vault = keys.vault()
    old = vault.seal(STORE, b"old", b"")
    keys.run("rotate")
    new = vault.seal(STORE, b"new", b"")

    assert (old[4:8], new[4:8]) == (b"\0\0\0\1", b"\0\0\0\2")
    for one in (vault, keys.vault()):
        assert (one.open(STORE, old, b""), one.open(STORE, new, b"")) == (b"old", b"new")


def test_after_another_master_key_wraps_them_the_keys_are_the_same(keys: Keys) -> None:
    sealed = keys.vault().seal(STORE, b"content", b"")
    before = keys.master
    keys.run("rotate", "--new-master", f"file:{keys.master_file}.new")
    keys.master = f"file:{keys.master_file}.new"

    assert keys.vault().open(STORE, sealed, b"") == b"content"
    with pytest.raises(VaultUnusable):
        Vault(keys.keyring, masters.load(before)).check(STORE)


def test_once_its_keys_are_destroyed_nothing_of_a_store_opens(keys: Keys, capsys: pytest.CaptureFixture[str]) -> None:
    keys.run("init", "--store", "s2")
    running = keys.vault()
    sealed, others = running.seal(STORE, b"content", b""), running.seal("s2", b"content", b"")
    wrapped = keyring.load(keys.keyring).stores[STORE].keys[1].wrapped

    keys.run("erase-store", STORE, status=2)
    assert running.open(STORE, sealed, b"") == b"content"
    keys.run("erase-store", STORE, "--confirm", STORE)

    for vault in (running, keys.vault()):
        with pytest.raises(Unopenable, match="were destroyed at"):
            vault.open(STORE, sealed, b"")
        with pytest.raises(VaultUnusable, match="were destroyed at"):
            vault.seal(STORE, b"more", b"")
        assert vault.open("s2", others, b"") == b"content"
    assert wrapped not in keys.keyring.read_text()
    keys.run("init", "--store", STORE, status=2)
    keys.run("status")
    assert f"{STORE}: keys destroyed at " in capsys.readouterr().out


def test_a_master_key_may_be_in_the_environment(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = keys.vault().seal(STORE, b"content", b"")
    monkeypatch.setenv("THE_KEY", keys.master_file.read_text().strip())

    assert Vault(keys.keyring, masters.load("env:THE_KEY")).open(STORE, sealed, b"") == b"content"
    for where, why in (("env:NONE", "no environment variable NONE"), ("file:/none", "No such file"), ("x", "is not")):
        with pytest.raises(VaultUnusable, match=why):
            masters.load(where)


class Kms:
    """A KMS in small: the master key never leaves it, and it may be away."""

    id = "kms-1"

    def __init__(self) -> None:
        self._inside = masters.LocalMaster(bytes(range(32)))
        self.calls, self.away = 0, False

    def wrap(self, key: bytes, context: bytes) -> bytes:
        self._ask()
        return self._inside.wrap(key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        self._ask()
        return self._inside.unwrap(wrapped, context)

    def _ask(self) -> None:
        self.calls += 1
        if self.away:
            raise VaultUnusable("the KMS does not answer")


KMS = Kms()


def a_kms() -> Kms:
    return KMS


def test_a_kms_is_asked_once_a_key_and_may_be_away_after_that(tmp_path: Path) -> None:
    path, where = tmp_path / "keyring", "python:tests.vault.test_vault:a_kms"
    assert masters.load(where).id == "kms-1"
    with keyring.editing(path, create=True) as ring:
        ring.add(STORE, KMS)
    vault = Vault(path, KMS)
    before = KMS.calls
    sealed = [vault.seal(STORE, b"content", b"") for _ in range(10)]
    KMS.away = True

    assert {vault.open(STORE, one, b"") for one in sealed} == {b"content"}
    assert KMS.calls == before + 1
    with pytest.raises(VaultUnusable, match="does not answer"):
        Vault(path, KMS).check(STORE)
    KMS.away = False


def test_a_master_key_that_everybody_may_read_is_refused(keys: Keys) -> None:
    assert keys.master_file.stat().st_mode & 0o777 == 0o600
    keys.master_file.chmod(0o644)
    with pytest.raises(VaultUnusable, match="everybody may read"):
        keys.vault()


def test_a_keyring_that_was_changed_is_noticed(keys: Keys) -> None:
    content = json.loads(keys.keyring.read_text())
    one = content["stores"][STORE]["keys"]["1"]
    raw = bytearray(base64.b64decode(one["wrapped"]))
    raw[20] ^= 1
    one["wrapped"] = base64.b64encode(raw).decode()
    keys.keyring.write_text(json.dumps(content))

    with pytest.raises(VaultUnusable, match="or was changed"):
        keys.vault().check(STORE)


def test_two_who_rotate_at_once_lose_no_key(keys: Keys) -> None:
    threads = [threading.Thread(target=keys.run, args=("rotate",)) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    assert sorted(keyring.load(keys.keyring).stores[STORE].keys) == list(range(1, 10))


def test_a_rotation_that_is_killed_leaves_a_whole_keyring(keys: Keys) -> None:
    sealed = keys.vault().seal(STORE, b"content", b"")
    script = (
        "import sys\nfrom mesh.vault.__main__ import main\n"
        f"while main(['--keyring', {str(keys.keyring)!r}, '--master', {keys.master!r}, 'rotate']) == 0: "
        "sys.stdout.flush()"
    )
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", script], cwd=_ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(5):
                process.stdout.readline()
            process.kill()
        vault = keys.vault()
        assert vault.open(STORE, sealed, b"") == b"content"
        assert vault.open(STORE, vault.seal(STORE, b"more", b""), b"") == b"more"
    assert len(keyring.load(keys.keyring).stores[STORE].keys) >= 16


def test_pages_open_row_by_row_and_as_a_whole(keys: Keys) -> None:
    vault = keys.vault()
    rows = np.random.default_rng(1).standard_normal((500, 256)).astype("<f2")
    content = rows.tobytes()
    stored = pages.seal(vault, STORE, content)
    opened = pages.pages_of(vault, STORE, stored)

    assert opened is not None
    assert len(stored) == len(content) + pages.TRAILER_BYTES
    assert stored[:64] != content[:64]
    assert opened.whole(stored[: -pages.TRAILER_BYTES]) == content
    table = np.frombuffer(stored[: -pages.TRAILER_BYTES], "<f2").reshape(-1, 256)
    at = np.array([499, 0, 77, 78])
    assert np.array_equal(opened.rows(table, at), rows[at])
    assert np.array_equal(opened.rows(table, np.array([], np.intp)), rows[:0])
    assert pages.pages_of(vault, STORE, content) is None, "it was never sealed"
    assert pages.seal(vault, STORE, content) != stored


def test_pages_of_another_store_or_key_do_not_open(keys: Keys) -> None:
    stored = pages.seal(keys.vault(), STORE, b"x" * 100)
    keys.run("erase-store", STORE, "--confirm", STORE)

    with pytest.raises(Unopenable, match="were destroyed"):
        pages.pages_of(keys.vault(), STORE, stored)


def test_pages_of_another_key_with_the_same_number_are_told(keys: Keys, make_keys: Callable[[str], Keys]) -> None:
    stored = pages.seal(keys.vault(), STORE, b"x" * 100)

    with pytest.raises(Unopenable, match="another key 1 of store s1"):
        pages.pages_of(make_keys("other").vault(), STORE, stored)


def test_a_server_goes_on_with_what_it_knows_while_another_master_key_takes_over(keys: Keys) -> None:
    old = keys.vault().seal(STORE, b"old", b"")
    keys.run("rotate")
    running = keys.vault()
    running.check(STORE)
    keys.run("rotate", "--new-master", f"file:{keys.master_file}.new")

    assert running.open(STORE, running.seal(STORE, b"new", b""), b"") == b"new"
    assert running.open(STORE, old, b"") == b"old", "although nobody had asked for it yet"
    keys.master = f"file:{keys.master_file}.new"
    assert keys.vault().open(STORE, running.seal(STORE, b"new", b""), b"") == b"new"


def test_a_keyring_that_cannot_be_read_takes_nothing_from_who_has_read_it(keys: Keys) -> None:
    running = keys.vault()
    sealed, content = running.seal(STORE, b"content", b""), keys.keyring.read_bytes()
    keys.keyring.write_bytes(b"{")

    assert running.open(STORE, sealed, b"") == b"content"
    assert running.open(STORE, running.seal(STORE, b"more", b""), b"") == b"more"
    keys.keyring.write_bytes(content)
    keys.run("erase-store", STORE, "--confirm", STORE)
    with pytest.raises(Unopenable, match="were destroyed at"):
        running.open(STORE, sealed, b"")
