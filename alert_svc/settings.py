"""What the alert service can be told."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from alert_svc.policy import Policy
from mesh.settings import HostPort, MqttUrl, OptionalPath, RedisUrl, StoreId, Target, split_host_port
from mesh.vault.settings import VaultSettings


def _host_port_or_off(value: str) -> str:
    if value:
        split_host_port(value)
    return value


class AlertSettings(VaultSettings):
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

    store: StoreId = "store-1"
    """The store whose alerts get pictures: that of the history."""
    history_target: Target = "127.0.0.1:7003"
    """HistoryService: has the frames of appearances, and keeps the pictures of alerts."""
    match_target: Target = "127.0.0.1:7002"
    """PoiService: has the pictures of references."""
    evidence: bool = True
    """Make pictures of alerts: face, frame and reference side by side."""
    evidence_wait_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """An alert whose appearance has no frame after so long, with history there, gets no picture."""

    mqtt_url: MqttUrl = "mqtt://127.0.0.1:1883"
    """The store's own broker, for MQTT targets that name none. User and password may be in it."""
    websocket_listen: Annotated[str, AfterValidator(_host_port_or_off)] = ""
    """Address of the WebSocket targets, for example 127.0.0.1:7015; empty, the default, switches them off."""
    websocket_origins: tuple[str, ...] = ()
    """Origins of web pages that may connect to WebSocket targets (https://console.example). Programs that send none
    always may. A JSON list in the environment."""
    delivery_allow_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Private networks (CIDR) that webhooks and brokers may be in; others than public addresses are refused. A JSON
    list in the environment."""
    delivery_ca_file: OptionalPath = None
    """PEM file of authorities that targets' certificates may be of, besides the system's."""
    delivery_timeout_seconds: Annotated[float, Field(gt=0, le=300)] = 10.0
    """How long one attempt to deliver may take."""
    delivery_backoff_seconds: Annotated[float, Field(gt=0, le=3600)] = 1.0
    """Longest pause after a first failure; it doubles with each further one."""
    delivery_max_backoff_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Longest pause between attempts."""
    delivery_breaker_failures: Annotated[int, Field(ge=1)] = 5
    """After so many failures in a row a target is tried no more often than every `delivery_breaker_seconds`."""
    delivery_breaker_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """See `delivery_breaker_failures`."""
    delivery_give_up_hours: Annotated[float, Field(gt=0, le=8760)] = 24.0
    """An event so old that still cannot be delivered becomes a dead letter."""
    delivery_max_attempts: Annotated[int, Field(ge=0)] = 0
    """So does one that was tried so often; 0 for no such limit."""
    delivery_keep: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """How many deliveries of a target are remembered, besides dead letters, which are as long as alerts."""
    delivery_lease_seconds: Annotated[float, Field(ge=0.5, le=300)] = 10.0
    """A server that dies is replaced at its targets, and as the maker of pictures, after so long."""

    @property
    def policy(self) -> Policy:
        """What holds for a store that has set nothing."""
        return Policy(
            round(self.suppression_window_seconds * 1000),
            self.suppression_per_camera,
            self.escalation_margin,
            round(self.escalation_delay_seconds * 1000),
        )
