"""Erasing appearances: never found again from the answer on, in no file, whatever is killed; and nobody else's."""

import asyncio
import errno
import random
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import grpc
import pytest
from poi.v1 import common_pb2, erasure_pb2, history_pb2

from history_svc.erasure import Receipt
from history_svc.index import Probes, Scope
from history_svc.queries import Queries
from history_svc.records import Frame, appearance_number
from history_svc.sealed import files
from history_svc.search import Searches
from history_svc.settings import Settings
from history_svc.store import History
from history_svc.traces import HistoryTraces
from mesh import embeddings
from mesh.embeddings import FACE_MODEL
from mesh.errors import InvalidArgument, NotFound, from_rpc
from tests.history_svc.client import STORE, Client, detection
from tests.history_svc.conftest import StartHistory
from tests.history_svc.test_frames import jpeg, upload
from tests.history_svc.test_sealing import append, running, sealed, state
from tests.support import similar, unit
from tests.support.vectors import Vector

PEOPLE = 6
SEAL = 60
VICTIM = 2
OBJECT = "object-of-the-victim"


def _settings(path: Path) -> Settings:
    return Settings(data_dir=path / "data", seal_faces=SEAL, index_every_seconds=0, gap_seconds=2.0)


def _face(person: int, number: int) -> Vector:
    return similar(unit(person), 0.8, 1000 + number)


def _detections(begin: int, count: int) -> list[common_pb2.Detection]:
    """Everybody in turn, each on a camera of their own, 20 a second."""
    return [
        detection(
            _face(number % PEOPLE, number),
            at=number / 20,
            camera=f"Camera_{number % PEOPLE}",
            object_id=OBJECT if number % PEOPLE == VICTIM else f"somebody-{number % PEOPLE}",
        )
        for number in range(begin, begin + count)
    ]


@asynccontextmanager
async def erasing(settings: Settings) -> AsyncIterator[History]:
    """A history that also finishes erasures."""
    async with running(settings) as history:
        work = asyncio.create_task(history.erasing.run())
        try:
            yield history
        finally:
            work.cancel()
            await asyncio.wait([work])


def _secrets(numbers: range) -> list[bytes]:
    """What no file may hold of the victim's detections."""
    found = [OBJECT.encode()]
    for number in numbers:
        if number % PEOPLE == VICTIM:
            vector = _face(VICTIM, number)
            found += [vector.astype("<f4").tobytes()[:64], vector.astype("<f2").tobytes()[:64]]
            found.append(bytes.fromhex(_detections(number, 1)[0].detection_id))
    return found


def _leaks(directory: Path, secrets: list[bytes]) -> list[str]:
    return [
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file() and "erasures" not in path.parts and any(one in path.read_bytes() for one in secrets)
    ]


async def _of_victim(history: History) -> list[bytes]:
    found = await history.reads.newest_first(None, None, None, 10_000)
    return [one.id for one in found if one.object_id == OBJECT]


async def _found(history: History) -> int:
    probe = unit(VICTIM)[None]
    return len(history.index.search(Probes(probe, probe), 0.5, Scope()).numbers)


@pytest.mark.parametrize("is_sealed", [False, True])
async def test_a_frame_that_is_erased_without_any_appearance_is_in_no_file(tmp_path: Path, is_sealed: bool) -> None:
    """Its record stayed in the segment: it was still listed, and reading it was DATA_LOSS."""
    settings = _settings(tmp_path)
    picture, other = upload(jpeg(1)), upload(jpeg(2))
    async with erasing(settings) as history:
        (first, *_) = await append(history, _detections(0, 1))
        picture.appearances.append(f"{STORE}/appearances/{first.hex()}")
        request = history_pb2.AppendDetectionsRequest(parent=STORE, frames=[picture, other])
        appending = history.append(history.read(request))
        assert appending.frames is not None
        assert await appending.frames == [None] * 2
        if is_sealed:
            await append(history, _detections(1, SEAL))
            await sealed(history, 1)
        frame_id = _frame_id(history, picture)

        receipt = await history.erasing.erase((), "request-1", [frame_id])

        assert (receipt.appearances, receipt.frames) == (0, 1)
        assert await history.reads.frame(frame_id) is None
        assert await history.reads.frame(_frame_id(history, other)) is not None
        shown = await history.reads.appearance(first)
        assert shown is not None
        assert shown.frames == ()
        assert _leaks(tmp_path / "data", [frame_id.encode(), bytes.fromhex(frame_id), picture.image]) == []


async def test_a_frame_that_comes_once_more_is_erased_once_more(tmp_path: Path) -> None:
    """The eraser looks again when all services are done; what it found was taken for a repeat of its first request."""
    request = history_pb2.AppendDetectionsRequest(parent=STORE, frames=[upload(jpeg(1))])
    async with erasing(_settings(tmp_path)) as history:
        traces = HistoryTraces(history, cast(Searches, None), cast(Queries, None), 0.5)
        for _ in range(2):
            appending = history.append(history.read(request))
            assert appending.frames is not None
            assert await appending.frames == [None]
            frame_id = _frame_id(history, request.frames[0])
            assert await history.reads.frame(frame_id) is not None
            subject = erasure_pb2.TraceSubject(frames=[f"{STORE}/frames/{frame_id}"])

            await traces.erase("store-1", subject, f"{STORE}/personErasures/e1")

            assert await history.reads.frame(frame_id) is None


async def test_what_is_erased_is_in_no_file_and_the_rest_is_as_it_was(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    data = tmp_path / "data"
    numbers = range(600)
    picture, shared, other = upload(jpeg(1)), upload(jpeg(2)), upload(jpeg(3))
    async with erasing(settings) as history:
        for begin in numbers[:540:60]:
            await append(history, _detections(begin, 60))
        await sealed(history, 4)
        last = await append(history, _detections(540, 60))
        victims = await _of_victim(history)
        assert len(victims) == 1
        somebody = next(one for at, one in enumerate(last) if at % PEOPLE == 0)
        picture.appearances.append(f"{STORE}/appearances/{victims[0].hex()}")
        shared.appearances.extend(f"{STORE}/appearances/{one.hex()}" for one in (victims[0], somebody))
        other.appearances.append(f"{STORE}/appearances/{somebody.hex()}")
        request = history_pb2.AppendDetectionsRequest(parent=STORE, frames=[picture, shared, other])
        appending = history.append(history.read(request))
        assert appending.frames is not None
        assert await appending.frames == [None] * 3
        before = await state(history)
        secrets = [*_secrets(numbers), picture.image, shared.image]
        assert len(_leaks(data, secrets)) > 5
        quarantine = data / "quarantine"
        quarantine.mkdir()
        (quarantine / "x.damaged").write_bytes(secrets[1])

        plan = await history.erasing.plan(victims)
        assert await _found(history) == 1
        receipt = await history.erasing.erase(victims, "request-1")

        assert (plan.appearances, plan.detections, plan.faces, plan.frames) == (1, 100, 100, 2)
        assert (receipt.appearances, receipt.detections, receipt.faces, receipt.frames) == (1, 100, 100, 2)
        assert receipt.quarantined == 1
        assert receipt.done_ns > receipt.begun_ns
        assert _leaks(data, secrets) == []
        assert await _found(history) == 0
        assert await history.erasing.erase(victims, "request-1") == receipt, "a repeat is known as one"
        after = await state(history)
        _assert_only_the_victim_is_gone(before, after, victims[0])
        # Sent again, as a broker does that did not get its confirmation.
        assert await append(history, _detections(540, 60)) == last
        assert await _of_victim(history) == []
        assert await history.reads.frame(_frame_id(history, shared)) is None
        assert await history.reads.frame(_frame_id(history, other)) is not None
    async with erasing(settings) as history:
        assert await state(history) == after
        assert history.erasures.get(receipt.id) == receipt
        assert await append(history, _detections(540, 60)) == last
        assert await _of_victim(history) == []
        # Who is still there begins anew.
        await append(history, _detections(600, 12))
        assert len(await _of_victim(history)) == 1
        assert await _of_victim(history) != victims
        assert _leaks(data, secrets[1:]) == []


def _frame_id(history: History, frame: history_pb2.FrameUpload) -> str:
    batch = history.read(history_pb2.AppendDetectionsRequest(parent=STORE, frames=[frame]))
    return batch.uploads[0].frame.id


def _assert_only_the_victim_is_gone(before: dict, after: dict, victim: bytes) -> None:  # type: ignore[type-arg]
    left = [one for one in before["appearances"] if one[0] != victim]
    assert [one[:10] for one in after["appearances"]] == [one[:10] for one in left]
    (shown,) = [one for one in after["appearances"] if one[10]]
    assert len(shown[10]) == 1, "not the frame that shows the victim, too"
    assert after["detections"] == before["detections"] - 100
    for key, hits in before["found"].items():
        assert after["found"][key] == [one for one in hits if one[0] != victim]


async def test_a_stop_at_any_step_is_made_up_for_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory as it is before each change of a file, as a crash there would leave it."""
    settings = _settings(tmp_path)
    states = tmp_path / "states"
    states.mkdir()

    async with erasing(settings) as history:
        for begin in range(0, 300, 60):
            await append(history, _detections(begin, 60))
        await sealed(history, 3)
        victims = await _of_victim(history)
        before = await state(history)
        steps = 0

        def keep() -> None:
            nonlocal steps
            shutil.copytree(tmp_path / "data", states / str(steps) / "data", ignore=shutil.ignore_patterns("lock"))
            steps += 1

        for name in ("write", "publish", "remove"):
            original = getattr(files, name)

            def watched(*args: object, original: object = original) -> object:
                keep()
                return original(*args)  # type: ignore[operator]

            monkeypatch.setattr(files, name, watched)
        await history.erasing.erase(victims, "request-1")
        keep()
        monkeypatch.undo()
    assert steps > 10
    chance = random.Random(7)
    for step in [*sorted(chance.sample(range(1, steps), 8)), steps]:
        home = states / str(step - 1)
        async with erasing(_settings(home)) as history:
            begun = history.erasures.of_request("request-1")
            if begun is None:
                assert await state(history) == before
                continue
            assert await _found(history) == 0, step
            assert await _of_victim(history) == []
            await history.erasing.erase(victims, "request-1")
            assert _leaks(home / "data", _secrets(range(300))) == [], step
            appearances = [one for one in before["appearances"] if one[0] != victims[0]]
            assert (await state(history))["appearances"] == appearances
        shutil.rmtree(home)


async def test_a_full_disk_puts_off_an_erasure_that_hides_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("history_svc.erasing._RETRY_SECONDS", 0.1)
    async with erasing(_settings(tmp_path)) as history:
        for begin in range(0, 300, 60):
            await append(history, _detections(begin, 60))
        await sealed(history, 3)
        victims = await _of_victim(history)
        write = files.write

        def full(path: Path, content: bytes) -> object:
            if path.suffix == ".faiss":
                raise OSError(errno.ENOSPC, "full")
            return write(path, content)

        monkeypatch.setattr(files, "write", full)
        with pytest.raises(Exception, match="disk is full"):
            await history.erasing.erase(victims, "request-1")
        assert await _found(history) == 0
        assert await _of_victim(history) == []
        monkeypatch.setattr(files, "write", write)
        receipt = await history.erasing.erase(victims, "request-1")
        assert isinstance(receipt, Receipt)
        assert _leaks(tmp_path / "data", _secrets(range(300))) == []


async def test_erasing_by_names_through_the_contract(client: Client, server: object) -> None:
    await client.append(*_detections(0, 60))
    wanted = [one.name for one in await client.appearances() if one.object_id == OBJECT]
    request = history_pb2.EraseAppearancesRequest(
        parent=STORE, appearances=history_pb2.AppearanceNames(names=wanted), validate_only=True
    )

    plan = (await client.stub.EraseAppearances(request)).erasure
    assert (plan.name, plan.appearance_count, plan.detection_count) == ("", 1, 10)
    assert not plan.HasField("complete_time")
    request.validate_only = False
    with pytest.raises(grpc.aio.AioRpcError, match="request_id"):
        await client.stub.EraseAppearances(request)
    request.request_id = str(uuid.uuid4())
    erasure = (await client.stub.EraseAppearances(request)).erasure

    assert erasure.appearance_count == 1
    assert erasure.complete_time.ToNanoseconds() >= erasure.create_time.ToNanoseconds() > 0
    assert await client.stub.GetErasure(history_pb2.GetErasureRequest(name=erasure.name)) == erasure
    assert (await client.stub.EraseAppearances(request)).erasure == erasure
    assert not [one for one in await client.appearances() if one.object_id == OBJECT]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.stub.GetAppearance(history_pb2.GetAppearanceRequest(name=wanted[0]))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    request.request_id = str(uuid.uuid4())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.stub.EraseAppearances(request)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.stub.GetErasure(history_pb2.GetErasureRequest(name=f"{STORE}/erasures/nothing"))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


async def test_erasing_all_that_a_search_finds(start: StartHistory) -> None:
    server = start({"POI_HISTORY_SEAL_FACES": "60", "POI_HISTORY_GAP_SECONDS": "0.2"})
    async with Client(server.target) as client:
        for begin in range(0, 300, 60):
            await client.append(*_detections(begin, 60))
        face = embeddings.encode(unit(VICTIM), model=FACE_MODEL, alignment=common_pb2.ALIGNMENT_ALIGNED)
        selection = history_pb2.AppearanceSelection(query=history_pb2.AppearanceQuery(embedding=face))
        request = history_pb2.EraseAppearancesRequest(parent=STORE, selection=selection, validate_only=True)
        plan = await client.stub.EraseAppearances(request)
        assert plan.erasure.appearance_count == len(plan.hits) == 50
        assert {hit.appearance.object_id for hit in plan.hits} == {OBJECT}
        request.validate_only, request.request_id = False, "all"

        erasure = (await client.stub.EraseAppearances(request)).erasure

        assert erasure.appearance_count == 50
        assert (await client.stub.EraseAppearances(request)).erasure == erasure
        left = await client.appearances()
        assert len(left) == 250
        assert not [one for one in left if one.object_id == OBJECT]
        search = history_pb2.SearchAppearancesRequest(parent=STORE, embedding=face)
        assert not (await client.stub.SearchAppearances(search)).hits
        other = history_pb2.EraseAppearancesRequest(parent=STORE, request_id="all")
        other.appearances.names.append(left[0].name)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.stub.EraseAppearances(other)
        error = from_rpc(refused.value)
        assert isinstance(error, InvalidArgument)
        assert (error.reason, error.violations[0][0]) == ("REQUEST_ID_REUSED", "request_id"), "they are there yet"
        request.request_id = "again"
        assert (await client.stub.EraseAppearances(request)).erasure == history_pb2.Erasure(), "nobody is left"


async def test_appends_and_searches_go_on_during_an_erasure(tmp_path: Path) -> None:
    async with erasing(_settings(tmp_path)) as history:
        for begin in range(0, 600, 60):
            await append(history, _detections(begin, 60))
        await sealed(history, 6)
        victims = await _of_victim(history)
        work = asyncio.create_task(history.erasing.erase(victims, "request-1"))
        begin, sure = 600, 0
        while not work.done():
            await append(history, _detections(begin, 12))
            begin += 12
            sure += history.erasures.erased.appearances != frozenset()
            if history.erasures.of_request("request-1") is not None:
                numbers = {appearance_number(one) for one in victims}
                probe = unit(VICTIM)[None]
                hits = await asyncio.to_thread(history.index.search, Probes(probe, probe), 0.5, Scope())
                assert not numbers & set(hits.appearances.tolist())
        receipt = await work
        assert receipt.appearances == 1
        assert sure
        assert (await state(history))["detections"] == begin - receipt.detections


@pytest.mark.parametrize("damaged", [".json", ".copy"])
async def test_a_damaged_record_of_an_erasure_brings_nobody_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    settings = _settings(tmp_path)
    async with running(settings) as history:  # nobody finishes it
        for begin in range(0, 300, 60):
            await append(history, _detections(begin, 60))
        await sealed(history, 3)
        victims = await _of_victim(history)
        work = asyncio.create_task(history.erasing.erase(victims, "request-1"))
        async with asyncio.timeout(60):
            while not history.erasures.pending:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        work.cancel()
    (path,) = (tmp_path / "data" / "erasures").glob(f"*{damaged}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    async with erasing(settings) as history:
        assert await _found(history) == 0
        assert (await history.erasing.erase(victims, "request-1")).appearances == 1
        assert _leaks(tmp_path / "data", _secrets(range(300))) == []


async def test_a_frame_that_comes_during_the_erasure_is_not_kept(tmp_path: Path) -> None:
    async with erasing(_settings(tmp_path)) as history:
        await append(history, _detections(0, 60))
        victims = await _of_victim(history)
        save = history.frames.save

        async def late(frame: Frame, image: bytes) -> None:
            await save(frame, image)
            await history.erasing.erase(victims, "request-1")

        history.frames.save = late  # type: ignore[method-assign]
        picture = upload(jpeg(1), f"{STORE}/appearances/{victims[0].hex()}")
        request = history_pb2.AppendDetectionsRequest(parent=STORE, frames=[picture])
        appending = history.append(history.read(request))
        assert appending.frames is not None
        (answer,) = await appending.frames
        assert isinstance(answer, NotFound)
        assert await history.reads.frame(_frame_id(history, picture)) is None
        assert _leaks(tmp_path / "data", [picture.image]) == []
