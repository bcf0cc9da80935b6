"""What alerts keep of a person, as it is now: one look at all alerts, reports and log entries of a store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

from poi.v1 import alert_pb2, erasure_pb2

from alert_svc.alerts import alert_id
from alert_svc.erasing import rewriting
from alert_svc.feedback import reports
from alert_svc.kept import Kept
from alert_svc.keys import key, log_key
from alert_svc.triage import FALSE_MATCH
from mesh import names
from mesh.redis import Redis

_PAGE: Final = 1000


class Who:
    """The person, as alerts may name them."""

    def __init__(self, subject: erasure_pb2.TraceSubject) -> None:
        self.poi, self.appearances = subject.poi, frozenset(subject.appearances)
        self.frames = frozenset(subject.frames)

    def owns(self, alert: alert_pb2.Alert) -> bool:
        """Whether the alert is of them: raised for them, or for somebody they were taken for."""
        return alert.match.poi == self.poi != "" or alert.appearance in self.appearances

    def is_named(self, alert: alert_pb2.Alert) -> bool:
        """Whether somebody else's alert names them as its runner-up."""
        return self.poi != "" and any(each.poi == self.poi for each in alert.runners_up)

    def is_pictured(self, alert: alert_pb2.Alert) -> bool:
        """Whether the pictures of somebody else's alert show them."""
        return alert.HasField("evidence") and not self.frames.isdisjoint((alert.evidence.frame, alert.evidence.picture))

    def without(self, alert: alert_pb2.Alert) -> alert_pb2.Alert:
        """Somebody else's alert, which says nothing of them."""
        kept = alert_pb2.Alert()
        kept.CopyFrom(alert)
        del kept.runners_up[:]
        kept.runners_up.extend(each for each in alert.runners_up if each.poi != self.poi or not self.poi)
        if self.is_pictured(alert):
            kept.ClearField("evidence")
        return kept

    def edited(self, store_id: str, kept: Kept, fields: rewriting.Fields) -> rewriting.Fields | None:
        """What becomes of an entry of the log."""
        change = kept.change(store_id, "", fields)
        if change is None:
            return fields
        alert = alert_pb2.Alert.FromString(change.snapshot)
        if self.owns(alert):
            return None
        if self.is_named(alert) or self.is_pictured(alert):
            return {**fields, b"alert": kept.seal(store_id, self.without(alert))}
        return fields


@dataclass(slots=True)
class Found:
    """All of it."""

    own: dict[str, bytes] = field(default_factory=dict)
    """Their alerts by id, as they are kept."""
    alerts: list[alert_pb2.Alert] = field(default_factory=list)
    """The same."""
    others: list[tuple[bytes, alert_pb2.Alert]] = field(default_factory=list)
    """Alerts of others that name or show them, as they are kept and opened."""
    entries: int = 0
    """Entries of the log."""
    reports: list[tuple[str, bytes]] = field(default_factory=list)
    """(id, record)"""
    added: list[bytes] = field(default_factory=list)
    """Keys of notes of appearances that their alerts took in."""
    ids: set[str] = field(default_factory=set)
    """Of the alerts that they have, or may have had."""

    @property
    def names(self) -> frozenset[str]:
        """Of these alerts."""
        return frozenset(alert.name for alert in self.alerts)

    def known(self, who: Who) -> erasure_pb2.TraceSubject:
        """What these alerts say of the person."""
        of_person = [alert for alert in self.alerts if alert.match.poi == who.poi != ""]
        shown = [alert for _, alert in self.others]
        pictures = {alert.evidence.picture for alert in (*of_person, *filter(who.is_pictured, shown))}
        return erasure_pb2.TraceSubject(
            references=sorted({alert.match.reference for alert in of_person} - {""}),
            appearances=sorted({alert.appearance for alert in of_person if alert.state != FALSE_MATCH}),
            frames=sorted(pictures - {""}),
        )


async def look(redis: Redis, store_id: str, who: Who, kept: Kept) -> Found:
    """Finds it: about 20 us an alert or entry. Raises mesh.vault.Unopenable, too."""
    found = Found()
    async for raw, snapshot in _items(redis, key(store_id)):
        alert = kept.alert(store_id, snapshot)
        if who.owns(alert):
            found.own[raw.decode("ascii")] = snapshot
            found.alerts.append(alert)
        elif who.is_named(alert) or who.is_pictured(alert):
            found.others.append((snapshot, alert))
    found.ids = set(found.own)
    if who.poi:
        found.ids |= {alert_id(who.poi, appearance) for appearance in who.appearances}

    def see(fields: rewriting.Fields) -> None:
        found.entries += who.edited(store_id, kept, fields) is not fields

    await rewriting.scan(redis, log_key(store_id), see)
    async for raw, record in _items(redis, reports.key(store_id)):
        report = kept.report(store_id, raw.decode("ascii"), record)
        if report.poi == who.poi != "" or report.appearance in who.appearances:
            found.reports.append((raw.decode("ascii"), record))
    async for note in redis.scan_iter(match=key(store_id, "added:*"), count=_PAGE):
        holder: Any = await redis.get(note)
        if holder is not None and holder.decode("ascii") in found.ids:
            found.added.append(note)
    return found


def window_of(store_id: str, poi: str) -> str:
    """The key of the person's windows."""
    return key(store_id, f"window:{names.parse_poi(poi)[1]}")


async def _items(redis: Redis, hash_key: str) -> AsyncIterator[tuple[bytes, bytes]]:
    async for raw, value in redis.hscan_iter(hash_key, count=_PAGE):
        yield raw, value
