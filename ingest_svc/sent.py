"""Which matches the alert service knows already, so that only what says more than that is sent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from poi.v1 import match_pb2

MARGIN: Final = 0.01
"""A match that is better by so much (cosine similarity) is sent again: the smallest escalation margin that a store can
set. From 0.45 to 1 that is 55 times at most."""
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
    always: frozenset[str]
    """Who was a runner-up each time. One who is not any more does not hold the person's own alert back any more."""
    ever: frozenset[str]
    """Who was a runner-up any time."""


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
        return Sent(match.similarity, match.severity, names, names)
    is_better = match.similarity >= before.similarity + MARGIN - _EPSILON
    fewer, more = before.always & names, before.ever | names
    is_news = len(fewer) < len(before.always) or (len(more) > len(before.ever) and len(before.ever) < _MOST_NAMED)
    if not (is_better or is_news or match.severity > before.severity):
        return None
    return Sent(max(match.similarity, before.similarity), max(match.severity, before.severity), fewer, more)
