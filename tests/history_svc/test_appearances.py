"""Which detections belong to one appearance, decided without a server; and that replay comes to the same."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from history_svc.appearances import Appearance, Rules, Vector
from history_svc.book import Book
from history_svc.draft import Draft
from history_svc.erasure import Erasures
from history_svc.ledger import Ledger
from history_svc.quarantine import Quarantine
from history_svc.records import HAS_VECTOR, PACKED, Erased, Header, encode_detections
from history_svc.replay import Replay
from history_svc.sealed.index import SegmentedIndex
from history_svc.stored import Stored
from tests.support import similar, unit

SECOND = 1_000_000_000
RULES = Rules(10 * SECOND, 0.2)
WOMAN, MAN, HEAD = unit(1), unit(2), unit(3)


@dataclass
class Seen:
    """A detection for these tests."""

    at: float
    face: Vector | None = None
    object_id: str = "1"

    @property
    def id(self) -> bytes:
        return hashlib.blake2b(f"{self.at}{self.object_id}".encode(), digest_size=16).digest()


class Track:
    """A book that is fed detections, each committed by itself, and keeps the records for a replay."""

    def __init__(self) -> None:
        self.book = Book(RULES.gap_ns)
        self.records: list[bytes] = []

    def see(self, *seen: Seen) -> list[bytes]:
        """One group of detections; returns the appearance of each."""
        draft = Draft(self.book, RULES)
        answers, rows, vectors = [], [], []
        for one in seen:
            track, time_ns, flags = ("c", one.object_id), round(one.at * SECOND), HAS_VECTOR * (one.face is not None)
            known = draft.known(one.id)
            if known is None:
                known, likeness = draft.choose(one.id, track, time_ns, one.face)
                row = PACKED.pack(one.id, known, time_ns, 0, flags, 0, *[0.0] * 10)
                draft.place(one.id, known, track, time_ns, row, 0.5 if flags else -1.0, one.face, likeness)
                rows.append((track, row))
                if one.face is not None:
                    vectors.append(one.face)
            answers.append(known)
        draft.commit()
        tracks = list(dict.fromkeys(track for track, _ in rows))
        packed = [row[:40] + tracks.index(track).to_bytes(2, "little") + row[42:] for track, row in rows]
        stack = np.array(vectors, np.float32).reshape(-1, 256)
        self.records.append(encode_detections(tracks, b"".join(packed), stack, 0))
        return answers

    def state(self) -> list[tuple[object, ...]]:
        return _state(self.book)

    def replayed(self) -> Book:
        """The book that a restart makes of the records."""
        book, index = Book(RULES.gap_ns), SegmentedIndex(256, 1)
        with TemporaryDirectory() as directory:
            erasures = Erasures(Path(directory) / "erasures", Quarantine(Path(directory) / "quarantine"))
        stored = Stored(index, book, erasures, RULES.gap_ns)
        replay = Replay(Header("s", "m", 256), book, index, RULES, Ledger(book, 1000, 1000.0), stored, Erased())
        for record in self.records:
            replay.apply(record)
        index.close()
        return book


def _state(book: Book) -> list[tuple[object, ...]]:
    return [_facts(one) for one in book.newest_first(None, None, None)]


def _facts(one: Appearance) -> tuple[object, ...]:
    face = None if one.face_sum is None else one.face_sum.tobytes()
    moments = (one.entry[:16], one.exit[:16], one.best[:16])
    return one.id, one.object_id, one.start_ns, one.end_ns, one.count, one.face_count, face, one.face_square, *moments


def _groups(answers: Sequence[bytes]) -> list[int]:
    """0, 1, 2 ... for each appearance in the order of coming."""
    order = list(dict.fromkeys(answers))
    return [order.index(answer) for answer in answers]


def test_ten_seconds_join_and_more_separate() -> None:
    assert _groups(Track().see(Seen(0), Seen(10), Seen(20.001))) == [0, 0, 1]


def test_an_appearance_is_named_after_its_first_detection() -> None:
    first = Seen(0)
    assert Track().see(first, Seen(1)) == [first.id, first.id]


def test_other_object_ids_are_other_appearances() -> None:
    assert _groups(Track().see(Seen(0), Seen(0, object_id="2"), Seen(1))) == [0, 1, 0]


def test_a_face_of_another_person_begins_a_new_appearance() -> None:
    """A recycled id, without a gap: the reference hid the second person."""
    track = Track()
    answers = track.see(Seen(0, WOMAN), Seen(1, WOMAN), Seen(2, MAN), Seen(3, MAN), Seen(4))
    assert _groups(answers) == [0, 0, 1, 1, 1]


def test_the_back_of_a_head_does_not_split_an_appearance_for_good() -> None:
    answers = Track().see(Seen(0, WOMAN), Seen(1, HEAD), Seen(2, WOMAN), Seen(3, WOMAN))
    assert _groups(answers) == [0, 1, 0, 0]


def test_a_face_joins_an_appearance_that_had_none() -> None:
    assert _groups(Track().see(Seen(0), Seen(1, WOMAN), Seen(2, MAN))) == [0, 0, 1]


def test_a_face_as_like_as_the_limit_stays() -> None:
    near, far = similar(WOMAN, 0.201, 9), similar(WOMAN, 0.199, 9)
    assert _groups(Track().see(Seen(0, WOMAN), Seen(1, near))) == [0, 0]
    assert _groups(Track().see(Seen(0, WOMAN), Seen(1, far))) == [0, 1]


def test_late_arrivals_extend_an_appearance_at_both_ends() -> None:
    track = Track()
    answers = track.see(Seen(20)) + track.see(Seen(30)) + track.see(Seen(12)) + track.see(Seen(25))
    assert _groups(answers) == [0, 0, 0, 0]
    (appearance,) = track.book.newest_first(None, None, None)
    assert (appearance.start_ns, appearance.end_ns) == (12 * SECOND, 30 * SECOND)
    assert appearance.entry[:16] == Seen(12).id
    assert appearance.exit[:16] == Seen(30).id
    assert appearance.id == Seen(20).id


def test_a_late_arrival_finds_an_appearance_of_long_ago() -> None:
    track = Track()
    for number in range(30):
        track.see(Seen(100.0 * number))
    assert track.see(Seen(305.0)) == [Seen(300.0).id]
    assert track.see(Seen(314.0)) == [Seen(300.0).id]
    assert track.see(Seen(350.0)) == [Seen(350.0).id]


def test_a_draft_that_is_not_committed_leaves_no_trace() -> None:
    track = Track()
    track.see(Seen(0, WOMAN))
    before = track.state()

    draft = Draft(track.book, RULES)
    late = Seen(5, WOMAN)
    chosen, likeness = draft.choose(late.id, ("c", "1"), 5 * SECOND, WOMAN)
    draft.place(late.id, chosen, ("c", "1"), 5 * SECOND, bytes(PACKED.size), 1.0, WOMAN, likeness)

    assert chosen == Seen(0).id
    assert track.state() == before
    assert track.book.appearance_of(late.id) is None


_PEOPLE = st.sampled_from([None, WOMAN, MAN, similar(WOMAN, 0.8, 5), HEAD])
_SEEN = st.builds(
    lambda tenths, face, object_id: Seen(tenths / 10, face, object_id),
    st.integers(0, 600),
    _PEOPLE,
    st.sampled_from("12"),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(_SEEN, max_size=6), max_size=12))
def test_replay_comes_to_the_same_and_repeats_change_nothing(groups: list[list[Seen]]) -> None:
    track = Track()
    answers = {one.id: answer for group in groups for one, answer in zip(group, track.see(*group), strict=True)}
    before = track.state()

    assert _state(track.replayed()) == before
    for group in groups:
        assert track.see(*group) == [answers[one.id] for one in group]
    assert track.state() == before
    assert sum(one.count for one in track.book.newest_first(None, None, None)) == len(answers)


@settings(max_examples=150, deadline=None)
@given(st.sets(st.integers(0, 900), max_size=40), st.randoms(use_true_random=False))
def test_without_faces_appearances_are_the_runs_between_gaps(tenths: set[int], random: object) -> None:
    """In order, in groups of any size; each appearance spans its run exactly."""
    times = sorted(tenths)
    track = Track()
    at = 0
    while at < len(times):
        size = random.randint(1, 5)  # type: ignore[attr-defined]
        track.see(*(Seen(time / 10) for time in times[at : at + size]))
        at += size

    runs: list[list[int]] = []
    for time in times:
        if runs and time - runs[-1][-1] <= 100:
            runs[-1].append(time)
        else:
            runs.append([time])
    found = list(track.book.newest_first(None, None, None))[::-1]
    assert [(one.start_ns, one.end_ns, one.count) for one in found] == [
        (run[0] * SECOND // 10, run[-1] * SECOND // 10, len(run)) for run in runs
    ]
