"""Puts delivery together from the settings of the alert service."""

from __future__ import annotations

import ssl
from functools import partial
from typing import TYPE_CHECKING, Final

from poi.v1 import delivery_pb2_grpc

from alert_svc.delivery import webhook
from alert_svc.delivery.addresses import Guard
from alert_svc.delivery.manager import Manager
from alert_svc.delivery.pace import Limits
from alert_svc.delivery.senders import Senders
from alert_svc.delivery.service import SERVICE, DeliveryServicer
from alert_svc.delivery.store import TargetStore
from alert_svc.delivery.websocket import WebSocketServer
from alert_svc.delivery.worker import Parts
from alert_svc.log import AlertLog
from alert_svc.resealing import keep_logs_sealed, sealed_hashes
from alert_svc.settings import AlertSettings
from mesh.aio import Background
from mesh.audit import recorder
from mesh.redis import Redis
from mesh.server import Server
from mesh.settings import program_name, refuse
from mesh.vault import Box, Vault
from mesh.vault.resealing import SealedHash, keep_sealed

if TYPE_CHECKING:
    from alert_svc.delivery.entrance import Entrance

_DAY_SECONDS: Final = 86_400


async def add(
    server: Server, settings: AlertSettings, redis: Redis, log: AlertLog, box: Box
) -> tuple[TargetStore, Senders]:
    """Lets the server deliver, and serve DeliveryService. Ends the process where a setting cannot be used."""
    store = TargetStore(
        redis,
        retention_days=settings.retention_days,
        keep=settings.delivery_keep,
        heartbeat=settings.heartbeat_seconds,
        box=box,
    )
    limits = Limits(
        timeout=settings.delivery_timeout_seconds,
        first_backoff=settings.delivery_backoff_seconds,
        max_backoff=settings.delivery_max_backoff_seconds,
        breaker_failures=settings.delivery_breaker_failures,
        breaker_seconds=settings.delivery_breaker_seconds,
        give_up=settings.delivery_give_up_hours * 3600,
        max_attempts=settings.delivery_max_attempts,
    )
    parts = Parts(store, log, limits, settings.delivery_lease_seconds)
    guard = Guard(settings.delivery_allow_networks)
    ca_file = settings.delivery_ca_file
    try:
        tls = webhook.tls_context(str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError) as error:
        refuse(program_name(type(settings)), f"delivery_ca_file: {ca_file}: {error}")
    retention_seconds = settings.retention_days * _DAY_SECONDS
    senders = Senders(guard, tls, settings.mqtt_url, settings.delivery_timeout_seconds, retention_seconds)
    websocket = None
    if settings.websocket_listen:
        websocket = WebSocketServer(
            settings.websocket_listen,
            settings.websocket_origins,
            store,
            parts,
            tls=_certificate(settings),
            entrance=_entrance(server, settings),
        )
        try:
            await websocket.start()
        except OSError as error:
            refuse(program_name(type(settings)), f"websocket_listen: {settings.websocket_listen}: {error.strerror}")
        server.on_stop(websocket.close)
    if isinstance(box, Vault):
        background = Background()

        async def hashes() -> list[SealedHash]:
            return [*await store.sealed_hashes(), *await sealed_hashes(redis)]

        server.on_start(partial(background.start, "reseal", partial(keep_sealed, redis, box, hashes)))
        server.on_start(partial(background.start, "reseal logs", partial(keep_logs_sealed, redis, box)))
        server.on_stop(background.close)
    manager = Manager(parts, senders, websocket)
    server.on_start(manager.start)
    server.on_stop(manager.close)
    servicer = DeliveryServicer(store, log, guard, senders, websocket, limits)
    server.add(delivery_pb2_grpc.add_DeliveryServiceServicer_to_server, servicer, SERVICE)
    return store, senders


def _certificate(settings: AlertSettings) -> ssl.SSLContext | None:
    if settings.tls is None:
        return None
    from mesh.tls import TlsError, server_context  # with the library that reads certificates

    try:
        return server_context(settings.tls)
    except TlsError as error:
        refuse(program_name(type(settings)), f"POI_ALERT_TLS: {error}")


def _entrance(server: Server, settings: AlertSettings) -> Entrance | None:
    if settings.auth != "required":
        return None
    from alert_svc.delivery.entrance import Entrance  # with the library that checks signatures
    from mesh.auth import Door, Refusals, tokens_of

    refusals = Refusals(recorder.record_refusal) if settings.audit_redis_url else None
    entrance = Entrance(Door(tokens_of(settings), on_refusal=refusals.tell if refusals else None))
    if refusals is not None:
        server.on_stop(refusals.close)
    server.on_stop(entrance.close)
    return entrance
