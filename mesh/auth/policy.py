"""Who may call what: one row for every method of every service, and nobody may call a method without one.

A row says which services and which roles may call, which field of the request names the store (others may name one
too: each must be of the caller's stores), and which field says who acts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from poi.v1 import poi_pb2

from mesh.principal import Role
from mesh.settings import SERVICES

OPERATOR, ANALYST, ENROLLER = Role.OPERATOR, Role.ANALYST, Role.ENROLLER
ADMIN, AUDITOR, CAMERA = Role.ADMIN, Role.AUDITOR, Role.CAMERA


@dataclass(frozen=True, slots=True)
class Rule:
    """A row. Fields of requests are paths ("query.poi"), through repeated ones too."""

    services: frozenset[str] = frozenset()
    roles: frozenset[Role] = frozenset()
    store: str = ""
    """The field with the resource name whose store it is about; "" where requests have none (health, reflection)."""
    more: tuple[str, ...] = ()
    """Other fields with resource names, which may be empty."""
    actor: str = ""
    """The field that says who acts: the token's subject. Filled in where empty, refused where it says another."""
    actor_default: str = ""
    """A field that says who acted and may say another (a roster of decisions made elsewhere); filled in where empty."""
    reserved: tuple[tuple[str, object], ...] = ()
    """(field, value) that only services may ask for."""
    anyone: bool = False
    """Whoever has a certificate of the mesh."""


def _rule(
    *who: str | Role,
    store: str = "parent",
    more: tuple[str, ...] = (),
    actor: str = "",
    actor_default: str = "",
    reserved: tuple[tuple[str, object], ...] = (),
) -> Rule:
    roles = frozenset(one for one in who if isinstance(one, Role))
    services = frozenset(one for one in who if not isinstance(one, Role))
    return Rule(services, roles, store, more, actor, actor_default, reserved)


_EVERYBODY: Final = (OPERATOR, ANALYST, ENROLLER, ADMIN, AUDITOR)
_ANYONE: Final = Rule(anyone=True)
_FILTERS: Final = ("cameras", "pois", "watchlists")
_TARGET: Final = tuple(f"target.filter.{each}" for each in _FILTERS)
_QUERY: Final = ("poi", "appearance", "cameras")

_ALERT: Final = {
    "RaiseAlerts": _rule("ingest"),
    "StreamAlerts": _rule(OPERATOR, ANALYST, more=_FILTERS),
    "ListAlerts": _rule(OPERATOR, ANALYST, AUDITOR, more=_FILTERS),
    "GetAlert": _rule(OPERATOR, ANALYST, AUDITOR, store="name"),
    "AcknowledgeAlert": _rule(OPERATOR, store="name", actor="actor"),
    "ConfirmAlert": _rule(OPERATOR, store="name", actor="actor"),
    "RejectAlert": _rule(OPERATOR, store="name", actor="actor"),
    "ResolveAlert": _rule(OPERATOR, store="name", actor="actor"),
    "ExportAlert": _rule(ANALYST, store="name", actor="actor"),
    "SummarizeAlerts": _rule(OPERATOR, ANALYST, AUDITOR),
    "GetAlertSettings": _rule(*_EVERYBODY, store="name"),
    "UpdateAlertSettings": _rule(
        ADMIN,
        store="alert_settings.name",
        more=tuple(f"alert_settings.suppression_rules.{each}" for each in _FILTERS),
    ),
}

_APPROVAL: Final = {
    "ListApprovals": _rule(ENROLLER, ADMIN, AUDITOR),
    "GetApproval": _rule(ENROLLER, ADMIN, AUDITOR, store="name"),
    "Approve": _rule(ENROLLER, ADMIN, store="name"),
    "Reject": _rule(ENROLLER, ADMIN, store="name"),
    "GetApprovalSettings": _rule(*_EVERYBODY, store="name"),
    "UpdateApprovalSettings": _rule(ADMIN, store="approval_settings.name"),
}

_AUDIT: Final = {
    "ListAuditRecords": _rule(AUDITOR),
    "ExportAudit": _rule(AUDITOR),
    "VerifyChain": _rule(AUDITOR),
}

_DELIVERY: Final = {
    "CreateTarget": _rule(ADMIN, more=("target.name", *_TARGET)),
    "GetTarget": _rule(ADMIN, AUDITOR, store="name"),
    "ListTargets": _rule(ADMIN, AUDITOR),
    "UpdateTarget": _rule(ADMIN, store="target.name", more=_TARGET),
    "DeleteTarget": _rule(ADMIN, store="name"),
    "TestTarget": _rule(ADMIN, store="name"),
    "ListDeliveries": _rule(ADMIN, AUDITOR, more=("alert",)),
    "ReplayDeliveries": _rule(ADMIN, more=("deliveries",)),
}

_ERASURE: Final = {
    "ErasePerson": _rule(ADMIN, more=("person.poi", "person.appearances")),
    "GetPersonErasure": _rule(ADMIN, AUDITOR, store="name"),
    "ListPersonErasures": _rule(ADMIN, AUDITOR),
    "GetReceiptKey": _rule(*_EVERYBODY, store="name"),
}

_EMBEDDING: Final = {
    "DetectFaces": _rule("match", "history", ANALYST, ENROLLER),
    "StreamFaces": _rule(CAMERA),
    "ListModels": _rule("match", "history", *_EVERYBODY, CAMERA),
}

_FEEDBACK: Final = {
    "ReportMatch": _rule(OPERATOR, ANALYST, more=("appearance", "poi", "camera", "match.poi"), actor="actor"),
    "ListMatchReports": _rule(OPERATOR, ANALYST, AUDITOR, more=("pois",)),
    "SuggestThreshold": _rule(ANALYST, ADMIN, more=("watchlist", "poi", "cameras")),
}

_HISTORY: Final = {
    # Cameras and appearances of a batch are checked against its store by the service itself.
    "AppendDetections": _rule("ingest", "alert"),
    "SearchAppearances": _rule(ANALYST, more=_QUERY),
    "GetJourney": _rule(ANALYST, more=("query.poi", "query.appearance")),
    "ListAppearances": _rule(ANALYST, more=("cameras",)),
    "GetAppearance": _rule("alert", OPERATOR, ANALYST, store="name"),
    "EraseAppearances": _rule(
        ADMIN,
        more=(
            "appearances.names",
            "selection.query.poi",
            "selection.query.appearance",
            "selection.cameras",
        ),
    ),
    "GetErasure": _rule(ADMIN, AUDITOR, store="name"),
    "GetFrame": _rule("alert", OPERATOR, ANALYST, store="name"),
}

_INGEST: Final = {
    "GetIngestStatus": _rule(*_EVERYBODY, store="name"),
    "ListCameras": _rule(*_EVERYBODY),
    "ListRejections": _rule(ADMIN, AUDITOR),
}

_MATCH: Final = {
    "MatchFaces": _rule(ANALYST, ENROLLER),
    "MatchDetections": _rule("ingest"),
    "GetGalleryStatus": _rule(*_EVERYBODY, store="name"),
    "GetMatchSettings": _rule(*_EVERYBODY, store="name"),
    "UpdateMatchSettings": _rule(ADMIN, store="match_settings.name"),
}

_POI: Final = {
    "CreatePoi": _rule(ENROLLER, more=("poi.name", "poi.watchlists"), actor="poi.enrolled_by"),
    "ImportPois": _rule(
        ENROLLER,
        store="request.parent",
        more=("request.poi.name", "request.poi.watchlists"),
        actor_default="request.poi.enrolled_by",
    ),
    # The full view holds embeddings, for history to search by: no person needs them.
    "GetPoi": _rule(
        "history",
        OPERATOR,
        ANALYST,
        ENROLLER,
        store="name",
        reserved=(("view", poi_pb2.POI_VIEW_FULL),),
    ),
    "ListPois": _rule(OPERATOR, ANALYST, ENROLLER),
    "UpdatePoi": _rule(ENROLLER, store="poi.name", more=("poi.watchlists",)),
    "DeletePoi": _rule(ENROLLER, ADMIN, store="name"),
    "AddReference": _rule(ENROLLER, store="poi"),
    "DeleteReference": _rule(ENROLLER, ADMIN, store="name"),
    "GetReferenceImage": _rule("alert", OPERATOR, ANALYST, ENROLLER, store="name"),
}

# A server says where itself is, whatever store it is of.
_REGISTRY: Final = {"Register": Rule(services=frozenset(SERVICES))}

_REGION: Final = {
    "RecordSceneUpdates": _rule("ingest"),
    "ListVisits": _rule("history", OPERATOR, ANALYST, more=("zones", "cameras")),
    "GetOccupancy": _rule(OPERATOR, ANALYST, ADMIN, store="name"),
    "WatchVisits": _rule(OPERATOR, ANALYST, more=("zones",)),
}

# The eraser runs in the audit server. Whom it names is checked against the store by those who keep traces.
_TRACES: Final = {
    "FindTraces": _rule("audit", more=("subject.poi", "subject.tracks.camera")),
    "EraseTraces": _rule("audit", more=("subject.poi", "subject.tracks.camera")),
}

_WATCHLIST: Final = {
    "CreateWatchlist": _rule(
        ENROLLER, ADMIN, more=("watchlist.name", "watchlist.cameras", "watchlist.overrides.cameras")
    ),
    "GetWatchlist": _rule(*_EVERYBODY, store="name"),
    "ListWatchlists": _rule(*_EVERYBODY),
    "UpdateWatchlist": _rule(
        ENROLLER,
        ADMIN,
        store="watchlist.name",
        more=("watchlist.cameras", "watchlist.overrides.cameras"),
    ),
    "DeleteWatchlist": _rule(ADMIN, store="name"),
}

_SERVICES: Final = {
    "poi.v1.AlertService": _ALERT,
    "poi.v1.ApprovalService": _APPROVAL,
    "poi.v1.AuditService": _AUDIT,
    "poi.v1.DeliveryService": _DELIVERY,
    "poi.v1.EmbeddingService": _EMBEDDING,
    "poi.v1.ErasureService": _ERASURE,
    "poi.v1.FeedbackService": _FEEDBACK,
    "poi.v1.HistoryService": _HISTORY,
    "poi.v1.IngestService": _INGEST,
    "poi.v1.MatchService": _MATCH,
    "poi.v1.PoiService": _POI,
    "poi.v1.RegionService": _REGION,
    "poi.v1.RegistryService": _REGISTRY,
    "poi.v1.TraceService": _TRACES,
    "poi.v1.WatchlistService": _WATCHLIST,
    # Where servers are and how they are called, for the gateway and for gRPC clients.
    "envoy.service.discovery.v3.AggregatedDiscoveryService": dict.fromkeys(
        ("StreamAggregatedResources", "DeltaAggregatedResources"), _ANYONE
    ),
    # What the contracts are is no secret; whether a server serves is for probes and balancers.
    "grpc.health.v1.Health": dict.fromkeys(("Check", "List", "Watch"), _ANYONE),
    "grpc.reflection.v1.ServerReflection": {"ServerReflectionInfo": _ANYONE},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": _ANYONE},
}

POLICY: Final[Mapping[str, Rule]] = {
    f"{service}/{method}": rule for service, methods in _SERVICES.items() for method, rule in methods.items()
}
"""By full name: "poi.v1.AlertService/GetAlert"."""
