"""Synthetic cameras: detections in the shape of the recorded ones, cheap enough to load a mesh from the same machine.

Every part of a message that costs anything (base64 of an embedding) is made once per person; a message is made by
joining bytes: about 2 us a face.
"""

import base64
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clients.replay.traffic import Message

FACE_MODEL = "face-reidentification-retail-0095"
BODY_MODEL = "person-reidentification-retail-0277"
DIMENSION = 256

Vector = npt.NDArray[np.float32]


class People:
    """Any number of people with face embeddings, the same for the same seed.

    The embeddings of one person are spread around the person's own direction so that two of them have the given cosine
    on average; those of different people are independent (cosine 0 +- 0.06).

    Args:
        seed: people of different seeds are different people.
        cosine: between two sightings of a person, over 0 up to 1.
    """

    def __init__(self, seed: int = 0, *, cosine: float = 0.75) -> None:
        self._seed = seed
        self._cosine = cosine

    def sighting(self, person: int, number: int) -> Vector:
        """Embedding `number` (from 0) of a person (from 0): (256,) float32 of norm 1."""
        centre = _unit(np.random.default_rng((self._seed, person)))
        noise = _unit(np.random.default_rng((self._seed, person, number + 1)))
        mixed = np.sqrt(self._cosine) * centre + np.sqrt(1 - self._cosine) * noise
        vector: Vector = (mixed / np.linalg.norm(mixed)).astype(np.float32)
        return vector

    def enrolment(self, person: int) -> Vector:
        """The embedding to enrol a person with: sighting 0, which `CameraTraffic` never shows."""
        return self.sighting(person, 0)


class Track(NamedTuple):
    """One person in front of one camera, from `first_ms` to `last_ms` (event times, milliseconds since the epoch)."""

    camera: str
    object_id: int
    person: int
    enrolled: bool
    first_ms: int
    last_ms: int


class CameraTraffic:
    """Cameras that each see a few people at a time, and now and then an enrolled one.

    People `0 .. enrolled - 1` are those that the caller enrols (with `people.enrolment`); the strangers are others. A
    person is in front of a camera for `track_seconds` on average, under an object id of its own, then another comes.

    Args:
        cameras: named Camera_01, Camera_02, ...
        faces: people, each with a face, in every message.
        rate: messages a second from each camera, at most 1000.
        seconds: how long; None is without an end.
        people: whose embeddings.
        enrolled: how many people are enrolled; a few of them (at most 64) come by.
        enrolled_share: the share of tracks that are of an enrolled person.
        track_seconds: mean time of a person in front of a camera; it varies between half and one and a half of it.
        bodies: whether each person carries a body embedding too, as in the recording; doubles the size of a message.
        variants: different embeddings of a person's face.
        first_object_id: of each camera. Traffic that follows other traffic within seconds needs ids not yet used, else
            its people continue the tracks of those.
    """

    def __init__(
        self,
        *,
        cameras: int = 10,
        faces: int = 4,
        rate: float = 10.0,
        seconds: float | None = None,
        people: People | None = None,
        enrolled: int = 0,
        enrolled_share: float = 0.1,
        track_seconds: float = 5.0,
        bodies: bool = True,
        variants: int = 8,
        seed: int = 0,
        first_object_id: int = 1,
    ) -> None:
        if not 0 < rate <= 1000:
            raise ValueError(f"rate must be in (0, 1000], not {rate}: a camera's messages differ in their millisecond")
        self.people = people or People()
        self._cameras = [f"Camera_{number:02d}" for number in range(1, cameras + 1)]
        self._faces = faces
        self._period_ms = 1000.0 / rate
        self._rounds = None if seconds is None else max(round(seconds * rate), 1)
        self._rate = rate
        self._enrolled_share = enrolled_share if enrolled else 0.0
        self._track_ms = track_seconds * 1000
        self._seed = seed
        self._first_object_id = first_object_id
        rng = np.random.default_rng((seed, 1))
        visitors = rng.choice(enrolled, min(enrolled, 64), replace=False).tolist() if enrolled else []
        strangers = range(enrolled, enrolled + max(4 * cameras * faces, 64))
        self._faces_of = {
            person: [_encoded(self.people.sighting(person, 1 + k)) for k in range(variants)]
            for person in (*visitors, *strangers)
        }
        self._body = _encoded(self.people.sighting(-1 % 2**32, 0)) if bodies else b""
        self._visitors, self._strangers = visitors, list(strangers)
        self.tracks: list[Track] = []
        """Every track that the last call of `messages` has begun, in order of beginning; `last_ms` grows with it."""

    @property
    def duration_ms(self) -> float | None:
        if self._rounds is None:
            return None
        return (self._rounds - 1) * self._period_ms + self._offset_ms(len(self._cameras) - 1)

    def messages(self, start_ms: int) -> Iterator[Message]:
        rng = np.random.default_rng((self._seed, 2))
        self.tracks.clear()
        on_camera: list[list[_Walk]] = [[] for _ in self._cameras]
        ids = [self._first_object_id - 1] * len(self._cameras)
        clock = _Clock()
        number = 0
        while self._rounds is None or number < self._rounds:
            for index, camera in enumerate(self._cameras):
                due_ms = number * self._period_ms + self._offset_ms(index)
                at_ms = start_ms + int(due_ms)
                walks = [walk for walk in on_camera[index] if walk.until_ms > due_ms]
                while len(walks) < self._faces:
                    ids[index] += 1
                    present = {walk.person for walk in walks}
                    walks.append(self._arrival(rng, camera, ids[index], due_ms, at_ms, present))
                on_camera[index] = walks
                head = (
                    b'{"id":"%b","timestamp":"%b","rate":%.1f,"objects":{"person":['
                    % (camera.encode(), clock.iso(at_ms), self._rate)
                )  # fmt: skip
                body = b",".join([walk.seen(number) for walk in walks])
                for walk in walks:
                    self.tracks[walk.track] = self.tracks[walk.track]._replace(last_ms=at_ms)
                yield Message(due_ms, f"scenescape/data/camera/{camera}", head + body + b"]}}", camera, at_ms)
            number += 1

    def _offset_ms(self, index: int) -> float:
        return index * self._period_ms / len(self._cameras)  # cameras are not in step

    def _arrival(
        self, rng: np.random.Generator, camera: str, object_id: int, due_ms: float, at_ms: int, present: set[int]
    ) -> "_Walk":
        enrolled = bool(self._visitors) and rng.random() < self._enrolled_share
        pool = [person for person in (self._visitors if enrolled else self._strangers) if person not in present]
        if not pool:  # every enrolled visitor is already in view
            enrolled, pool = False, [person for person in self._strangers if person not in present]
        person = pool[int(rng.integers(len(pool)))]
        self.tracks.append(Track(camera, object_id, person, enrolled, at_ms, at_ms))
        until_ms = due_ms + self._track_ms * rng.uniform(0.5, 1.5)
        left = int(rng.integers(0, 700))
        return _Walk(object_id, person, until_ms, left, self._faces_of[person], self._body, len(self.tracks) - 1)


class _Walk:
    """A person passing a camera; `seen` is the hot path."""

    def __init__(
        self, object_id: int, person: int, until_ms: float, left: int, faces: list[bytes], body: bytes, track: int
    ) -> None:
        self.person, self.until_ms, self.track = person, until_ms, track
        self._left = left
        reid = b'{"embedding_vector":"%b","model_name":"%b"}'
        metadata = b'"metadata":{"reid":%b},' % (reid % (body, BODY_MODEL.encode())) if body else b""
        self._start = (
            b'{"id":%d,"category":"person","confidence":0.98,"bounding_box_px":{"x":' % object_id
        )  # fmt: skip
        self._middle = (
            b',"y":90,"width":220,"height":440},%b"sub_objects":{"face":[{"id":%d,"confidence":0.99,'
            b'"bounding_box_px":{"x":' % (metadata, object_id)
        )
        tail = b',"y":120,"width":96,"height":124},"metadata":{"reid":%b}}]}}'
        self._tails = [tail % (reid % (face, FACE_MODEL.encode())) for face in faces]

    def seen(self, number: int) -> bytes:
        x = self._left + number % 40
        return b"%b%d%b%d%b" % (self._start, x, self._middle, x + 62, self._tails[number % len(self._tails)])


class _Clock:
    """ISO 8601 with the costly part made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = b""

    def iso(self, epoch_ms: int) -> bytes:
        second, millis = divmod(epoch_ms, 1000)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return b"%b.%03dZ" % (self._text, millis)


def _unit(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    vector = rng.standard_normal(DIMENSION)
    return vector / np.linalg.norm(vector)


def _encoded(vector: Vector) -> bytes:
    return base64.b64encode(vector.astype("<f4").tobytes())
