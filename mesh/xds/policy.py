"""How each service of the mesh is called: the one table of timeouts, balancing and limits.

A header of a ring hash is sent by who calls. There is one, the store of a stream of scene updates: one stream carries
all scenes of a store, and who is in which zone is in the memory of the replica that it goes to. (Another one reads it
from Redis.) Everything else any replica may answer: galleries, alerts and visits are in Redis; a history in files has
one replica, and one in Qdrant has several just so that they share a store's detections.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mesh.calling import STORE_HEADER
from mesh.xds.model import Balance, Balancing, Breakers, Policy, Service

_ALL = (
    # A photo of 12 megapixels takes a second on a busy machine; a replica does few at a time and queues the rest.
    Service("embed", ("poi.v1.EmbeddingService",), Policy(timeout_seconds=15.0, breakers=Breakers(requests=256))),
    # Enrolment calls embed and waits for the other replicas' word.
    Service(
        "match",
        ("poi.v1.PoiService", "poi.v1.WatchlistService", "poi.v1.MatchService"),
        Policy(timeout_seconds=20.0),
    ),
    # A search may read cold segments; to erase appearances is to write files anew.
    Service(
        "history",
        ("poi.v1.HistoryService",),
        Policy(timeout_seconds=15.0, slow={"EraseAppearances": 1800.0}),
    ),
    # Who is in which zone is in memory, by store.
    Service("region", ("poi.v1.RegionService",), Policy(balancing=Balancing(Balance.RING_HASH, STORE_HEADER))),
    # Every console and app holds a stream. A target is tried out for as long as it may take to answer; sums are over a
    # whole log.
    Service(
        "alert",
        ("poi.v1.AlertService", "poi.v1.FeedbackService", "poi.v1.DeliveryService"),
        Policy(
            timeout_seconds=10.0,
            slow={"SummarizeAlerts": 60.0, "SuggestThreshold": 60.0, "TestTarget": 60.0},
            breakers=Breakers(requests=20_000),
        ),
    ),
    Service("ingest", ("poi.v1.IngestService",)),
    # To verify a chain is to read all of it; to erase a person is to write files anew.
    Service(
        "audit",
        ("poi.v1.AuditService", "poi.v1.ApprovalService", "poi.v1.ErasureService"),
        Policy(timeout_seconds=900.0, slow={"ErasePerson": 1800.0}),
    ),
)

SERVICES: Mapping[str, Service] = MappingProxyType({service.name: service for service in _ALL})
"""By short name."""
