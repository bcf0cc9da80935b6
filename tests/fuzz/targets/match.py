"""PoiService, WatchlistService and MatchService, with an embedding service that knows faces by their colour."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from poi.v1 import common_pb2, match_pb2, poi_pb2, watchlist_pb2

from tests.fuzz import traces
from tests.fuzz.logs import NAME
from tests.fuzz.requests import Requests, Seeds, nothing
from tests.fuzz.target import Target
from tests.match_svc.standin import picture, standing_in
from tests.support import detection, embedding, unit, valid_poi

STORE = "stores/store-1"
POI, LIST = f"{STORE}/pois/p1", f"{STORE}/watchlists/w1"
ALIGNED = common_pb2.ALIGNMENT_ALIGNED
_running = AsyncExitStack()


async def _env() -> Mapping[str, str]:
    faces = await _running.enter_async_context(standing_in())
    return {
        **await nothing(),
        "POI_EMBED_TARGET": faces.target,
        "POI_MATCH_CONFIRM_SECONDS": "0.2",
        "POI_MATCH_WRITE_WAIT_SECONDS": "1",
    }


def make() -> Target:
    """With a person on a list."""
    face = embedding(unit(1), alignment=ALIGNED)
    watchlist = watchlist_pb2.Watchlist(
        display_name="Thieves",
        severity=common_pb2.SEVERITY_HIGH,
        threshold=match_pb2.Threshold(cosine=0.5),
        time_zone="Europe/Berlin",
        retention=Duration(seconds=86400),
    )
    named = watchlist_pb2.Watchlist(name=LIST)
    named.MergeFrom(watchlist)
    seeds: Seeds = {
        **traces.seeds(STORE),
        "CreateWatchlist": [watchlist_pb2.CreateWatchlistRequest(parent=STORE, watchlist_id="w1", watchlist=watchlist)],
        "CreatePoi": [
            poi_pb2.CreatePoiRequest(
                parent=STORE, poi_id="p1", poi=valid_poi(NAME, watchlists=[LIST]), embeddings=[face]
            ),
            poi_pb2.CreatePoiRequest(parent=STORE, poi=valid_poi(f"{NAME} II"), images=[picture(3)], request_id="r1"),
            poi_pb2.CreatePoiRequest(parent=STORE, poi=valid_poi(NAME), embeddings=[face], allow_duplicate=True),
        ],
        "ImportPois": [
            poi_pb2.ImportPoisRequest(
                row_id=str(number),
                request=poi_pb2.CreatePoiRequest(parent=STORE, poi=valid_poi(), images=[picture(number)]),
            )
            for number in (5, 6)
        ],
        "GetPoi": [poi_pb2.GetPoiRequest(name=POI, view=poi_pb2.POI_VIEW_FULL)],
        "ListPois": [poi_pb2.ListPoisRequest(parent=STORE, page_size=1)],
        "UpdatePoi": [
            poi_pb2.UpdatePoiRequest(
                poi=valid_poi("New", name=POI, threshold=0.6),
                update_mask=FieldMask(paths=["display_name", "threshold"]),
            )
        ],
        "AddReference": [
            poi_pb2.AddReferenceRequest(poi=POI, embedding=embedding(unit(2), alignment=ALIGNED)),
            poi_pb2.AddReferenceRequest(poi=POI, image=picture(4)),
        ],
        "MatchFaces": [match_pb2.MatchFacesRequest(parent=STORE, embeddings=[face, face], max_matches=2)],
        "MatchDetections": [
            match_pb2.MatchDetectionsRequest(
                parent=STORE,
                batch_id=number,
                detections=[detection(unit(1), at=number, alignment=ALIGNED), detection()],
            )
            for number in range(2)
        ],
        "GetGalleryStatus": [match_pb2.GetGalleryStatusRequest(name=f"{STORE}/galleryStatus")],
        "GetMatchSettings": [match_pb2.GetMatchSettingsRequest(name=f"{STORE}/matchSettings")],
        "UpdateMatchSettings": [
            match_pb2.UpdateMatchSettingsRequest(
                match_settings=match_pb2.MatchSettings(name=f"{STORE}/matchSettings", target_false_match_rate=1e-4),
                update_mask=FieldMask(paths=["*"]),
            )
        ],
        "GetWatchlist": [watchlist_pb2.GetWatchlistRequest(name=LIST)],
        "ListWatchlists": [watchlist_pb2.ListWatchlistsRequest(parent=STORE, page_size=1)],
        "UpdateWatchlist": [
            watchlist_pb2.UpdateWatchlistRequest(watchlist=named, update_mask=FieldMask(paths=["*"])),
        ],
    }
    texts = (STORE, POI, LIST, f"{POI}/references/r1", f"{STORE}/cameras/Camera_01", "p1", "w1", face.model, "UTC")
    contents = [face.vector, unit(3).tobytes(), b"\0" * 1024, b"\xff" * 1024, picture(7, side=8), picture(8)]
    return Requests("match_svc", _env, seeds=seeds, texts=texts, contents=contents).target()
