"""What the demo plays: the recorded store with the clips to enrol people from, else synthetic cameras."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
from poi.v1 import common_pb2
from pydantic import BaseModel

from clients.replay import CameraTraffic, Evidence, Mixed, Recording, SceneTraffic, Traffic
from embed_svc.models import ModelsError, locate
from embed_svc.models import main as models
from mesh import embeddings

_ROOT = Path(__file__).resolve().parents[1]
_SYNTHETIC_SECONDS = 30.0
_PHOTO_EVERY_S = 0.5


@dataclass(frozen=True)
class Person:
    """Somebody to enrol: from the frames of a clip, or from embeddings."""

    poi_id: str
    display_name: str
    severity: common_pb2.Severity.ValueType
    photos: tuple[bytes, ...] = ()
    """JPEGs of a clip, of which the best are used."""
    embeddings: tuple[common_pb2.Embedding, ...] = ()
    appearances: int | None = None
    """How many appearances there will be, where that is known."""


@dataclass(frozen=True)
class Material:
    """A store for half a minute."""

    title: str
    traffic: Traffic
    evidence: Evidence
    people: tuple[Person, ...]
    models: Path | None
    """Directory of the face models; None: there are none, and no photo can be used."""


class _Seen(BaseModel):
    enrol_from: str | None = None
    seen: dict[str, list[str]]


class _Truth(BaseModel):
    people: dict[str, _Seen]


def find(store: str) -> tuple[Material, str]:
    """The best material that can be had, and why it is no better (empty when it is the best)."""
    shared = Path(os.environ.get("POI_SHARED") or _ROOT.parent / "shared")
    recording = shared / "recordings" / "store.jsonl.gz"
    if not recording.is_file():
        return _synthetic(store), (
            f"There is no recording ({recording}). Set POI_SHARED to the directory that holds recordings/ and media/."
        )
    media = next((path for path in (shared / "media", _ROOT / "media") if path.is_dir()), None)
    if media is None:
        return _synthetic(store), "There are no clips to enrol people from: run `make media`."
    try:
        directory = _models(shared)
    except ModelsError as error:
        return _synthetic(store), f"There are no face models: {error}"
    truth = _Truth.model_validate_json((shared / "recordings" / "truth.json").read_bytes())
    people = (
        _from_clip("woman", "Woman (case 2231)", common_pb2.SEVERITY_HIGH, truth.people["woman"], shared, media),
        _from_clip("man", "Man (case 2232)", common_pb2.SEVERITY_MEDIUM, truth.people["man"], shared, media),
    )
    material = Material(
        "the recorded store: two cameras and one scene, 33 s",
        Recording.load(recording),
        Evidence.of_recorded_store(media),
        people,
        directory,
    )
    return material, ""


def _models(shared: Path) -> Path:
    configured = os.environ.get("POI_MODELS_DIR")
    try:
        return locate(Path(configured) if configured else None)
    except ModelsError:
        if (shared / "models").is_dir() and not configured:
            return locate(shared / "models")
        if models(["download"]) == 0:
            return locate(Path(configured) if configured else None)
        raise


def _from_clip(
    poi_id: str, name: str, severity: common_pb2.Severity.ValueType, seen: _Seen, shared: Path, media: Path
) -> Person:
    clip = media / Path(seen.enrol_from or "").name
    appearances = sum(len(ids) for ids in seen.seen.values())
    return Person(poi_id, name, severity, photos=tuple(_photos(clip)), appearances=appearances)


def _photos(clip: Path) -> list[bytes]:
    """A JPEG of every half second of a clip."""
    photos: list[bytes] = []
    next_s = 0.0
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            if (frame.time or 0.0) >= next_s:
                next_s = (frame.time or 0.0) + _PHOTO_EVERY_S
                done, jpeg = cv2.imencode(".jpg", frame.to_ndarray(format="bgr24"))
                if done:
                    photos.append(jpeg.tobytes())
    return photos


def _synthetic(store: str) -> Material:
    cameras = CameraTraffic(
        cameras=2, faces=2, rate=10, seconds=_SYNTHETIC_SECONDS, enrolled=2, enrolled_share=0.2, bodies=False
    )
    scene = SceneTraffic(people=3)
    people = tuple(
        Person(
            f"person-{number + 1}",
            f"Synthetic person {number + 1}",
            severity,
            embeddings=(
                embeddings.encode(
                    cameras.people.enrolment(number),
                    model=embeddings.FACE_MODEL,
                    alignment=common_pb2.ALIGNMENT_UNALIGNED,
                ),
            ),
        )
        for number, severity in enumerate((common_pb2.SEVERITY_HIGH, common_pb2.SEVERITY_MEDIUM))
    )
    return Material(
        "synthetic detections: two cameras and one scene, 30 s", Mixed([cameras, scene]), Evidence(), people, None
    )
