"""Settings of the ingest service."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from mesh.embeddings import FACE_MODEL
from mesh.settings import HostPort, MqttUrl, RedisUrl, ServerSettings, StoreId, Target


class IngestSettings(ServerSettings):
    """What the ingest service can be told, beyond what every server can."""

    service: ClassVar[str] = "ingest"

    listen: HostPort = "127.0.0.1:7006"
    """Address of the gRPC server."""
    metrics_listen: str = "127.0.0.1:9006"
    """Address of the Prometheus endpoint; empty switches it off."""
    store: StoreId = "store-1"
    """The store whose cameras send to this broker."""
    mqtt_url: MqttUrl = "mqtt://127.0.0.1:1883"
    """The broker; mqtts:// for TLS. User and password may be in it."""
    redis_url: RedisUrl = "redis://127.0.0.1:6379/0"
    """Where cameras' last signs of life and rejections are kept."""
    history_target: Target = "127.0.0.1:7003"
    """The history service."""
    match_target: Target = "127.0.0.1:7002"
    """The match service."""
    region_target: Target = "127.0.0.1:7004"
    """The region service."""
    alert_target: Target = "127.0.0.1:7005"
    """The alert service."""

    client_id: Annotated[str, Field(min_length=1, max_length=100)] = "poi-ingest"
    """MQTT client id: the name of the persistent session. Each replica needs its own."""
    shared_group: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]*$")] = ""
    """Share the cameras with the other replicas of this group (MQTT 5 shared subscription); empty: take all."""
    topic_root: Annotated[str, Field(pattern=r"^[^#+]*[^#+/]$")] = "scenescape"
    """First part of all topics."""
    session_expiry_seconds: Annotated[int, Field(ge=0, le=0xFFFFFFFE)] = 7 * 24 * 3600
    """How long the broker keeps messages for this service while it is away."""
    receive_maximum: Annotated[int, Field(ge=1, le=65535)] = 1024
    """How many messages the broker may send ahead of their acknowledgement: the back-pressure of the whole path."""
    max_payload_bytes: Annotated[int, Field(ge=1024)] = 4_000_000
    """Larger messages are refused."""
    max_objects: Annotated[int, Field(ge=1)] = 500
    """Messages with more objects than this are refused."""
    dead_letter_topic: Annotated[str, Field(pattern=r"^[^#+]*$")] = "poi-mesh/dead-letter"
    """Where refused messages go, with the reason; empty: nowhere."""

    model: str = FACE_MODEL
    """The face embedding model of the cameras' pipelines."""
    aligned_cameras: tuple[str, ...] = ()
    """Cameras (ids) whose pipeline aligns faces; DL Streamer does not. `*`: all. A JSON list in the environment."""

    batch_detections: Annotated[int, Field(ge=1, le=256)] = 64
    """Most detections in one message to history and match."""
    batch_wait_ms: Annotated[float, Field(ge=0, le=1000)] = 2.0
    """Longest wait for a batch to fill, in milliseconds, while the services keep up."""

    evidence: bool = True
    """Ask cameras for a frame when somebody appears or matches, or shows a clearly better face."""
    evidence_wait_seconds: Annotated[float, Field(gt=0, le=600)] = 5.0
    """How long to wait for a frame before the camera may be asked again."""
    exit_frame_seconds: Annotated[float, Field(ge=0, le=60)] = 2.0
    """How often a camera with people in view is asked for a frame, so that there is one of the moment before
    somebody is gone. Each is a JPEG through the broker. 0: no exit frames."""
    gap_seconds: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """An appearance that was not seen for so long is over and gets its exit frame: as history's `gap_seconds`."""
