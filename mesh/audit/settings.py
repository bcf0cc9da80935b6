"""What the audit server can be told."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from mesh.settings import HostPort, OptionalPath, RedisUrl, Target
from mesh.vault.settings import VaultSettings


class AuditSettings(VaultSettings):
    """Settings of `python -m mesh.audit`: variables POI_AUDIT_<NAME>, else POI_<NAME>."""

    service: ClassVar[str] = "audit"

    listen: HostPort = "127.0.0.1:7008"
    """Address of the gRPC server."""
    metrics_listen: str = "127.0.0.1:9008"
    """Address of the Prometheus endpoint (`/metrics`); empty switches it off."""
    redis_url: RedisUrl = "redis://127.0.0.1:6379/0"
    """Where the records are: what the services have in POI_AUDIT_REDIS_URL. That Redis must write its append-only
    file."""
    retention_days: Annotated[float, Field(gt=0, le=36_500)] = 365.0
    """How long records are kept."""
    trim_seconds: Annotated[float, Field(gt=0, le=86_400)] = 3600.0
    """How often older ones are removed."""

    receipt_key: OptionalPath = None
    """File with the Ed25519 key that signs receipts of erasures (`python -m mesh.erasure init`). Empty: a person can be
    looked for, and not erased."""
    match_target: Target = "127.0.0.1:7002"
    """The match service. Who erases a person asks this one and the following."""
    history_target: Target = "127.0.0.1:7003"
    """The history service."""
    region_target: Target = "127.0.0.1:7004"
    """The region service."""
    alert_target: Target = "127.0.0.1:7005"
    """The alert service."""
    ingest_target: Target = "127.0.0.1:7006"
    """The ingest service."""
    erasure_find_seconds: Annotated[float, Field(gt=0, le=600)] = 30.0
    """How long one of them may take to say what it keeps of a person."""
    erasure_step_seconds: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """How long one of them may take to erase that: history writes files anew."""
    erasure_retry_seconds: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """How often who has not done it is asked again."""
