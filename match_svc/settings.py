"""Settings of the match service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from match_svc import calibration
from mesh.settings import HostPort, OptionalPath, RedisUrl, Target
from mesh.vault.settings import VaultSettings


def _calibration(path: Path | None) -> Path | None:
    calibration.load(path)
    return path


class MatchServerSettings(VaultSettings):
    """What the match service can be told, beyond what every server can."""

    service: ClassVar[str] = "match"

    listen: HostPort = "127.0.0.1:7002"
    """Address of the gRPC server."""
    metrics_listen: str = "127.0.0.1:9002"
    """Address of the Prometheus endpoint; empty switches it off."""
    redis_url: RedisUrl = "redis://127.0.0.1:6379/0"
    """Where the registry, its log and the decisions about tracks are kept."""
    embed_target: Target = "127.0.0.1:7001"
    """The embedding service, for enrolment from photos."""

    default_threshold: Annotated[float, Field(ge=0.2, le=0.99)] = 0.45
    """Least cosine similarity that is a match, for stores that set none: one false match in 20,000 comparisons."""
    calibration: Annotated[OptionalPath, AfterValidator(_calibration)] = None
    """A table of `python -m match_svc calibrate`, to turn false match rates into thresholds by; empty for the one that
    comes with the face model, made on LFW."""
    max_matches: Annotated[int, Field(ge=1, le=100)] = 5
    """Most persons that are answered for one detection, and for one face where the caller does not say."""
    search_threads: Annotated[int, Field(ge=1, le=64)] = 2
    """Threads that search the gallery; more than cores only cost."""

    decision_seconds: Annotated[float, Field(ge=1, le=3600)] = 10.0
    """How long a track's faces are compared with the persons it was recognised as alone. Then the gallery is searched
    again: so long, at most, can a better match stay unseen behind a first one that was good enough."""
    decision_tracks: Annotated[int, Field(ge=0, le=10_000_000)] = 100_000
    """How many tracks a replica remembers without asking Redis."""
    decision_timeout: Annotated[float, Field(gt=0, le=5)] = 0.02
    """Longest wait in seconds for other replicas' decisions in Redis before searching without them."""

    pool_faces: Annotated[int, Field(ge=1, le=1000)] = 16
    """About how many good faces of a track are pooled; older ones fade out. 1 matches each face alone."""
    pool_tracks: Annotated[int, Field(ge=1024, le=10_000_000)] = 16_384
    """Most tracks whose faces a replica pools, 1 to 2 KB each; the one that was not seen for longest is given up."""
    lone_face_margin: Annotated[float, Field(ge=0, le=1)] = 0.03
    """By how much the first face of a track must exceed a threshold to match by itself; below, it waits for the next
    face of the track. Halves the false matches of single faces; 2 % (aligned) to 4 % of the true ones wait. Of these
    whoever shows no second face stays unseen: 0 where that is worse than twice the false alerts."""
    doubtful_face_margin: Annotated[float, Field(ge=0, le=1)] = 0.15
    """The same for a single face that is poor (under 20 px wide, or as bad a mixture of width and confidence), or that
    is clearly not of the person whom its track showed a moment ago."""

    log_length: Annotated[int, Field(ge=100, le=10_000_000)] = 100_000
    """About how many changes the log keeps; a replica that was away for longer loads the registry anew."""
    write_wait_seconds: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Longest wait for this replica's own gallery to have a change before the change is answered."""
    embed_timeout: Annotated[float, Field(gt=0, le=120)] = 10.0
    """Longest wait in seconds for the faces of one photo."""

    face_confidence: Annotated[float, Field(ge=0.5, le=1)] = 0.9
    """Least confidence of the face detector in a photo that is enrolled: it fires on backs of heads at 0.5 to 0.8."""
    face_width_px: Annotated[int, Field(ge=1, le=1000)] = 40
    """Least width of a face that is enrolled. At 40 px .957 of faces are recognised at cosine 0.45, at 24 px .880."""
    face_sharpness: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Least sharpness: about the cosine that a blurred face keeps with its sharp self."""
    face_yaw_degrees: Annotated[float, Field(gt=0, le=90)] = 35.0
    """Most turn to the side, as estimated from landmarks (within 10 degrees or so). In a clip of a turning head, frames
    up to 35 degrees keep a cosine of .77 or more with the frontal mean, from 45 degrees on .58 to .74."""
    face_pitch_degrees: Annotated[float, Field(gt=0, le=90)] = 30.0
    """Most tilt up or down. Level faces are estimated at -13 to 18 degrees."""
    face_roll_degrees: Annotated[float, Field(gt=0, le=90)] = 30.0
    """Most lean to a shoulder. Alignment undoes it; embeddings of unaligned crops lose their likeness by 50 degrees."""
    duplicate_similarity: Annotated[float, Field(ge=0.2, le=1)] = 0.55
    """A face this similar (cosine) to somebody's reference is likely theirs: the best of 4,280 strangers reaches that
    in 1 % of enrolments."""
    disagreement_similarity: Annotated[float, Field(ge=-1, le=0.9)] = 0.3
    """Faces that are less similar (cosine) than this look like different people."""
    reference_image_px: Annotated[int, Field(ge=0, le=1024)] = 512
    """Longer side of the picture that is kept of an enrolled face, at most; 0 keeps none."""
    reference_image_bytes: Annotated[int, Field(ge=4096, le=1 << 20)] = 128 << 10
    """Largest such picture: it is compressed harder, then made smaller, until it fits."""

    forget_after_days: Annotated[float, Field(ge=0, le=3650)] = 30.0
    """The grace period: so many days after a person's `expire_time`, or the last change of their record where that came
    later, the service deletes them for good, as DeletePoi does. Until then a new `expire_time` brings them back. 0
    deletes within seconds."""

    max_lag_seconds: Annotated[float, Field(gt=0, le=60)] = 1.0
    """A replica whose gallery misses a change that is older than this does not serve, until it has caught up."""
    replica_seconds: Annotated[float, Field(ge=1, le=60)] = 3.0
    """A replica that Redis has not heard of for so long is not waited for by removals, and does not serve."""
    confirm_seconds: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Longest wait for all live replicas to have a removal before it is answered with those that have not."""
