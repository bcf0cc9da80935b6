"""Reads a whole chain and names what is wrong with it."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from poi.v1 import audit_pb2

from mesh.audit import chain
from mesh.audit.chain import Entry
from mesh.errors import OutOfRange
from mesh.redis import Redis

_MOST_FAULTS = 100

GAP = audit_pb2.CHAIN_FAULT_KIND_GAP
CHANGED = audit_pb2.CHAIN_FAULT_KIND_CHANGED
BROKEN_LINK = audit_pb2.CHAIN_FAULT_KIND_BROKEN_LINK
WRONG_END = audit_pb2.CHAIN_FAULT_KIND_WRONG_END
WRONG_BEGINNING = audit_pb2.CHAIN_FAULT_KIND_WRONG_BEGINNING
KNOWN_DIFFERS = audit_pb2.CHAIN_FAULT_KIND_KNOWN_DIFFERS
WENT_BACK = audit_pb2.CHAIN_FAULT_KIND_WENT_BACK


_TRIES = 3


async def verify(redis: Redis, store: str, known_sequence: int = 0, known_hash: str = "") -> Verifier:
    """What is found in the chain of a store. Records that are added meanwhile are verified as well.

    Raises OutOfRange when the known record was trimmed, so that nothing can be said of it.
    """
    for _ in range(_TRIES):
        verifier = Verifier(store, known_sequence, known_hash)
        head = await _read(redis, store, verifier)
        if not verifier.overtaken:
            break
    verifier.finish(head)
    return verifier


async def _read(redis: Redis, store: str, verifier: Verifier) -> chain.End:
    while True:
        async for page in chain.oldest_first(redis, store, verifier.last_sequence):
            for entry in page:
                verifier.take(entry)
        head = await chain.end_after(redis, store, verifier.last_sequence)
        if head is not None:
            return head


class Verifier:
    """Takes the entries of a chain in order, then its end; `faults` is what is wrong."""

    def __init__(self, store: str, known_sequence: int = 0, known_hash: str = "") -> None:
        self._store = store
        self._known_sequence, self._known_hash = known_sequence, known_hash
        self._known_met = not known_sequence
        self._last: Entry | None = None
        self._first: Entry | None = None
        self._trimmed: dict[int, str] = {}
        self.count = 0
        self.fault_count = 0
        self.faults: list[audit_pb2.ChainFault] = []

    @property
    def first_sequence(self) -> int:
        """Of the oldest record; 0 where there is none."""
        return self._first.sequence if self._first else 0

    @property
    def last_sequence(self) -> int:
        """Of the newest record so far; 0 where there is none."""
        return self._last.sequence if self._last else 0

    @property
    def last_hash(self) -> str:
        """Of the newest record so far, in hex."""
        return self._last.hash.hex() if self._last else ""

    @property
    def overtaken(self) -> bool:
        """Whether records were trimmed while they were read: begin again."""
        return max(self._trimmed, default=0) >= self.first_sequence > 0

    def take(self, entry: Entry) -> None:
        """The next entry."""
        self.count += 1
        before, self._last = self._last, entry
        if before is None:
            self._first = entry
        elif entry.sequence != before.sequence + 1:
            missing = entry.sequence - before.sequence - 1
            self._say(GAP, before.sequence + 1, entry.sequence - 1, f"{missing} record(s) are missing")
        elif entry.previous != before.hash:
            self._say(BROKEN_LINK, entry.sequence, entry.sequence, "does not follow the record before it")
        if chain.link(entry.previous, entry.content) != entry.hash:
            self._say(CHANGED, entry.sequence, entry.sequence, "is not what was written: its hash is another")
        if entry.sequence == self._known_sequence:
            self._meet(entry.hash.hex())
        self._read(entry)

    def finish(self, head: chain.End) -> None:
        """The end that the chain is said to have."""
        if self._first is not None:
            self._check_beginning(self._first)
        last = chain.End(self.last_sequence, self._last.hash if self._last else b"")
        if head.sequence > last.sequence:
            missing = f"the chain was to end with record {head.sequence}"
            self._say(WRONG_END, last.sequence + 1, head.sequence, f"the last record(s) are missing: {missing}")
        elif head != last:
            self._say(WRONG_END, last.sequence, last.sequence, "the end of the chain is not where it was said to be")
        if self._known_met:
            return
        if self._known_sequence > last.sequence:
            self._say(KNOWN_DIFFERS, self._known_sequence, self._known_sequence, "is gone: the chain ends before it")
        elif self._known_sequence in self._trimmed:
            self._meet(self._trimmed[self._known_sequence])
        elif self._known_sequence < self.first_sequence:
            raise OutOfRange(
                f"record {self._known_sequence} was trimmed: the oldest one is {self.first_sequence}",
                reason="RECORD_TRIMMED",
            )

    def _read(self, entry: Entry) -> None:
        try:
            record = entry.record(self._store)
        except DecodeError:
            self._say(CHANGED, entry.sequence, entry.sequence, "is no record")
            return
        if record.sequence != entry.sequence:
            self._say(CHANGED, entry.sequence, entry.sequence, f"says that it is record {record.sequence}")
        through = record.details.get(chain.THROUGH, "")
        if record.action == chain.TRIMMED and through.isdecimal():
            self._trimmed[int(through)] = record.details[chain.THROUGH_HASH]
        elif record.action == chain.WENT_BACK:
            why = f"a server had written up to record {through}, and found the chain to go on without it"
            self._say(WENT_BACK, entry.sequence, entry.sequence, why)

    def _check_beginning(self, first: Entry) -> None:
        if first.sequence == 1:
            if first.previous != chain.genesis(self._store):
                self._say(WRONG_BEGINNING, 1, 1, "is not the first record of this store")
        elif self._trimmed.get(first.sequence - 1) != first.previous.hex():
            self._say(WRONG_BEGINNING, 1, first.sequence - 1, "are gone, and no record says that they were trimmed")

    def _meet(self, digest: str) -> None:
        self._known_met = True
        if digest != self._known_hash:
            at = self._known_sequence
            self._say(KNOWN_DIFFERS, at, at, "is not the record that was known from earlier")

    def _say(self, kind: audit_pb2.ChainFaultKind.ValueType, first: int, last: int, why: str) -> None:
        self.fault_count += 1
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(
                audit_pb2.ChainFault(kind=kind, first_sequence=first, last_sequence=last, description=why)
            )
