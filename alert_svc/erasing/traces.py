"""Finds and erases what the alert service keeps of a person: `mesh.traces.Keeper`.

In an order that a crash may cut off anywhere: what is found through the alerts themselves goes before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final

from poi.v1 import alert_pb2, delivery_pb2, erasure_pb2

from alert_svc.delivery.mqtt import MqttSender
from alert_svc.delivery.sender import Failed
from alert_svc.delivery.senders import Senders
from alert_svc.delivery.store import TargetStore
from alert_svc.erasing import naming, rewriting, tombstones
from alert_svc.erasing.found import Found, Who, look, window_of
from alert_svc.export.records import ExportRecords
from alert_svc.feedback import reports
from alert_svc.keys import key, log_key
from alert_svc.log import AlertLog
from alert_svc.times import now, ns, time_key
from mesh import names, traces
from mesh.errors import Aborted
from mesh.redis import Redis

_ERASED: Final = alert_pb2.ALERT_EVENT_ERASED
_DELIVERED: Final = delivery_pb2.DELIVERY_STATE_DELIVERED


class AlertTraces:
    """See the module."""

    def __init__(
        self, redis: Redis, log: AlertLog, targets: TargetStore, senders: Senders, exports: ExportRecords
    ) -> None:
        self._redis, self._log, self._targets = redis, log, targets
        self._senders, self._exports = senders, exports

    async def find(self, store: str, request: erasure_pb2.FindTracesRequest) -> erasure_pb2.FindTracesResponse:
        """See Keeper."""
        who = _who(store, request.subject)
        found = await look(self._redis, store, who, self._log.kept)
        targets = await self._targets.of_store(store)
        deliveries = {each.name: await self._targets.of_alerts(each.name, _names(store, found)) for each in targets}
        window = bool(who.poi) and await self._redis.exists(window_of(store, who.poi))
        counts = {
            "alerts": len(found.own),
            "alerts of others that name or show the person": len(found.others),
            "log entries": found.entries,
            "reports of matches": len(found.reports),
            "notes of repeats": len(found.added) + int(window),
            "deliveries and dead letters": sum(map(len, deliveries.values())),
            "retained MQTT messages": len(_retaining(targets)) if who.poi and found.own else 0,
            "rules and filters": await self._rules(store, who, targets),
            "pictures under way": await self._under_way(store, found),
        }
        told = [
            erasure_pb2.Remainder(
                kind=f"alerts delivered to {names.parse_target(name)[1]}",
                count=sum(each.state == _DELIVERED for each in sent),
                reason="copies of the receiver, who is told that they are erased and must remove them",
            )
            for name, sent in deliveries.items()
            if any(each.state == _DELIVERED for each in sent)
        ]
        handed_out = [one for alert in found.alerts for one in await self._handed_out(alert)]
        return traces.found(counts, names_of=found.names, remainders=[*handed_out, *told], subject=found.known(who))

    async def erase(self, store: str, subject: erasure_pb2.TraceSubject, erasure: str) -> list[str]:
        """See Keeper."""
        who = _who(store, subject)
        await tombstones.bury(self._redis, store, subject.references)
        obstacles = await self._leave_out(store, who)
        found = await look(self._redis, store, who, self._log.kept)
        if found.entries or found.own:
            kept = self._log.kept
            told = [kept.seal(store, alert_pb2.Alert(name=alert.name, update_time=now())) for alert in found.alerts]
            edit = partial(who.edited, store, kept)
            await rewriting.rewrite(self._redis, log_key(store), edit, int(_ERASED), told)
        targets = await self._targets.of_store(store)
        for target in targets:
            await self._targets.drop(target.name, await self._targets.of_alerts(target.name, _names(store, found)))
        obstacles += await self._clear_retained(store, who, targets)
        await self._remove(store, who, found)
        if await self._under_way(store, found):
            obstacles.append("a picture of an alert is being made")
        return obstacles

    async def _leave_out(self, store: str, who: Who) -> list[str]:
        """Takes the person out of what is others'."""
        obstacles = []
        for before, alert in (await look(self._redis, store, who, self._log.kept)).others:
            if not await self._log.rewrite_alert(before, who.without(alert)):
                obstacles.append("an alert that names the person was changed at the same time")
        if who.poi:
            await naming.out_of_rules(self._redis, store, who.poi)
            for target in await self._targets.of_store(store):
                try:
                    if who.poi in target.filter.pois:
                        await naming.out_of_filter(self._targets, target, who.poi)
                except Aborted:
                    obstacles.append("a target that names the person was changed at the same time")
        return obstacles

    async def _clear_retained(self, store: str, who: Who, targets: Sequence[delivery_pb2.Target]) -> list[str]:
        if not who.poi:
            return []
        obstacles = []
        for target in _retaining(targets):
            sender = self._senders.make(target)
            assert isinstance(sender, MqttSender)
            async with aclosing(_Closing(sender)):
                try:
                    await sender.clear(names.parse_poi(who.poi)[1])
                except (Failed, TimeoutError, OSError) as error:
                    target_id = names.parse_target(target.name)[1]
                    obstacles.append(f"the broker of target {target_id} may retain the person's last alert: {error}")
        return obstacles

    async def _remove(self, store: str, who: Who, found: Found) -> None:
        # The maker of pictures takes out what it has begun.
        begun = await self._begun(store)
        async with self._redis.pipeline(transaction=True) as pipe:
            for pair, record in found.reports:
                pipe.hdel(reports.key(store), pair)
                pipe.zrem(reports.index_key(store), record[:16] + pair.encode("ascii"))
            if found.added:
                pipe.delete(*found.added)
            if who.poi:
                pipe.delete(window_of(store, who.poi))
            for alert in found.alerts:
                own = names.parse_alert(alert.name)[1]
                pipe.delete(key(store, f"exports:{own}"))
                if own not in begun:
                    pipe.zrem(f"poi:{{{store}}}:evidence/due", own)
                pipe.zrem(key(store, "due"), own)
                pipe.zrem(key(store, "index"), time_key(ns(alert.create_time)) + own)
                pipe.hdel(key(store), own)
            await pipe.execute()

    async def _rules(self, store: str, who: Who, targets: Sequence[delivery_pb2.Target]) -> int:
        if not who.poi:
            return 0
        return await naming.in_rules(self._redis, store, who.poi) + sum(
            who.poi in target.filter.pois for target in targets
        )

    async def _under_way(self, store: str, found: Found) -> int:
        """Pictures of their alerts that were begun, and not given up: these might still be handed to history."""
        return len(await self._begun(store) & found.ids)

    async def _begun(self, store: str) -> set[str]:
        begun: Any = self._redis.hkeys(f"poi:{{{store}}}:evidence/tries")
        return {raw.decode("ascii") for raw in await begun}

    async def _handed_out(self, alert: alert_pb2.Alert) -> list[erasure_pb2.Remainder]:
        return [
            erasure_pb2.Remainder(
                kind="case file that was exported",
                count=1,
                reason="handed out before: it is for whoever has it to destroy it",
                detail=f"export {one.export} by {one.actor} at {one.time}: {one.purpose}",
            )
            for one in await self._exports.of(alert.name)
        ]


class _Closing:
    """A sender as `contextlib.aclosing` wants it."""

    def __init__(self, sender: MqttSender) -> None:
        self.aclose = sender.close


def _who(store: str, subject: erasure_pb2.TraceSubject) -> Who:
    own = erasure_pb2.TraceSubject()
    own.CopyFrom(subject)
    if own.poi and names.parse_poi(own.poi, "subject.poi")[0] != store:
        own.poi = ""
    return Who(own)


def _names(store: str, found: Found) -> frozenset[str]:
    return frozenset(names.alert(store, one) for one in found.ids)


def _retaining(targets: Sequence[delivery_pb2.Target]) -> list[delivery_pb2.Target]:
    """Those that leave the last state of each person at their broker."""
    return [target for target in targets if target.HasField("mqtt") and target.mqtt.retain_last_state]
