"""Which matches the alert service knows already, so that only what says more than that is sent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from poi.v1 import match_pb2

MARGIN: Final = 0.01
"""A match that is better by so much (cosine similarity) is sent again where the alert service did not say what it
takes: the smallest escalation margin that a store can set."""
_OTHERS_MARGIN: Final = 0.05
"""A runner-up that is better by so much is news as well."""
_MOST_NAMED: Final = 10
"""New runners-up of one match beyond these are no news: an alert names no more."""
_REMEMBERED: Final = 65_536
_EPSILON: Final = 1e-6  # similarities are float32: 0.51 - 0.5 must be a margin of 0.01

Key = tuple[str, str]
"""Appearance and person."""


class Sent(NamedTuple):
    """What was sent of an appearance and a person."""

    similarity: float
    severity: int
    next_similarity: float
    """From what similarity on a match says more."""
    always: frozenset[str]
    """Who was a runner-up each time. One who is not any more does not hold the person's own alert back any more."""
    ever: Mapping[str, float]
    """Who was a runner-up any time, and the highest similarity of each."""

    def known(self, next_similarity: float) -> Sent:
        """With what the alert service says that it takes; 0 where it does not."""
        return self._replace(next_similarity=next_similarity) if next_similarity > 0.0 else self


class SentMatches:
    """Remembers a bounded number of them; one that is forgotten is sent again, which adds nothing to its alert."""

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._remembered = remembered
        self._sent: OrderedDict[Key, Sent] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        return key in self._sent

    def __len__(self) -> int:
        return len(self._sent)

    def get(self, key: Key) -> Sent | None:
        """What was sent; it is then the last to be forgotten."""
        sent = self._sent.get(key)
        if sent is not None:
            self._sent.move_to_end(key)
        return sent

    def count(self, poi: str, appearances: Collection[str]) -> int:
        """How many are of a person, or of these appearances."""
        return len(self._of(poi, appearances))

    def forget(self, poi: str, appearances: Collection[str]) -> None:
        """Forgets these."""
        for key in self._of(poi, appearances):
            del self._sent[key]

    def _of(self, poi: str, appearances: Collection[str]) -> list[Key]:
        return [key for key in self._sent if key[0] in appearances or key[1] == poi]

    def keep(self, sent: Mapping[Key, Sent]) -> None:
        """Remembers what the alert service has."""
        for key, value in sent.items():
            self._sent[key] = value
            self._sent.move_to_end(key)
        while len(self._sent) > self._remembered:
            self._sent.popitem(last=False)


def after(before: Sent | None, match: match_pb2.Match, others: Sequence[match_pb2.Match]) -> Sent | None:
    """What will have been sent with this match and its runners-up; None where it says nothing new."""
    names = frozenset(other.poi for other in others)
    if before is None:
        ever = {other.poi: other.similarity for other in others}
        return Sent(match.similarity, match.severity, match.similarity + MARGIN, names, ever)
    is_better = match.similarity >= before.next_similarity - _EPSILON
    fewer = before.always & names
    if not (
        is_better
        or match.severity > before.severity
        or len(fewer) < len(before.always)
        or any(_is_news(other, before.ever) for other in others)
    ):
        return None
    more = dict(before.ever)
    for other in others:
        more[other.poi] = max(other.similarity, more.get(other.poi, 0.0))
    best = max(match.similarity, before.similarity)
    return Sent(best, max(match.severity, before.severity), max(best + MARGIN, before.next_similarity), fewer, more)


def _is_news(other: match_pb2.Match, ever: Mapping[str, float]) -> bool:
    known = ever.get(other.poi)
    if known is None:
        return len(ever) < _MOST_NAMED
    return other.similarity >= known + _OTHERS_MARGIN - _EPSILON
