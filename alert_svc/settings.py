"""What the alert service can be told."""

from typing import Annotated, ClassVar

from pydantic import Field

from alert_svc.policy import Policy
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
    """How long alerts and their log are kept."""
    heartbeat_seconds: Annotated[float, Field(gt=0, le=300)] = 5.0
    """A stream that had nothing to tell for so long sends a heartbeat."""
    ring: Annotated[int, Field(ge=1, le=1 << 20)] = 16_384
    """How many of a store's newest changes stay in memory for streams: a live client farther behind is cut off."""
    slow_client_seconds: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """A client that took so long to take one response is cut off; it resumes with its cursor."""
    sweep_seconds: Annotated[float, Field(gt=0, le=3600)] = 1.0
    """How often old alerts are removed and waiting ones escalated."""
    suppression_window_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    """A person who appears again within this time adds to the open alert instead of raising another; 0 never. This and
    the following are for stores whose `alertSettings` do not say otherwise."""
    suppression_per_camera: bool = True
    """Whether only an appearance on the same camera is a repeat."""
    escalation_margin: Annotated[float, Field(ge=0.01, le=2)] = 0.1
    """A match that is better by so much (cosine similarity) escalates an open alert."""
    escalation_delay_seconds: Annotated[float, Field(ge=0, le=604_800)] = 300.0
    """A HIGH alert that nobody has looked at for so long escalates; 0 never."""

    @property
    def policy(self) -> Policy:
        """What holds for a store that has set nothing."""
        return Policy(
            round(self.suppression_window_seconds * 1000),
            self.suppression_per_camera,
            self.escalation_margin,
            round(self.escalation_delay_seconds * 1000),
        )
