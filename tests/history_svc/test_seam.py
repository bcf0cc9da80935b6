"""Everything that is stored of people passes one seam: another one changes every byte of it."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from history_svc.seam import Mapped, Seam, Table
from tests.history_svc.client import STORE, detection
from tests.history_svc.test_frames import jpeg, upload
from tests.history_svc.test_sealing import PEOPLE, _detections, _settings, append, running, sealed, state
from tests.support import unit

KEY = 0x5A


def flipped(content: bytes | memoryview) -> bytes:
    return (np.frombuffer(content, np.uint8) ^ KEY).tobytes()


class Flipped:
    """Opens the rows that are asked for, and no others."""

    def __init__(self, rows: NDArray[Any]) -> None:
        self._rows = rows
        self.opened = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: NDArray[np.intp] | slice) -> NDArray[Any]:
        rows = self._rows[at]
        self.opened += len(rows)
        return np.frombuffer(flipped(rows.tobytes()), rows.dtype).reshape(rows.shape)


class FlippedMap(Mapped):
    def view(self) -> memoryview:
        return memoryview(flipped(super().view()))

    def table(self, dtype: str, width: int) -> Table:
        return Flipped(np.frombuffer(super().view(), dtype).reshape(-1, width))


class Flipping(Seam):
    """Not a cipher, but nothing that was stored in the clear survives it."""

    def seal(self, content: bytes) -> bytes:
        return b"sealed:" + flipped(content)

    def open(self, content: bytes) -> bytes:
        if not content.startswith(b"sealed:"):
            raise ValueError("not sealed by this seam")
        return flipped(content[7:])

    def seal_pages(self, content: bytes | memoryview) -> bytes:
        return flipped(content)

    def map(self, path: Path) -> Mapped:
        return FlippedMap(path)


def _stored(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


async def test_another_seam_hides_all_that_is_stored_and_changes_no_answer(tmp_path: Path) -> None:
    object_id = "object id that nobody else has"
    known = detection(unit(5), at=30.0, camera="Camera_1", object_id=object_id)
    settings = _settings(tmp_path, index_every_seconds=0)
    async with running(settings, seam=Flipping()) as history:
        for begin in range(0, 300, 60):
            await append(history, _detections(begin, 60))
        (appearance,) = await append(history, [known])
        frame = upload(jpeg(1))
        frame.appearances.append(f"{STORE}/appearances/{appearance.hex()}")
        await append(history, _detections(300, 60), frames=[frame])
        await sealed(history, 2)
        await append(history, _detections(360, 20))
        before = await state(history)
        assert any(one[2] == object_id for one in before["appearances"])
        assert all(before["found"][person, "None"] for person in range(PEOPLE))
    async with running(settings, seam=Flipping()) as history:
        assert await state(history) == before
        assert all(isinstance(one.vectors, Flipped) for one in history.sealed.segments)

    stored = _stored(tmp_path / "data")
    assert any(name.endswith(".log") for name in stored)
    assert any(name.startswith("segments/") and name.endswith("vectors.f16") for name in stored)
    vector = unit(5).astype("<f4")
    secrets = {
        "vector": vector.tobytes()[:16],
        "half vector": vector.astype("<f2").tobytes()[:16],
        "object id": object_id.encode(),
        "detection": bytes.fromhex(known.detection_id),
        "frame": jpeg(1)[:16],
    }
    found = [(name, what) for name, content in stored.items() for what, secret in secrets.items() if secret in content]
    assert found == []
    # The same, in the clear: those bytes are what would be there.
    plain = tmp_path / "plain"
    async with running(_settings(plain, index_every_seconds=0)) as history:
        await append(history, [*_detections(0, 180), known])
        await sealed(history, 1)
        frame.appearances[:] = []
        await append(history, [detection(unit(5), at=31.0, camera="Camera_1", object_id=object_id)], frames=[frame])
    everything = b"".join(_stored(plain / "data").values())
    assert [what for what, secret in secrets.items() if secret not in everything] == []


async def test_what_another_seam_sealed_is_not_read_as_if_it_were_plain(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    async with running(settings, seam=Flipping(), sealing=False) as history:
        await append(history, _detections(0, 60))
    async with running(settings) as history:
        assert history.detection_count == 0
    # Nothing was removed for it.
    async with running(settings, seam=Flipping(), sealing=False) as history:
        assert history.detection_count == 60


def test_a_table_is_opened_row_by_row(tmp_path: Path) -> None:
    rows = np.arange(4000, dtype="<f2").reshape(1000, 4)
    (tmp_path / "file").write_bytes(Flipping().seal_pages(rows.tobytes()))

    table = Flipping().map(tmp_path / "file").table("<f2", 4)

    assert isinstance(table, Flipped)
    assert np.array_equal(table[np.array([3, 500])], rows[[3, 500]])
    assert table.opened == 2
