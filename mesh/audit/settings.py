"""What the audit server can be told."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from mesh.settings import HostPort, RedisUrl
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
