"""Damage of every kind of file: found at the start or while it is served, put aside, reported; the rest is served."""

import asyncio
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from history_svc import metrics, segments
from history_svc.index import Probes, Scope
from history_svc.quarantine import Quarantine
from history_svc.records import appearance_number
from history_svc.sealed import build, manifest
from history_svc.store import History
from tests.history_svc.client import STORE, moment
from tests.history_svc.test_crash import _log_files
from tests.history_svc.test_frames import jpeg, upload
from tests.history_svc.test_sealing import PEOPLE, _detections, _settings, append, running, sealed, state
from tests.support import unit

PAGES = [build.VECTORS, build.ROWS, build.KEYS, build.APPEARANCES, build.SUMS, build.FRAMES]
PER_KIND = 5


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with three segments, frames, and two log files."""
    path = tmp_path_factory.mktemp("template")

    async def fill() -> None:
        async with running(_settings(path)) as history:
            for begin in range(0, 600, 60):
                frame = upload(jpeg(begin))
                (first, *_) = await append(history, _detections(begin, 60))
                frame.appearances.append(f"{STORE}/appearances/{first.hex()}")
                await append(history, _detections(begin, 1), frames=[frame])
            await sealed(history, 3)
        async with running(_settings(path), sealing=False) as history:
            await append(history, _detections(600, 30))

    asyncio.run(fill())
    return path / "data"


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    """A copy of it; the settings' path."""
    shutil.copytree(template, tmp_path / "data")
    return tmp_path


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    with path.open("r+b") as file:  # in place: a mapping sees it
        file.write(content)


def _cut(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def _empty(path: Path, chance: random.Random) -> None:
    os.truncate(path, 0)


def _directory_instead(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _noise(path: Path, chance: random.Random) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(chance.randbytes(size))


async def _everything(history: History) -> None:
    """Asks all that can be asked of it, and does not mind what is lost."""
    await append(history, _detections(700, 12))
    await append(history, _detections(0, 60))  # repeats of what is sealed, or lost
    for person in range(PEOPLE):
        probe = unit(person)[None]
        hits = await asyncio.to_thread(history.index.search, Probes(probe, probe), 0.5, Scope(cameras=["Camera_1"]))
        found = await history.reads.numbered(hits.appearances.tolist())
        for number in found:
            await asyncio.to_thread(history.index.faces_of, number, Scope())
    for one in await history.reads.newest_first(None, None, None, 1000):
        for frame in one.frames:
            await history.reads.frame(frame.id)


@pytest.mark.parametrize("name", ["manifest.json", build.INDEX, *PAGES])
@pytest.mark.parametrize("damage", [_flip, _cut, _empty, _directory_instead, _noise])
async def test_a_start_with_a_damaged_file_of_a_segment_serves_the_rest(
    home: Path, name: str, damage: Callable[[Path, random.Random], None]
) -> None:
    chance = random.Random(f"{name} {damage.__name__}")
    directory = sorted((home / "data" / "segments").iterdir())[1]
    damage(directory / name, chance)

    async with running(_settings(home)) as history:
        async with asyncio.timeout(60):
            while directory.exists():  # noqa: ASYNC110 - some is found in the background only
                await asyncio.sleep(0.01)
        await _everything(history)
        left = [one.manifest.directory for one in history.sealed.segments]
        assert directory.name not in left
        assert len(left) >= 2

    assert (home / "data" / "quarantine" / directory.name / "manifest.json").exists()
    assert metrics.QUARANTINED_SEGMENTS._value.get() == 1


@pytest.mark.parametrize("name", PAGES)
async def test_a_file_damaged_while_it_is_served_crashes_nothing(home: Path, name: str) -> None:
    """Answers may be wrong for the moment, where a flipped bit still makes sense; no call fails."""
    chance = random.Random(name)
    async with running(_settings(home), sealing=False) as history:
        directories = sorted((home / "data" / "segments").iterdir())
        segment = history.sealed.segments[1]
        kept = (directories[1] / name).read_bytes()
        for _ in range(PER_KIND):
            _flip(directories[1] / name, chance)
            await _everything(history)
            if segment not in history.sealed.segments:
                break
            with (directories[1] / name).open("r+b") as file:
                file.write(kept)
        if segment in history.sealed.segments:
            _noise(directories[1] / name, chance)
            await _everything(history)
            assert segment not in history.sealed.segments or not await asyncio.to_thread(history.sealed.verify, segment)
        assert (home / "data" / "quarantine" / directories[1].name).is_dir()


@pytest.mark.parametrize("name", PAGES)
async def test_a_file_cut_short_while_it_is_served_is_left_out_at_once(home: Path, name: str) -> None:
    async with running(_settings(home), sealing=False) as history:
        before = await state(history)
        segment = history.sealed.segments[0]
        only = {one.id for one in segment.appearances.read()} - {
            one.id for other in history.sealed.segments[1:] for one in other.appearances.read()
        }
        _cut(home / "data" / "segments" / segment.manifest.directory / name, random.Random(name))

        await _everything(history)
        listed = {one.id for one in await history.reads.newest_first(None, None, None, 1000)}

        assert segment not in history.sealed.segments
        assert not only & (listed - {one.id for one in history.book.newest_first(None, None, None)})
        assert before["detections"] > history.detection_count
    assert (home / "data" / "quarantine" / segment.manifest.directory).is_dir()


async def test_lists_and_searches_forget_a_segment_that_is_put_aside(tmp_path: Path) -> None:
    settings = _settings(tmp_path, gap_seconds=0.2)
    async with running(settings, sealing=True) as history:
        for begin in range(0, 600, 60):
            await append(history, _detections(begin, 60))
        await sealed(history, 3)
        segment = history.sealed.segments[0]
        gone = {one.id for one in segment.appearances.read()}
        in_memory = {one.id for one in history.book.newest_first(None, None, None)}
        others = {one.id for other in history.sealed.segments[1:] for one in other.appearances.read()}
        only = gone - others - in_memory
        assert only
        _flip(tmp_path / "data" / "segments" / segment.manifest.directory / build.VECTORS, random.Random(1))
        assert only <= {one.id for one in await history.reads.newest_first(None, None, None, 1000)}

        verified = asyncio.create_task(history.verify())
        async with asyncio.timeout(60):
            while segment in history.sealed.segments:  # noqa: ASYNC110 - verifying tells nobody
                await asyncio.sleep(0.01)
        verified.cancel()
        await asyncio.wait([verified])

        assert not only & {one.id for one in await history.reads.newest_first(None, None, None, 1000)}
        assert await history.reads.appearances(only) == {}
        assert await history.reads.numbered([appearance_number(one) for one in only]) == {}
        for person in range(PEOPLE):
            probe = unit(person)[None]
            hits = history.index.search(Probes(probe, probe), 0.5, Scope())
            assert not only & {one["appearance"].tobytes() for one in hits.rows}


async def test_an_error_of_a_sound_segment_is_raised(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(_settings(home), sealing=False) as history:
        segment = history.sealed.segments[0]

        def wrong(*_: object) -> None:
            raise IndexError("a mistake of ours")

        monkeypatch.setattr(segment, "hits", wrong)
        monkeypatch.setattr(segment.appearances, "overlapping", wrong)
        probe = unit(1)[None]
        with pytest.raises(IndexError, match="a mistake of ours"):
            history.index.search(Probes(probe, probe), 0.5, Scope())
        with pytest.raises(IndexError, match="a mistake of ours"):
            await history.reads.newest_first(None, None, None, 10)
        assert segment in history.sealed.segments


async def test_a_damaged_segment_never_becomes_part_of_a_sound_one(tmp_path: Path) -> None:
    async with running(_settings(tmp_path, seal_seconds=1e-6)) as history:
        for begin in range(0, 400, 10):
            await append(history, _detections(begin, 10))
            await asyncio.sleep(0)
        await sealed(history, 2)
    directory = sorted((tmp_path / "data" / "segments").iterdir())[0]
    _flip(directory / build.VECTORS, random.Random(3))
    async with running(_settings(tmp_path), sealing=False) as history:
        segments_before = history.sealed.segments
        with pytest.raises(Exception, match="is damaged"):
            await history._sealing.rewrite(segments_before)
        assert history.sealed.segments == segments_before[1:]
        assert directory.name in [path.name for path in (tmp_path / "data" / "quarantine").iterdir()]


def _instead(path: Path, content: str | None) -> None:
    """A file with this content where something else was, or a directory."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)


def _last_log(data: Path) -> Path:
    return _log_files(data)[-1]


def _segment(data: Path) -> Path:
    return sorted((data / "segments").iterdir())[0]


UNKNOWN = "segments/000000000090-000000000090.0"
KINDS: dict[str, Callable[[Path], object]] = {
    "a file in place of segments": lambda data: _instead(data / "segments", "?"),
    "a file in place of quarantine": lambda data: _instead(data / "quarantine", "?"),
    "a file in place of erasures": lambda data: _instead(data / "erasures", "?"),
    "a file in place of frames": lambda data: _instead(data / "frames", "?"),
    "a directory in place of a log file": lambda data: _instead(_last_log(data), None),
    "a directory in place of a sealed log file": lambda data: _instead(data / "detections-000000000001.log", None),
    "a directory in place of the lock": lambda data: _instead(data / "lock", None),
    "a lock with something in it": lambda data: _instead(data / "lock", "1234"),
    "an empty log file": lambda data: os.truncate(_last_log(data), 0),
    "noise in place of a log file": lambda data: _last_log(data).write_bytes(random.Random(5).randbytes(5000)),
    "a log file of another name": lambda data: shutil.copy(_last_log(data), data / "detections-old.log"),
    "a repaired log that was not renamed": lambda data: shutil.copy(
        _last_log(data), _last_log(data).with_suffix(segments.REPAIRED)
    ),
    "a file among the segments": lambda data: _instead(data / UNKNOWN, "?"),
    "a draft that is a file": lambda data: _instead(data / f"{UNKNOWN}.draft", "?"),
    "an empty segment": lambda data: _instead(data / UNKNOWN, None),
    "a copy of a segment": lambda data: shutil.copytree(_segment(data), data / "segments" / "copy"),
    "a stray file in a segment": lambda data: _instead(_segment(data) / "core", "?"),
    "an earlier quarantine": lambda data: shutil.copytree(_segment(data), data / "quarantine" / _segment(data).name),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_in_the_data_directory_refuses_a_start(home: Path, kind: str) -> None:
    data = home / "data"
    KINDS[kind](data)

    async with running(_settings(home)) as history:
        await append(history, _detections(700, 180))
        await sealed(history, 1)
        if kind != "a file in place of segments":
            found = await state(history)
            assert len(history.sealed.segments) >= 3
            assert len(found["appearances"]) >= PEOPLE
            faces = [one for segment in history.sealed.segments for one in segment.faces().numbers.tolist()]
            assert len(faces) == len(set(faces)), "nothing twice"
    async with running(_settings(home), sealing=False) as history:
        assert history.detection_count >= 180
    assert not list(data.glob("*.repaired"))


@pytest.mark.parametrize("damage", [_flip, _cut, _noise])
async def test_a_start_with_a_damaged_log_serves_the_rest(
    home: Path, damage: Callable[[Path, random.Random], None]
) -> None:
    log = sorted((home / "data").glob("detections-*.log"))[-1]
    sound = [one for one in segments.read(log) if isinstance(one, bytes)]
    for number in range(PER_KIND):
        shutil.rmtree(home / "data" / "quarantine", ignore_errors=True)
        damaged = sorted((home / "data").glob("detections-*.log"))[-1]
        damage(damaged, random.Random(number))
        async with running(_settings(home), sealing=False) as history:
            await _everything(history)
            assert len(history.sealed.segments) == 3
    assert sound


async def test_a_segment_that_was_put_aside_can_be_restored(home: Path) -> None:
    data = home / "data"
    async with running(_settings(home), sealing=False) as history:
        before = sum(one.manifest.rows for one in history.sealed.segments)
    newest = sorted((data / "segments").iterdir())[-1]
    backup = shutil.copytree(newest, home / "backup")
    for log in _log_files(data):
        log.unlink()  # nothing but the segment says which numbers were used
    _flip(newest / build.FRAMES, random.Random(1))
    async with running(_settings(home)) as history:
        assert newest.name not in [one.manifest.directory for one in history.sealed.segments]
        count = len(history.sealed.segments)
        await append(history, _detections(800, 180))
        await sealed(history, count + 1)
        await append(history, _detections(1000, 24))
    backup.rename(newest)
    async with running(_settings(home)) as history:
        assert newest.name in [one.manifest.directory for one in history.sealed.segments]
        assert history.detection_count == before + 180 + 24
        everything = [one for person in range(PEOPLE) for one in history.index.faces_of(*await _of(history, person))[0]]
        numbers = [one for segment in history.sealed.segments for one in segment.faces().numbers.tolist()]
        assert len(numbers) == len(set(numbers))
        late = [one for one in everything if one["time_ns"] >= moment(1000 / 20).ToNanoseconds()]
        assert late, "what is in memory is not hidden by what was restored"


async def _of(history: History, person: int) -> tuple[int, Scope]:
    """The newest appearance of a person."""
    listed = await history.reads.newest_first(None, None, None, 1000)
    return next(one.number for one in listed if one.object_id == str(person)), Scope()


def test_what_is_in_quarantine_goes_when_it_is_too_old(home: Path) -> None:
    now, told = time.time(), list[bool]()
    quarantine = Quarantine(home / "data" / "quarantine")
    quarantine.watch(told.append)
    assert quarantine.keep("piece", b"damaged", now - 100)
    assert not quarantine.keep("piece", b"damaged", now - 100), "it is here already"
    assert quarantine.keep("piece", b"other", now - 300)
    (first, second, third) = sorted((home / "data" / "segments").iterdir())[:3]
    for path in (first, second, third):
        quarantine.take(path, "a test")
    quarantine.take(first, "somebody else did")
    events = manifest.read(home / "data" / "quarantine" / first.name).latest_ns
    (home / "data" / "quarantine" / second.name / "manifest.json").write_text("{")
    assert (metrics.QUARANTINED_SEGMENTS._value.get(), metrics.QUARANTINED_FILES._value.get()) == (3, 2)

    assert quarantine.drop_before(int((now - 200) * 1e9)) == 3  # what happened in two of the segments is an hour ago
    assert events < (now - 200) * 1e9
    left = {path.name for path in (home / "data" / "quarantine").iterdir()}
    assert left == {"piece", second.name}, "of what cannot be read, when it was written counts"
    assert told[-1] is False
    assert quarantine.drop_before(int((now + 60) * 1e9)) == 2
    assert told[0] is True
    assert told[-1] is True
    assert metrics.QUARANTINED_SEGMENTS._value.get() == 0
