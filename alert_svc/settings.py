"""What the alert service can be told."""

from typing import Annotated, ClassVar

from pydantic import Field

from mesh.settings import HostPort, RedisUrl, ServerSettings


class AlertSettings(ServerSettings):
    """Settings of alert_svc, in POI_ALERT_<NAME> or POI_<NAME>."""

    service: ClassVar[str] = "alert"

    listen: HostPort = "127.0.0.1:7005"
    """Address of the gRPC server."""
    metrics_listen: str = "127.0.0.1:9005"
    """Address of the Prometheus endpoint (`/metrics`); empty switches it off."""
    redis_url: RedisUrl = "redis://127.0.0.1:6379/0"
    """Where the alerts are kept. That Redis must write its append-only file."""
    retention_days: Annotated[float, Field(gt=0, le=3650)] = 7.0
    """How long alerts and their log are kept; what is older goes when the next alert is raised."""
    heartbeat_seconds: Annotated[float, Field(gt=0, le=300)] = 5.0
    """A stream that had nothing to tell for so long sends a heartbeat."""
    ring: Annotated[int, Field(ge=1, le=1 << 20)] = 1024
    """How many of a store's newest changes stay in memory for streams; slower clients read from Redis."""
