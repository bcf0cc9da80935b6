"""What the region service can be told."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from history_svc.region.tracker import Rules
from mesh.settings import HostPort, RedisUrl, ServerSettings


class RegionSettings(ServerSettings):
    """Settings of history_svc.region, in POI_REGION_<NAME> or POI_<NAME>."""

    service: ClassVar[str] = "region"

    listen: HostPort = "127.0.0.1:7004"
    """Address of the gRPC server."""
    metrics_listen: str = "127.0.0.1:9004"
    """Address of the Prometheus endpoint (`/metrics`); empty switches it off."""
    redis_url: RedisUrl = "redis://127.0.0.1:6379/0"
    """Where scenes, visits and their events are kept."""
    gap_seconds: Annotated[float, Field(gt=0, le=3600)] = 3.0
    """Who is missing from a scene's updates for so long left at the last sight; who is back sooner never left."""
    silence_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 10.0
    """A scene without updates for so long has nobody in it any more. More than the gap, and than its updates pause."""
    entered_max_seconds: Annotated[float, Field(ge=0, le=86_400)] = 3600.0
    """How far back an entry that the scene controller claims may lie; older claims are not believed."""
    max_ahead_seconds: Annotated[float, Field(ge=0, le=86_400)] = 3600.0
    """Updates from further in the future are refused: a wrong clock must not make all later updates look old."""
    retention_days: Annotated[float, Field(gt=0, le=366)] = 7.0
    """How long visits are kept after they closed, and their events."""
    max_events: Annotated[int, Field(ge=1000, le=10_000_000)] = 200_000
    """How many events a store's log keeps at most; about 400 bytes each."""
    heartbeat_seconds: Annotated[float, Field(gt=0, le=60)] = 5.0
    """WatchVisits says that it is alive after so many quiet seconds."""

    @property
    def rules(self) -> Rules:
        """The spans that decide about visits."""
        return Rules(
            gap=round(self.gap_seconds * 1000),
            silence=round(self.silence_seconds * 1000),
            entered_age=round(self.entered_max_seconds * 1000),
        )
