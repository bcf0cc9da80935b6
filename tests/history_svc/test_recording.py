"""The recorded store: each object id that the truth lists is one appearance, whatever is sent twice or late."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from poi.v1 import common_pb2

from mesh.local import Service
from tests.history_svc.client import Client, detection
from tests.support import load_truth


def _face(person: dict[str, Any]) -> np.ndarray | None:
    faces = person.get("sub_objects", {}).get("face", [])
    if not faces or "reid" not in faces[0].get("metadata", {}):
        return None
    return np.frombuffer(base64.b64decode(faces[0]["metadata"]["reid"]["embedding_vector"]), "<f4")


def _recording(shared_dir: Path) -> list[list[common_pb2.Detection]]:
    batches = []
    with gzip.open(shared_dir / "recordings" / "store.jsonl.gz", "rt") as lines:
        for line in lines:
            message = json.loads(line)
            if "/camera/" in message["topic"]:
                camera = message["payload"]["id"]
                people = message["payload"]["objects"]["person"]
                batches.append(
                    [
                        detection(_face(person), at=message["t_ms"] / 1000, camera=camera, object_id=str(person["id"]))
                        for person in people
                    ]
                )
    return batches


async def test_every_object_of_the_recording_is_one_appearance(
    client: Client, server: Service, shared_dir: Path
) -> None:
    truth, batches = load_truth(shared_dir), _recording(shared_dir)

    for at in range(0, len(batches), 10):
        await client.append(*(one for batch in batches[at : at + 10] for one in batch))
    found = await client.appearances()
    server.restart()
    for at in range(0, len(batches), 25):
        await client.append(*(one for batch in batches[at : at + 25] for one in batch))
    again = await client.appearances()

    cameras = {one.name: one.camera.rpartition("/")[2] for one in found}
    objects = sorted((cameras[one.name], one.object_id) for one in found)
    # The truth lists whom it can name; two of the pipeline's ids ("3" and "11" of Camera_02) have no face.
    listed = {appearance for person in truth.people.values() for appearance in person.appearances}
    assert len(objects) == len(set(objects))
    assert listed <= set(objects)
    for camera, count in truth.persons.items():
        assert sum(one.detection_count for one in found if cameras[one.name] == camera) == count
    for camera, count in truth.faces.items():
        assert sum(one.face_count for one in found if cameras[one.name] == camera) == count
    assert again == found
