"""Puts the maker of pictures together from the settings of the alert service."""

from __future__ import annotations

from alert_svc.evidence.sources import Sources
from alert_svc.evidence.store import WaitingAlerts
from alert_svc.evidence.worker import PictureMaker
from alert_svc.log import AlertLog
from alert_svc.settings import AlertSettings
from mesh import channels
from mesh.aio import Background
from mesh.redis import Redis
from mesh.server import Server


def add(server: Server, settings: AlertSettings, redis: Redis, log: AlertLog) -> Sources:
    """Lets the server make pictures, unless the settings say no. Returns where they come from."""
    history, match = (channels.to_service(settings, name) for name in ("history", "match"))
    for channel in (history, match):
        server.on_stop(channel.close)
    sources = Sources(history, match)
    if settings.evidence:
        maker = PictureMaker(
            WaitingAlerts(redis, settings.store, log.kept),
            log,
            sources,
            settings.store,
            lease_seconds=settings.delivery_lease_seconds,
            wait=settings.evidence_wait_seconds,
        )
        background = Background()
        server.on_start(lambda: background.start("pictures", maker.run))
        server.on_stop(maker.close)
        server.on_stop(background.close)
    return sources
