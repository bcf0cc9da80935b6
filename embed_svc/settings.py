"""What the embedding service can be told."""

import os
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from mesh.settings import HostPort, OptionalPath, ServerSettings

CACHE_DIR = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "poi-mesh" / "openvino"


class EmbedSettings(ServerSettings):
    """Settings of embed_svc, in POI_EMBED_<NAME> or POI_<NAME>."""

    service: ClassVar[str] = "embed"

    listen: HostPort = "127.0.0.1:7001"
    """Address of the gRPC server."""
    metrics_listen: str = "127.0.0.1:9001"
    """Address of the Prometheus endpoint (`/metrics`); empty switches it off."""
    models_dir: OptionalPath = None
    """Where the models are; by default ./models of the repository, else ../shared/models beside it."""
    cache_dir: OptionalPath = CACHE_DIR
    """Where compiled models are kept, to start in a fraction of a second; empty switches that off."""
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Images that are worked on at the same time; 0 takes two more than the CPU runs inferences at a time."""
    max_waiting: Annotated[int, Field(ge=0, le=10_000)] = 64
    """DetectFaces calls that may wait for a thread before more are refused with RESOURCE_EXHAUSTED."""
    stream_window: Annotated[int, Field(ge=1, le=64)] = 4
    """Frames of one StreamFaces call that are taken in ahead of the answers."""
    max_image_bytes: Annotated[int, Field(ge=1024, le=256 << 20)] = 8 << 20
    """Largest image file; what a message may hold (`max_message_bytes`) limits it too."""
    max_image_pixels: Annotated[int, Field(ge=1, le=89_000_000)] = 50_000_000
    """Most pixels (width x height) of an image: 3 bytes of memory each while it is worked on."""
