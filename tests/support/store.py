"""The recorded store and the truth about it."""

from pathlib import Path

from pydantic import BaseModel


class Dwell(BaseModel):
    """One stay in a zone, in seconds after the start of the recording."""

    object: str
    zone: str
    enter_s: float
    exit_s: float
    dwell_s: float


class Person(BaseModel):
    """Where a person is seen: camera -> the pipeline's object ids, each one appearance."""

    enrol_from: str | None = None
    seen: dict[str, list[str]]

    @property
    def appearances(self) -> set[tuple[str, str]]:
        """(camera, object id) of every appearance."""
        return {(camera, object_id) for camera, ids in self.seen.items() for object_id in ids}


class Truth(BaseModel):
    """What `recordings/store.jsonl.gz` holds."""

    messages: int
    persons: dict[str, int]
    """Camera -> detections of persons."""
    faces: dict[str, int]
    """Camera -> those of them with a face."""
    dwell: list[Dwell]
    people: dict[str, Person]
    """woman, man (to be enrolled) and strangers."""


def load_truth(shared: Path) -> Truth:
    """Reads `recordings/truth.json` of the shared data."""
    return Truth.model_validate_json((shared / "recordings" / "truth.json").read_bytes())
