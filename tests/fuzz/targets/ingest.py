"""IngestService, with a broker that is away."""

from __future__ import annotations

from functools import partial

from poi.v1 import ingest_pb2

from mesh.local import free_port
from tests.fuzz import traces
from tests.fuzz.requests import Requests, Seeds, nothing
from tests.fuzz.target import Target

STORE = "stores/store-1"


def make() -> Target:
    """Nothing came in yet."""
    seeds: Seeds = {
        **traces.seeds(STORE),
        "GetIngestStatus": [ingest_pb2.GetIngestStatusRequest(name=f"{STORE}/ingestStatus")],
        "ListCameras": [ingest_pb2.ListCamerasRequest(parent=STORE, page_size=1)],
        "ListRejections": [ingest_pb2.ListRejectionsRequest(parent=STORE, page_size=1)],
    }
    texts = (STORE, f"{STORE}/ingestStatus", "stores/s2")
    env = partial(nothing, POI_MQTT_URL=f"mqtt://127.0.0.1:{free_port()}")
    return Requests("ingest_svc", env, seeds=seeds, texts=texts).target()
