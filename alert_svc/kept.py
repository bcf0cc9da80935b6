"""How alerts, their log and reports of matches lie in Redis: sealed with the key of their store, where there is one.

They hold people's display names, and what operators wrote about them. What was written before there was a vault is read
as it is, and sealed beside the work (`alert_svc.resealing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import structlog
from poi.v1 import alert_pb2

from alert_svc.feedback import reports
from mesh.vault import PLAIN, Box, Unopenable

_log = structlog.get_logger(__name__)
_ALERT: Final = b"alert"
CONTEXT: Final = b"alert"
"""What alerts are sealed for. Their log does not know beforehand which alert an entry has: whoever asks for one by its
name compares that."""


class Change(NamedTuple):
    """An entry of the log: where it stands, what happened, and the Alert after it as bytes."""

    cursor: str
    event: int
    snapshot: bytes


class Kept:
    """Reads raise mesh.vault.Unopenable (DATA_LOSS), writes mesh.vault.VaultUnusable."""

    def __init__(self, box: Box = PLAIN) -> None:
        self._box = box

    def seal(self, store_id: str, alert: alert_pb2.Alert) -> bytes:
        """An alert as it is kept: another time other bytes."""
        return self._box.seal(store_id, alert.SerializeToString(), CONTEXT)

    def alert(self, store_id: str, kept: bytes, name: str = "") -> alert_pb2.Alert:
        """The alert that is kept; where a `name` is given, the one of that name."""
        alert = alert_pb2.Alert.FromString(self._box.open(store_id, kept, CONTEXT))
        if name and alert.name != name:
            raise Unopenable(f"what is kept as {name} is another alert")
        return alert

    def readable(self, store_id: str, kept: bytes) -> alert_pb2.Alert | None:
        """The same for who has others to see to: None, and a line of the log, for one that cannot be opened."""
        try:
            return self.alert(store_id, kept)
        except Unopenable as error:
            _log.error("alert_unreadable", store=store_id, why=error.message)
            return None

    def entry(self, store_id: str, fields: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """The fields of an entry of the log with the alert opened; without it where it cannot be."""
        opened = dict(fields)
        try:
            if opened.get(_ALERT):
                opened[_ALERT] = self._box.open(store_id, opened[_ALERT], CONTEXT)
        except Unopenable as error:
            _log.error("log_entry_unreadable", store=store_id, why=error.message)
            del opened[_ALERT]
        return opened

    def change(self, store_id: str, entry_id: str, fields: Mapping[bytes, bytes]) -> Change | None:
        """An entry of the log as Redis gives it; None for one without an alert, or whose alert cannot be opened."""
        opened = self.entry(store_id, fields)
        return read_entry(entry_id, opened) if opened.get(_ALERT) else None

    def seal_report(self, store_id: str, pair: str, report: reports.Report) -> bytes:
        """The record of a report: what the scripts read of it is not sealed."""
        record = reports.packed(report)
        head, content = record[: reports.HEAD], record[reports.HEAD :]
        return head + self._box.seal(store_id, content, report_context(pair))

    def report(self, store_id: str, pair: str, record: bytes) -> reports.Report:
        """The report of a record."""
        head, content = record[: reports.HEAD], record[reports.HEAD :]
        return reports.unpacked(head + self._box.open(store_id, content, report_context(pair)))


def report_context(pair: str) -> bytes:
    """What a report is sealed for: its place."""
    return b"report/" + pair.encode()


def read_entry(entry_id: str, fields: Mapping[bytes, bytes]) -> Change:
    """An entry of the log, as Redis gives it, opened."""
    return Change(entry_id, int(fields[b"event"]), fields[_ALERT])
