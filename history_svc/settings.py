"""What the history server can be told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from history_svc.objects import directory_of, remote
from mesh.settings import HostPort, StoreId, Target
from mesh.vault.settings import VaultSettings


def _qdrant_url(value: str) -> str:
    if value and not re.fullmatch(r"https?://(:[^\s/@]+@)?[^\s/@:]+(:\d{1,5})?/?", value):
        raise ValueError("is not http[s]://[:API_KEY@]HOST[:PORT]")
    _ = urlsplit(value).port  # raises ValueError
    return value


QdrantUrl = Annotated[str, AfterValidator(_qdrant_url)]
"""Where Qdrant is, or nothing when empty."""


def _frames_url(value: str) -> str:
    if not value:
        return value
    scheme = urlsplit(value).scheme
    if scheme == "file":
        directory_of(value)
    elif scheme in _OBJECT_STORES:
        if "@" in value or "?" in value:
            raise ValueError("takes no credentials or options: those are environment variables")
        remote(value)
    else:
        raise ValueError("is not file:///DIRECTORY, s3://BUCKET[/PREFIX], gs://BUCKET or az://CONTAINER")
    return value


FramesUrl = Annotated[str, AfterValidator(_frames_url)]
"""Where evidence frames are, or the data directory when empty."""
_OBJECT_STORES = frozenset({"s3", "gs", "az"})


class Settings(VaultSettings):
    """Settings of `python -m history_svc`: variables POI_HISTORY_<NAME>, else POI_<NAME>."""

    service: ClassVar[str] = "history"

    listen: HostPort = "127.0.0.1:7003"
    """Address of the gRPC server. Port 0 takes a free one; the "serving" log line and the ready file tell which."""
    metrics_listen: str = "127.0.0.1:9003"
    """Address of the Prometheus endpoint (`/metrics`); empty switches it off."""
    max_message_bytes: Annotated[int, Field(ge=1024, le=256 << 20)] = 16 << 20
    """Largest gRPC message, in bytes. More than a frame may have, so that one that is too large costs itself only."""

    store: StoreId = "store-1"
    """The store whose detections are kept."""
    data_dir: Path = Path("var/history")
    """Where the detection log is, and the evidence frames unless `frames_url` says otherwise. One process at a time."""
    frames_url: FramesUrl = ""
    """Keep the evidence frames in this object store: `s3://BUCKET[/PREFIX]`, with key, region and endpoint from the
    usual variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION; AWS_ENDPOINT for another than Amazon's, with
    AWS_ALLOW_HTTP=true where that has no TLS), or in `file:///DIRECTORY`. Empty: `frames` in the data directory."""
    min_free_bytes: Annotated[int, Field(ge=0)] = 256 << 20
    """Detections are refused (RESOURCE_EXHAUSTED) while less of the disk is free, so that sealing always has room."""
    retention_days: Annotated[float, Field(gt=0, le=3650)] = 7.0
    """Detections and frames older than so many days are dropped, and refused."""
    future_seconds: Annotated[float, Field(ge=0, le=86_400)] = 300.0
    """A detection further in the future is refused: a camera's clock is wrong. Ingest then gives it the time of its
    arrival, and says so in its rejections (CLOCK_SKEW)."""
    sweep_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """How often what is too old is dropped."""

    gap_seconds: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """An object id that was not seen for longer is a new appearance, as trackers recycle ids."""
    other_person_similarity: Annotated[float, Field(ge=-1, le=1)] = 0.2
    """A face less similar (cosine) to the mean face of an appearance is another person's."""
    min_similarity: Annotated[float, Field(ge=0, le=1)] = 0.45
    """The least similarity of a search that does not say one."""

    segment_bytes: Annotated[int, Field(ge=4096, le=4 << 30)] = 128 << 20
    """A log file that has reached this size is followed by a new one."""
    segment_seconds: Annotated[float, Field(gt=0, le=7 * 86_400)] = 3600.0
    """A log file that is this old is followed by a new one; files are the unit of retention."""
    seal_faces: Annotated[int, Field(ge=1, le=1 << 20)] = 65_536
    """So many faces in the log become a sealed segment, which is searched on disk."""
    seal_seconds: Annotated[float, Field(gt=0, le=7 * 86_400)] = 6 * 3600.0
    """So does what is in the log for so long; segments, the unit of retention, are merged to this span at most."""
    index_every_seconds: Annotated[float, Field(ge=0, le=3600)] = 1.0
    """Once sealed, of each appearance the first, the last and the best face and one in so many seconds go on being
    searched; every face when 0. Every detection is kept either way."""
    verify_seconds: Annotated[float, Field(gt=0, le=30 * 86_400)] = 86_400.0
    """How often all sealed segments are read and compared with their checksums; the first time after the start."""
    max_frame_bytes: Annotated[int, Field(ge=1024, le=64 << 20)] = 8 << 20
    """A larger evidence frame is refused."""
    stream_window: Annotated[int, Field(ge=1, le=1024)] = 64
    """Batches of one stream that may wait for the disk; then the stream is no longer read."""
    search_threads: Annotated[int, Field(ge=1, le=64)] = 2
    """Threads that compare vectors, for all searches together."""
    max_searches: Annotated[int, Field(ge=1, le=64)] = 4
    """Searches that run side by side; more wait."""

    qdrant_url: QdrantUrl = ""
    """Keep the history in this Qdrant, http[s]://[:API_KEY@]HOST[:GRPC_PORT], and nothing in the data directory: then
    several processes may serve it, and `frames_url` must name what they share. Empty: in the data directory."""
    qdrant_exact: bool = False
    """Let Qdrant compare every face in scope: misses none, and takes longer the more there are."""

    embed_target: Target = "127.0.0.1:7001"
    """EmbeddingService: turns a query photo into a face."""
    match_target: Target = "127.0.0.1:7002"
    """PoiService: has the faces of a person of interest."""
    region_target: Target = "127.0.0.1:7004"
    """RegionService: has the visits to zones."""
    region_timeout: Annotated[float, Field(gt=0, le=30)] = 0.5
    """Seconds that an answer waits for RegionService before it goes without visits."""
