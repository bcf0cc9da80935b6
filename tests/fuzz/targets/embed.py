"""EmbeddingService, with the real networks: what leaves the decoder must not trip over them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from poi.v1 import common_pb2, embedding_pb2

from tests.fuzz.requests import Requests, Seeds, nothing
from tests.fuzz.target import LeftOut, Target
from tests.fuzz.targets.images import FILES

STORE = "stores/store-1"
_ROOT = Path(__file__).resolve().parents[3]


def _models() -> Path:
    given, shared = os.environ.get("POI_MODELS_DIR"), Path(os.environ.get("POI_SHARED") or _ROOT.parent / "shared")
    for path in [Path(given)] if given else [shared / "models", _ROOT / "models"]:
        if (path / "face-reidentification-retail-0095").is_dir():
            return path
    raise LeftOut("no models: set POI_MODELS_DIR, or run `make models`")


def make() -> Target:
    """Images of a few pixels, and long thin ones."""
    thin = [np.full(shape, 120, np.uint8) for shape in ((1, 3000, 3), (3000, 1, 3), (2, 2, 3), (1, 1, 3))]
    images = [*FILES, *(bytes(cv2.imencode(".png", each)[1]) for each in thin)]
    options = embedding_pb2.FaceOptions(min_confidence=0.01, alignments=common_pb2.Alignment.values()[1:], max_faces=3)
    seeds: Seeds = {
        "DetectFaces": [
            embedding_pb2.DetectFacesRequest(parent=STORE, image=image, options=options) for image in images
        ],
        "StreamFaces": [
            embedding_pb2.StreamFacesRequest(parent=STORE, frame_id=str(number), image=image, options=options)
            for number, image in enumerate(images[:2])
        ],
        "ListModels": [embedding_pb2.ListModelsRequest(parent=STORE, page_size=1)],
    }
    env = partial(nothing, POI_MODELS_DIR=str(_models()), POI_EMBED_THREADS="1")
    return Requests("embed_svc", env, seeds=seeds, texts=(STORE, "1"), contents=images).target()
