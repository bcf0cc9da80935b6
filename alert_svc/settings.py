"""What the alert service can be told."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from mesh.settings import HostPort, MqttUrl, OptionalPath, RedisUrl, ServerSettings, split_host_port


def _host_port_or_off(value: str) -> str:
    if value:
        split_host_port(value)
    return value


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
    """A server that dies is replaced at its targets after so long."""
