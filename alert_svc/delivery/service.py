"""poi.v1.DeliveryService: translates between the contract and the targets."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.empty_pb2 import Empty
from poi.v1 import delivery_pb2, delivery_pb2_grpc

from alert_svc.alerts import in_store
from alert_svc.delivery import targets
from alert_svc.delivery.addresses import Guard
from alert_svc.delivery.pace import Limits
from alert_svc.delivery.sender import Failed, Message
from alert_svc.delivery.senders import Senders
from alert_svc.delivery.store import TargetStore, cursor_of, is_after
from alert_svc.delivery.websocket import WebSocketServer
from alert_svc.log import AlertLog
from alert_svc.times import now
from mesh import names, pages
from mesh.errors import Aborted, FailedPrecondition, InvalidArgument

SERVICE: Final = "poi.v1.DeliveryService"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in its stubs only

_PAGE: Final = 256
_MAX_SCANNED: Final = 5_000


class DeliveryServicer(delivery_pb2_grpc.DeliveryServiceServicer):
    """The contract's methods."""

    def __init__(
        self,
        store: TargetStore,
        log: AlertLog,
        guard: Guard,
        senders: Senders,
        websocket: WebSocketServer | None,
        limits: Limits,
    ) -> None:
        """`websocket`: None where this server has no WebSocket port."""
        self._store, self._log, self._guard, self._senders = store, log, guard, senders
        self._websocket, self._limits = websocket, limits

    async def CreateTarget(self, request: delivery_pb2.CreateTargetRequest, context: Context) -> delivery_pb2.Target:
        """Begins at the log's end."""
        (store_id,) = names.parse_store(request.parent)
        name = names.target(store_id, request.target_id or uuid.uuid4().hex[:12])
        target = targets.created(request.target, name, now(), self._guard)
        if target.HasField("websocket") and self._websocket is None:
            raise FailedPrecondition(
                "this server has no WebSocket port (POI_ALERT_WEBSOCKET_LISTEN)", reason="WEBSOCKET_OFF"
            )
        await self._store.create(target, await self._log.position(store_id))
        return await self._shown(target)

    async def GetTarget(self, request: delivery_pb2.GetTargetRequest, context: Context) -> delivery_pb2.Target:
        """One target."""
        return await self._shown(await self._store.get(request.name))

    async def ListTargets(
        self, request: delivery_pb2.ListTargetsRequest, context: Context
    ) -> delivery_pb2.ListTargetsResponse:
        """A page of targets, by id."""
        (store_id,) = names.parse_store(request.parent)
        after = pages.decode(request.page_token, request, after=pages.text).get("after", "")
        limit = pages.clamp(request.page_size, 50, 1000)
        left = [target for target in await self._store.of_store(store_id) if target.name > after]
        left.sort(key=lambda target: target.name)
        response = delivery_pb2.ListTargetsResponse()
        response.targets.extend([await self._shown(target) for target in left[:limit]])
        if len(left) > limit:
            response.next_page_token = pages.encode({"after": left[limit - 1].name}, request)
        return response

    async def UpdateTarget(self, request: delivery_pb2.UpdateTargetRequest, context: Context) -> delivery_pb2.Target:
        """Changes what the mask says."""
        before = await self._store.get(request.target.name)
        _check_etag(before, request.target.etag)
        after = targets.changed(before, request.target, request.update_mask, now(), self._guard)
        cursor = ""
        if after.enabled and not before.enabled:
            cursor = await self._log.position(names.parse_target(before.name)[0])
        await self._store.change(before, after, cursor)
        return await self._shown(after)

    async def DeleteTarget(self, request: delivery_pb2.DeleteTargetRequest, context: Context) -> Empty:
        """Removes it."""
        target = await self._store.get(request.name)
        _check_etag(target, request.etag)
        await self._store.delete(target)
        return Empty()

    async def TestTarget(
        self, request: delivery_pb2.TestTargetRequest, context: Context
    ) -> delivery_pb2.TestTargetResponse:
        """Sends a test message from this server, past the queue."""
        target = await self._store.get(request.name)
        message, started = Message.test(target.name), time.perf_counter()
        response = delivery_pb2.TestTargetResponse(delivered=True)
        try:
            async with asyncio.timeout(self._limits.timeout):
                await self._send(target, message)
        except Failed as error:
            response.delivered, response.error = False, str(error)
        except TimeoutError:
            response.delivered, response.error = False, f"no answer within {self._limits.timeout:g} s"
        response.latency.FromNanoseconds(round((time.perf_counter() - started) * 1e9))
        if response.delivered:
            await self._store.announce(target.name, works=True)
        return response

    async def ListDeliveries(
        self, request: delivery_pb2.ListDeliveriesRequest, context: Context
    ) -> delivery_pb2.ListDeliveriesResponse:
        """A page of deliveries, newest first."""
        target = await self._store.get(_parent(request.parent))
        if request.alert:
            in_store(names.parse_alert, request.alert, "alert", names.parse_target(target.name)[0])
        limit = pages.clamp(request.page_size, 50, 1000)
        before = pages.decode(request.page_token, request, before=pages.text).get("before", "")
        response, scanned = delivery_pb2.ListDeliveriesResponse(), 0
        dead_only = request.state == delivery_pb2.DELIVERY_STATE_DEAD
        while scanned < _MAX_SCANNED:
            page = await self._store.deliveries(
                target.name, before, _PAGE, dead_only=dead_only, dead=not request.state or dead_only
            )
            for delivery in page:
                if len(response.deliveries) == limit:
                    response.next_page_token = pages.encode({"before": before}, request)
                    return response
                before = names.parse_delivery(delivery.name)[2]
                if request.state in (0, delivery.state) and request.alert in ("", delivery.alert):
                    response.deliveries.append(delivery)
            if len(page) < _PAGE:
                return response
            scanned += len(page)
        response.next_page_token = pages.encode({"before": before}, request)
        return response

    async def ReplayDeliveries(
        self, request: delivery_pb2.ReplayDeliveriesRequest, context: Context
    ) -> delivery_pb2.ReplayDeliveriesResponse:
        """Takes dead letters back into delivery."""
        target = await self._store.get(_parent(request.parent))
        oldest = await self._log.since(names.parse_target(target.name)[0], 0)
        response = delivery_pb2.ReplayDeliveriesResponse()
        if request.deliveries:
            named = await self._named(target.name, request.deliveries, oldest)
            response.replayed_count = await self._store.replay(target.name, named)
            return response
        before = ""
        while page := await self._store.deliveries(target.name, before, _PAGE, dead_only=True):
            before = names.parse_delivery(page[-1].name)[2]
            kept = [delivery for delivery in page if is_after(_cursor(delivery), oldest)]
            response.replayed_count += await self._store.replay(target.name, kept)
        return response

    async def _named(self, target: str, wanted: Any, oldest: str) -> list[delivery_pb2.Delivery]:
        found: list[delivery_pb2.Delivery] = []
        for index, name in enumerate(wanted):
            field = f"deliveries[{index}]"
            store_id, target_id, _ = names.parse_delivery(name, field)
            if names.target(store_id, target_id) != target:
                raise InvalidArgument(violations=[(field, f"is not of {target}")], reason="WRONG_TARGET")
            delivery = await self._store.record(name)
            if delivery is None or delivery.state != delivery_pb2.DELIVERY_STATE_DEAD:
                raise FailedPrecondition(f"{name} is not a dead letter", reason="NOT_DEAD", metadata={"name": name})
            if not is_after(_cursor(delivery), oldest):
                raise FailedPrecondition(
                    "the log does not hold the alert any more", reason="DELIVERY_EXPIRED", metadata={"name": name}
                )
            found.append(delivery)
        return found

    async def _send(self, target: delivery_pb2.Target, message: Message) -> None:
        sender = self._senders.make(target)
        if sender is not None:
            try:
                await sender.send(message)
            finally:
                await sender.close()
        elif self._websocket is None:
            raise Failed("this server has no WebSocket port")
        else:
            await self._websocket.test(message, target.name)

    async def _shown(self, target: delivery_pb2.Target) -> delivery_pb2.Target:
        progress = await self._store.progress(target.name)
        status = delivery_pb2.TargetStatus(
            state=delivery_pb2.TARGET_STATE_ACTIVE,
            consecutive_failures=progress.failures,
            last_error=progress.error,
            cursor=progress.cursor,
            dead_letter_count=progress.dead,
        )
        if progress.failures:
            broken = progress.failures >= self._limits.breaker_failures
            status.state = delivery_pb2.TARGET_STATE_BROKEN if broken else delivery_pb2.TARGET_STATE_FAILING
        if progress.success_ms:
            status.last_success_time.FromMilliseconds(progress.success_ms)
        return targets.shown(target, status)


def _check_etag(target: delivery_pb2.Target, etag: str) -> None:
    if etag and etag != target.etag:
        raise Aborted(
            "the target has changed: read it again",
            reason="ETAG_MISMATCH",
            metadata={"name": target.name, "etag": target.etag},
        )


def _parent(name: str) -> str:
    return names.target(*names.parse_target(name, "parent"))


def _cursor(delivery: delivery_pb2.Delivery) -> str:
    return cursor_of(names.parse_delivery(delivery.name)[2])
