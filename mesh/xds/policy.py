"""How each service of the mesh is called: the one table of timeouts, balancing and limits.

A header of a ring hash is sent by who calls: a stream of detections by camera, of scene updates by scene, because
their server keeps the state of a track or of a zone in memory. Calls without the header go to any replica.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mesh.xds.model import Balance, Balancing, Breakers, Policy, Service

CAMERA_HEADER = "poi-camera"
SCENE_HEADER = "poi-scene"

_ALL = (
    # A photo of 12 megapixels takes a second on a busy machine; a replica does few at a time and queues the rest.
    Service("embed", ("poi.v1.EmbeddingService",), Policy(timeout_seconds=15.0, breakers=Breakers(requests=256))),
    # Enrolment calls embed and waits for the other replicas' word.
    Service(
        "match",
        ("poi.v1.PoiService", "poi.v1.WatchlistService", "poi.v1.MatchService"),
        Policy(timeout_seconds=20.0),
    ),
    # A search may read cold segments; tracks are continued in memory, by camera.
    Service(
        "history",
        ("poi.v1.HistoryService",),
        Policy(timeout_seconds=15.0, balancing=Balancing(Balance.RING_HASH, CAMERA_HEADER)),
    ),
    # Who is in which zone is in memory, by scene.
    Service("region", ("poi.v1.RegionService",), Policy(balancing=Balancing(Balance.RING_HASH, SCENE_HEADER))),
    # Every console and app holds a stream.
    Service(
        "alert",
        ("poi.v1.AlertService", "poi.v1.FeedbackService", "poi.v1.DeliveryService"),
        Policy(timeout_seconds=10.0, breakers=Breakers(requests=20_000)),
    ),
    Service("ingest", ("poi.v1.IngestService",)),
    # To verify a chain is to read all of it; to erase a person is to write files anew.
    Service(
        "audit",
        ("poi.v1.AuditService", "poi.v1.ApprovalService", "poi.v1.ErasureService"),
        Policy(timeout_seconds=900.0),
    ),
)

SERVICES: Mapping[str, Service] = MappingProxyType({service.name: service for service in _ALL})
"""By short name."""
