"""The suggestion of a threshold, against one that tries everything."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from poi.v1 import feedback_pb2, match_pb2

from alert_svc.feedback.suggest import MIN_CONFIRMED, MIN_REPORTS, Tally

CONFIRMED, NOT_THIS_PERSON = feedback_pb2.MATCH_VERDICT_CONFIRMED, feedback_pb2.MATCH_VERDICT_NOT_THIS_PERSON

# Hundredths, where a threshold and a similarity meet, and what lies between.
cosines = st.one_of(
    st.integers(-100, 100).map(lambda number: number / 100),
    st.floats(0.375, 0.75, width=32),
    st.floats(-1, 1, width=32),
)
matches = st.lists(st.tuples(st.booleans(), cosines, cosines), max_size=40)


def suggested(
    said: list[tuple[bool, float, float]], share: float = 0.0
) -> tuple[feedback_pb2.SuggestThresholdResponse, list[tuple[bool, np.float32, np.float32]]]:
    """The suggestion, and the matches as float32 like those of the contract."""
    tally = Tally(max_missed_share=share)
    for is_person, similarity, threshold in said:
        match = match_pb2.Match(similarity=similarity, threshold=threshold)
        tally.add(feedback_pb2.MatchReport(verdict=CONFIRMED if is_person else NOT_THIS_PERSON, match=match))
    return tally.response(), [(who, np.float32(similarity), np.float32(least)) for who, similarity, least in said]


@given(said=matches, share=st.one_of(st.just(0.0), st.floats(0, 0.5), st.integers(0, 50).map(lambda n: n / 100)))
def test_it_is_the_best_of_all_thresholds(said: list[tuple[bool, float, float]], share: float) -> None:
    found, rows = suggested(said, share)
    confirmed = [similarity for is_person, similarity, _ in rows if is_person]
    false = [similarity for is_person, similarity, _ in rows if not is_person]
    assert (found.confirmed_count, found.false_count) == (len(confirmed), len(false))

    def tried(step: int) -> tuple[float, int, int, int, int]:
        least = np.float32(step / 100)
        kept, still = sum(each >= least for each in confirmed), sum(each >= least for each in false)
        return float(least), int(kept), len(confirmed) - int(kept), int(still), len(false) - int(still)

    outcomes = [
        (each.threshold, each.confirmed_kept, each.confirmed_missed, each.false_kept, each.false_avoided)
        for each in found.outcomes
    ]
    if not rows:
        assert outcomes == []
        return
    reached = min(min(similarity, threshold or similarity) for _, similarity, threshold in rows)
    first = max(step for step in range(-100, 101) if np.float32(step / 100) <= reached)
    beyond = [step for step in range(-100, 101) if np.float32(step / 100) > max(confirmed + false)]
    assert outcomes == [tried(step) for step in range(first, min(beyond, default=100) + 1)]

    best: tuple[float, int, int, int, int] | None = None
    for outcome in outcomes:  # ever higher
        # The share in hundredths of a percent: 0.29 of 100 is 29, and not what floats make of it.
        is_bearable = outcome[2] <= len(confirmed) * share + 1e-9
        if is_bearable and (best is None or outcome[3] <= best[3]):
            best = outcome
    is_enough = len(confirmed) >= MIN_CONFIRMED and len(rows) >= MIN_REPORTS
    if not is_enough or best is None or best[4] == 0:
        assert not found.HasField("suggestion")
    else:
        assert found.suggestion.threshold == best[0]
        assert found.suggestion.false_avoided == best[4]


def test_who_was_missed_is_never_more_than_was_allowed() -> None:
    said = [(True, 0.5 + 0.01 * number, 0.45) for number in range(10)] + [
        (False, 0.52, 0.45),
        (False, 0.46, 0.45),
    ]
    none, two = suggested(said)[0].suggestion, suggested(said, 0.3)[0].suggestion
    assert (round(none.threshold, 4), none.false_avoided, none.confirmed_missed) == (0.5, 1, 0)
    assert (round(two.threshold, 4), two.false_avoided, two.confirmed_missed) == (0.53, 2, 3)


def test_too_little_or_nothing_against_the_threshold_gives_no_suggestion() -> None:
    confirmed, false = [(True, 0.7, 0.45)], [(False, 0.5, 0.45)]
    assert suggested(confirmed * 5 + false * 5)[0].HasField("suggestion")
    assert not suggested(confirmed * 5 + false * 4)[0].HasField("suggestion")
    assert not suggested(confirmed * 4 + false * 20)[0].HasField("suggestion")
    assert not suggested(confirmed * 20)[0].HasField("suggestion")
    assert not suggested(confirmed * 10 + [(False, 0.8, 0.45)] * 10)[0].HasField("suggestion")
