"""History over a vault: every byte of a person is sealed, and no answer is another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from history_svc.seam import PLAIN
from history_svc.settings import Settings
from history_svc.vaulted import VaultSeam
from mesh.vault import Unopenable
from tests.history_svc.client import STORE as PARENT
from tests.history_svc.client import detection
from tests.history_svc.test_frames import jpeg, upload
from tests.history_svc.test_sealing import PEOPLE, _detections, _settings, append, running, sealed, state
from tests.support import unit
from tests.vault.conftest import Keys

STORE = PARENT.rpartition("/")[2]


def seam(keys: Keys, *, accept_plain: bool = False) -> VaultSeam:
    return VaultSeam(keys.vault(accept_plain=accept_plain), STORE, accept_plain=accept_plain)


@pytest.fixture
def settings(tmp_path: Path, keys: Keys) -> Settings:
    keys.run("init", "--store", STORE)
    return _settings(tmp_path, index_every_seconds=0)


def stored(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


async def test_nothing_of_a_person_is_stored_in_the_clear_and_no_answer_is_another(
    settings: Settings, keys: Keys, tmp_path: Path
) -> None:
    object_id = "object id that nobody else has"
    known = detection(unit(5), at=30.0, camera="Camera_1", object_id=object_id)
    async with running(settings, seam=seam(keys)) as history:
        for begin in range(0, 300, 60):
            await append(history, _detections(begin, 60))
        (appearance,) = await append(history, [known])
        frame = upload(jpeg(1))
        frame.appearances.append(f"{PARENT}/appearances/{appearance.hex()}")
        await append(history, _detections(300, 60), frames=[frame])
        await sealed(history, 2)
        await append(history, _detections(360, 20))
        before = await state(history)
        assert all(before["found"][person, "None"] for person in range(PEOPLE))
    async with running(settings, seam=seam(keys)) as history:
        assert await state(history) == before

    everything = stored(tmp_path / "data")
    vector = unit(5).astype("<f4")
    for what in (
        vector.tobytes()[:16],
        vector.astype("<f2").tobytes()[:16],
        object_id.encode(),
        bytes.fromhex(known.detection_id),
        jpeg(1)[:16],
    ):
        assert what not in everything


async def test_what_was_stored_in_the_clear_is_read_and_sealed_as_it_is_made_anew(
    settings: Settings, keys: Keys, tmp_path: Path
) -> None:
    async with running(settings) as history:
        for begin in range(0, 300, 60):
            await append(history, _detections(begin, 60))
        await sealed(history, 1)
        await append(history, _detections(300, 20))
        before = await state(history)

    async with running(settings, seam=seam(keys, accept_plain=True)) as history:
        assert await state(history) == before
        await append(history, _detections(320, 60))
        after = await state(history)
    async with running(settings, seam=seam(keys, accept_plain=True)) as history:
        assert await state(history) == after
    keys.run("rotate")
    async with running(settings, seam=seam(keys, accept_plain=True)) as history:
        assert await state(history) == after
        await append(history, _detections(380, 20))


async def test_without_its_keys_the_history_is_not_opened_and_nothing_is_put_aside(
    settings: Settings, keys: Keys, make_keys: Callable[[str], Keys], tmp_path: Path
) -> None:
    async with running(settings, seam=seam(keys)) as history:
        for begin in range(0, 300, 60):
            await append(history, _detections(begin, 60))
        await sealed(history, 1)
        await append(history, _detections(300, 20))
        before = await state(history)
    other = make_keys("other")
    other.run("init", "--store", STORE)
    files = stored(tmp_path / "data")

    for wrong in (PLAIN, seam(other)):
        with pytest.raises(Unopenable):
            async with running(settings, seam=wrong):
                pass
    assert stored(tmp_path / "data") == files

    async with running(settings, seam=seam(keys)) as history:
        assert await state(history) == before
    keys.run("erase-store", STORE, "--confirm", STORE)
    with pytest.raises(Unopenable, match="were destroyed"):
        async with running(settings, seam=seam(keys)):
            pass
