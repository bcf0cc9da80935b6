"""Files give back what went in, whatever that is; and of damaged ones what is sound, and nothing else."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from history_svc import segments
from history_svc.appearances import Appearance
from history_svc.index import Probes, Scope
from history_svc.records import (
    HAS_VECTOR,
    PACKED,
    ROW,
    Detections,
    Erased,
    Frame,
    FrameLink,
    Header,
    Rows,
    appearance_number,
    appearance_numbers,
    decode,
    encode_detections,
    encode_frame,
    encode_header,
)
from history_svc.sealed import build, gather
from history_svc.sealed.build import Content, Place
from history_svc.sealed.faces import SealedFaces
from history_svc.sealed.index import SegmentedIndex
from history_svc.sealed.manifest import load
from history_svc.seam import PLAIN

DIMENSION = 4
HEADER = Header("s", "m", DIMENSION)
FAST = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

times = st.sampled_from([0, 1, 10**18, (1 << 62) - 1]) | st.integers(0, (1 << 62) - 1)
ids = st.integers(0, 30).map(lambda number: number.to_bytes(16, "big")) | st.binary(min_size=16, max_size=16)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
cameras = st.sampled_from(["c1", "c2", "Kamera-ä"])
frame_ids = st.integers(0, 6).map(lambda number: number.to_bytes(16, "big").hex())
frames = st.builds(Frame, frame_ids, cameras, times, st.integers(0, 3), st.integers(0, 1 << 40))


@st.composite
def packed(draw: st.DrawFn, detection: bytes, owner: bytes, time_ns: int, flags: int) -> bytes:
    numbers = [draw(floats) for _ in range(10)]
    return PACKED.pack(detection, owner, time_ns, 0, flags, draw(st.integers(0, 2)), *numbers)


@st.composite
def appearance(draw: st.DrawFn, one_id: bytes) -> Appearance:
    start = draw(times)
    end = draw(st.integers(start, (1 << 62) - 1))
    row = draw(packed(one_id, one_id, start, 0))
    made = Appearance(one_id, draw(cameras), draw(texts), start, end, row, draw(packed(one_id, one_id, end, 0)))
    if draw(st.booleans()):
        made.best, made.best_score = row, draw(st.floats(0, 1))
        made.face_sum = np.array([draw(floats) for _ in range(DIMENSION)], np.float32)
        made.face_square = draw(st.floats(0, 100))
    made.count, made.face_count = draw(st.integers(0, 1 << 40)), draw(st.integers(0, 1 << 40))
    made.number = appearance_number(one_id)
    return made


@st.composite
def contents(draw: st.DrawFn, first_face: int = 0, detections: Sequence[bytes] | None = None) -> Content:
    owners = draw(st.lists(ids, max_size=5, unique=True))
    states = [draw(appearance(one)) for one in owners]
    shown = draw(st.lists(frames, max_size=3, unique_by=lambda one: one.id))
    some = st.lists(st.sampled_from(owners), unique=True) if owners else st.just([])
    links = [FrameLink(one, tuple(draw(some))) for one in shown]
    for link in links:
        for state in states:
            if state.id in link.appearances:
                state.show(link.frame)
    known = detections if detections is not None else draw(st.lists(ids, max_size=12, unique=True))
    faces = draw(st.integers(0, len(known)))
    rows, row_cameras = [], []
    for at, detection in enumerate(known):
        owner = draw(st.sampled_from(owners)) if owners else draw(ids)
        rows.append(
            draw(
                packed(
                    detection, owner, draw(times), HAS_VECTOR if at < faces else draw(st.sampled_from([0, HAS_VECTOR]))
                )
            )
        )
        row_cameras.append(draw(cameras))
    every: Rows = np.frombuffer(b"".join(rows), ROW)
    vectors = np.array([[draw(st.floats(-1, 1, width=16)) for _ in range(DIMENSION)] for _ in range(faces)], np.float16)
    numbers = np.full(len(known), -1, np.int64)
    numbers[:faces] = first_face + np.cumsum([draw(st.integers(1, 3)) for _ in range(faces)], dtype=np.int64)
    next_face = int(numbers.max(initial=first_face)) + 1
    return Content(
        every, row_cameras, numbers, vectors.reshape(-1, DIMENSION), appearance_numbers(every["appearance"]), states,
        links, next_face, len(states),
    )  # fmt: skip


def _written(directory: Path, number: int, content: Content) -> SealedFaces:
    manifest = build.write(directory, HEADER, Place(number, number), content)
    assert load(directory / manifest.directory) == manifest
    return SealedFaces(directory / manifest.directory, manifest)


def _appearances(states: Sequence[Appearance]) -> dict[bytes, Any]:
    return {
        one.id: (one.camera, one.object_id, one.start_ns, one.end_ns, one.entry, one.exit, one.best, one.best_score,
                 one.count, one.face_count, one.face_square, one.frames, one.number,
                 None if one.face_sum is None else one.face_sum.tobytes())
        for one in states
    }  # fmt: skip


def _rows(content: Content) -> list[Any]:
    """In any order, with all that belongs to each."""
    rows = content.rows.copy()
    rows["track"] = 0
    found = []
    for at in range(len(rows)):
        vector = content.vectors[at].tobytes() if at < len(content.vectors) else b""
        found.append(
            (rows[at].tobytes(), content.cameras[at], int(content.numbers[at]), int(content.owners[at]), vector)
        )
    return sorted(found)


def _links(links: Sequence[FrameLink]) -> dict[str, Any]:
    return {one.frame.id: (one.frame, set(one.appearances)) for one in links}


@FAST
@given(contents())
def test_a_segment_gives_back_what_it_was_made_of(content: Content) -> None:
    with tempfile.TemporaryDirectory() as directory:
        segment = _written(Path(directory), 1, content)
        again = gather.from_segments([segment], Erased())
        assert _rows(again) == _rows(content)
        assert _appearances(again.appearances) == _appearances(content.appearances)
        assert _links(again.frames) == _links(content.frames)
        assert (again.next_face, again.fresh) == (content.next_face, content.fresh)

        index = SegmentedIndex(DIMENSION, 1)
        index.take(segment)
        shelf = index.shelf
        wanted = _appearances(content.appearances)
        assert _appearances(list(shelf.with_ids(wanted, sums=True).values())) == wanted
        assert shelf.detections(_detections(content), content.rows["time_ns"]) == _owners(content)
        for link in content.frames:
            found = shelf.frame(link.frame.id)
            assert found is not None
            assert (found.frame, set(found.appearances)) == (link.frame, set(link.appearances))
        assert shelf.frame("0" * 32) is None or "0" * 32 in _links(content.frames)
        for no_id in ("x", "0" * 30, "0" * 34, "g" * 32, "0" * 14 + "." * 18):
            assert shelf.frame(no_id) is None
        listed = shelf.newest_first(None, None, None, None, 100, ())
        assert [one.id for one in listed] == _newest_first(content.appearances)
        for one in content.appearances:
            assert one.id in shelf.near([((one.camera, one.object_id), one.end_ns)], 0)
        # Every face is where its time, camera and appearance say.
        for at in range(len(content.vectors)):
            time_ns = int(content.rows["time_ns"][at])
            scope = Scope(time_ns, time_ns + 1, [content.cameras[at]])
            rows, _ = index.faces_of(int(content.owners[at]), scope)
            assert content.rows["detection"][at].tobytes() in rows["detection"].tolist()
        index.close()


@FAST
@given(st.data())
def test_merged_segments_are_one_of_all_that_is_in_them(data: st.DataObject) -> None:
    parts: list[Content] = []
    detections = data.draw(st.lists(ids, max_size=18, unique=True))
    for at in range(3):
        parts.append(data.draw(contents(parts[-1].next_face if parts else 0, detections[at::3])))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        found = [_written(directory, number, one) for number, one in enumerate(parts, 1)]
        merged = gather.from_segments(found, Erased())
        newest: dict[bytes, Any] = {}
        for part in parts:
            newest |= _appearances(part.appearances)
        assert _appearances(merged.appearances) == newest
        assert _rows(merged) == sorted(row for part in parts for row in _rows(part))
        shown: dict[str, tuple[Frame, set[bytes]]] = {}
        for part in parts:
            for link in part.frames:
                shown.setdefault(link.frame.id, (link.frame, set()))[1].update(link.appearances)
        segment = _written(directory, 9, merged)
        assert _links(segment.frames.links()) == shown
        several, one = SegmentedIndex(DIMENSION, 1), SegmentedIndex(DIMENSION, 1)
        for each in found:
            several.take(each)
        one.take(segment)
        probe = np.array([[0.5, 0.5, -0.5, 0.5]], np.float32)
        answers = []
        for index in (several, one):
            hits = index.search(Probes(probe, probe), 0.0, Scope())
            found_faces = zip(hits.appearances.tolist(), hits.similarities.tolist(), hits.numbers.tolist(), strict=True)
            listed = [state.id for state in index.shelf.newest_first(None, None, None, None, 100, ())]
            times_ns = np.concatenate([part.rows["time_ns"] for part in parts])
            known = index.shelf.detections([each for part in parts for each in _detections(part)], times_ns)
            answers.append(
                (
                    sorted(found_faces),
                    listed,
                    known,
                    _appearances(list(index.shelf.with_ids(newest, sums=True).values())),
                )
            )
            index.close()
        assert answers[0] == answers[1]


@FAST
@given(st.data())
def test_a_log_becomes_a_segment_of_all_that_is_in_it(data: st.DataObject) -> None:
    content = data.draw(contents())
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content.rows)), max_size=3)))
    payloads = [encode_header(HEADER)]
    face = 0
    for begin, end in zip([0, *cuts], [*cuts, len(content.rows)], strict=True):
        rows = content.rows[begin:end].copy()
        rows["flags"] = np.where(np.arange(begin, end) < len(content.vectors), rows["flags"] | HAS_VECTOR, 0)
        tracks = sorted({(camera, "é") for camera in content.cameras[begin:end]})
        rows["track"] = [tracks.index((camera, "é")) for camera in content.cameras[begin:end]]
        vectors = content.vectors[begin:end].astype(np.float32)
        payload = encode_detections(tracks, rows.tobytes(), vectors, face)
        again = decode(payload, DIMENSION)
        assert isinstance(again, Detections)
        assert (again.rows.tobytes(), again.vectors.tobytes(), list(again.tracks), again.first_face) == (
            rows.tobytes(), vectors.tobytes(), tracks, face)  # fmt: skip
        payloads.append(payload)
        face += len(vectors)
    for link in content.frames:
        payloads.append(encode_frame(link))
        assert decode(payloads[-1], DIMENSION) == link
    assert decode(payloads[0], DIMENSION) == HEADER
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "detections-000000000001.log"
        path.write_bytes(b"".join(segments.frame(one) + one for one in payloads))
        closed = SimpleNamespace(path=path, number=1, size=path.stat().st_size, time=0.0)
        touched = {one.id: one for one in content.appearances}
        log: Any = SimpleNamespace(closed=closed, touched=touched, repeats=frozenset())
        nowhere: Any = None  # nothing is damaged
        gathered = gather.from_logs(HEADER, [log], 0.0, Erased(), nowhere, PLAIN)
        assert sorted(gathered.rows["detection"].tolist()) == sorted(content.rows["detection"].tolist())
        assert gathered.vectors.tobytes() == content.vectors.tobytes()
        assert gathered.numbers[: len(content.vectors)].tolist() == list(range(len(content.vectors)))
        assert _links(gathered.frames) == _links(content.frames)
        assert _appearances(gathered.appearances) == _appearances(content.appearances)


@settings(max_examples=200, deadline=None)
@given(
    payloads=st.lists(st.binary(max_size=60) | st.just(segments.MARKER * 3) | st.just(b""), max_size=8),
    damage=st.lists(
        st.tuples(st.sampled_from(["flip", "cut", "insert", "remove"]), st.floats(0, 1), st.integers(1, 255)),
        max_size=3,
    ),
)
def test_every_sound_record_around_damage_is_found_and_none_is_invented(
    payloads: list[bytes], damage: list[tuple[str, float, int]]
) -> None:
    framed = [segments.frame(one) + one for one in payloads]
    content = b"".join(framed)
    for kind, where, value in damage:
        at = min(int(where * len(content)), max(0, len(content) - 1))
        if kind == "flip" and content:
            content = content[:at] + bytes([content[at] ^ value]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + bytes([value]) * (value % 7 + 1) + content[at:]
        elif kind == "remove":
            content = content[:at] + content[at + value % 7 + 1 :]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "log"
        path.write_bytes(content)
        found = list(segments.read(path))
        # Together they are the file, and what is no record of it is said to be damaged.
        offset = 0
        for one in found:
            if isinstance(one, segments.Span):
                assert one.start == offset < one.end
                offset = one.end
            else:
                assert content[offset + segments.HEAD_BYTES :].startswith(one)
                offset += segments.HEAD_BYTES + len(one)
        assert offset == len(content)
        read = [one for one in found if isinstance(one, bytes)]
        assert all(one in payloads for one in read)
        # What still is in the file as it was written is found, in its order.
        expected, at = [], 0
        for whole, payload in zip(framed, payloads, strict=True):
            place = content.find(whole, at)
            if place >= 0:
                expected.append(payload)
                at = place + len(whole)
        assert len(read) >= len(expected)
        remaining = iter(read)
        assert all(one in remaining for one in expected)
        kept: dict[str, bytes] = {}
        segments.cut_out(path, [one for one in found if isinstance(one, segments.Span)], kept.__setitem__)
        assert list(segments.read(path)) == read
        assert sum(map(len, kept.values())) + path.stat().st_size == len(content)


def _detections(content: Content) -> list[bytes]:
    found: list[bytes] = content.rows["detection"].tolist()
    return found


def _owners(content: Content) -> dict[bytes, bytes]:
    return dict(zip(_detections(content), content.rows["appearance"].tolist(), strict=True))


def _newest_first(states: Sequence[Appearance]) -> list[bytes]:
    return [one.id for one in sorted(states, key=lambda one: (one.start_ns, one.id), reverse=True)]
