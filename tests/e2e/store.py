"""The mesh that the tests of this directory share, with the recorded store's people enrolled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clients.replay import Evidence, Recording
from clients.replay.evidence import Clip
from demo.material import Person
from demo.steps import Steps
from mesh.local import Mesh
from tests.e2e.client import Client
from tests.e2e.story import SPEED, Disturbance, Expected, Outcome, Window, play

STORE = "store-e2e"


def settings(models_dir: Path) -> dict[str, str]:
    """What the servers are told."""
    return {
        "POI_STORE": STORE,
        "POI_MODELS_DIR": str(models_dir),
        # A stream that has been silent for so long has told everything: what the tests wait for.
        "POI_HEARTBEAT_SECONDS": "0.4",
        # However long a crash takes, nobody leaves because cameras could not be heard.
        "POI_REGION_SILENCE_SECONDS": "45",
        # At ten times the pace.
        "POI_INGEST_GAP_SECONDS": "1",
        "POI_INGEST_EXIT_FRAME_SECONDS": "0.2",
    }


@dataclass(frozen=True)
class Store:
    """The recorded store and a mesh for it, with the woman and the man enrolled."""

    mesh: Mesh
    store: str
    recording: Recording
    expected: Expected
    people: tuple[Person, ...]
    clips: Mapping[str, Clip]
    """What the cameras show."""
    photos: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    """Of each person, those that were enrolled."""

    async def play(
        self, *disturbances: Disturbance, speed: float = SPEED, window: Window | None = None, frames: bool = False
    ) -> Outcome:
        """Replays the recording; see `tests.e2e.story.play`."""
        evidence = Evidence(self.clips) if frames else None
        return await play(
            self.mesh, self.store, self.recording, *disturbances, speed=speed, window=window, evidence=evidence
        )

    async def enrol(self) -> None:
        """Enrols who is not enrolled yet, as the demo does, and nobody else is left enrolled."""
        async with Client(self.mesh, self.store) as client, Steps(self.mesh, self.store) as steps:
            enrolled = await client.pois()
            for poi_id in enrolled - {person.poi_id for person in self.people}:
                await client.forget(poi_id)
            for person in self.people:
                if person.poi_id not in enrolled:
                    self.photos[person.poi_id] = (await steps.enrol(person))[1]
