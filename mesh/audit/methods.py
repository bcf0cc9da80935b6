"""Which methods are audited, and how. A test holds that every method of the contracts is in one of the two tables.

How: a change has a record before it begins, so that nothing changes without one, and one of its result before it is
answered. A read has one record before it is answered. A stream has one before its first message is worked on, and one
at its end. Each is durable before the call goes on, except for feeds: streams of the mesh's own services that carry
detections, which must not stand still for the audit log; theirs are written as soon as they can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Audited:
    """How a method is audited."""

    resource: str = "name"
    """Path of the request's field that says what it is about."""
    below: str = ""
    """Path of a field that, where it is set, says so more closely."""
    change: bool = False
    """It changes something."""
    made: str = ""
    """Path of the answer's field that names what was made."""
    purpose: bool = False
    """A caller must say why, where the server is set to ask."""
    feed: bool = False
    """See the module."""
    items: str = ""
    """Of a stream whose every message is a change: path of the answer's field with the number of its error."""


_PARENT: Final = "parent"

AUDITED: Final[Mapping[str, Audited]] = {
    # Enrolment.
    "poi.v1.PoiService/CreatePoi": Audited(_PARENT, change=True, made="name", purpose=True),
    "poi.v1.PoiService/ImportPois": Audited("request.parent", items="error.code", made="poi.name", purpose=True),
    "poi.v1.PoiService/GetPoi": Audited(),
    "poi.v1.PoiService/ListPois": Audited(_PARENT),
    "poi.v1.PoiService/UpdatePoi": Audited("poi.name", change=True),
    "poi.v1.PoiService/DeletePoi": Audited(change=True),
    "poi.v1.PoiService/AddReference": Audited("poi", change=True, purpose=True),
    "poi.v1.PoiService/DeleteReference": Audited(change=True),
    "poi.v1.PoiService/GetReferenceImage": Audited(),
    "poi.v1.WatchlistService/CreateWatchlist": Audited(_PARENT, change=True, made="name"),
    "poi.v1.WatchlistService/UpdateWatchlist": Audited("watchlist.name", change=True),
    "poi.v1.WatchlistService/DeleteWatchlist": Audited(change=True),
    # Searches: a face goes in, or what was seen of people comes out.
    "poi.v1.EmbeddingService/DetectFaces": Audited(_PARENT),
    "poi.v1.EmbeddingService/StreamFaces": Audited(_PARENT, feed=True),
    "poi.v1.MatchService/MatchFaces": Audited(_PARENT, purpose=True),
    "poi.v1.MatchService/MatchDetections": Audited(_PARENT, feed=True),
    "poi.v1.MatchService/UpdateMatchSettings": Audited("match_settings.name", change=True),
    "poi.v1.HistoryService/AppendDetections": Audited(_PARENT, feed=True),
    "poi.v1.HistoryService/SearchAppearances": Audited(_PARENT, below="poi", purpose=True),
    "poi.v1.HistoryService/GetJourney": Audited(_PARENT, below="query.poi", purpose=True),
    "poi.v1.HistoryService/ListAppearances": Audited(_PARENT),
    "poi.v1.HistoryService/GetAppearance": Audited(),
    "poi.v1.HistoryService/GetFrame": Audited(),
    "poi.v1.RegionService/ListVisits": Audited(_PARENT),
    "poi.v1.RegionService/WatchVisits": Audited(_PARENT),
    "poi.v1.RegionService/RecordSceneUpdates": Audited(_PARENT, feed=True),
    # Erasure and exports.
    "poi.v1.HistoryService/EraseAppearances": Audited(_PARENT, change=True, made="erasure.name", purpose=True),
    "poi.v1.HistoryService/GetErasure": Audited(),
    "poi.v1.AlertService/ExportAlert": Audited(purpose=True),
    "poi.v1.ErasureService/ErasePerson": Audited(_PARENT, below="person.poi", change=True, made="name", purpose=True),
    "poi.v1.ErasureService/GetPersonErasure": Audited(),
    "poi.v1.TraceService/FindTraces": Audited(_PARENT, below="subject.poi"),
    "poi.v1.TraceService/EraseTraces": Audited(_PARENT, below="erasure", change=True),
    # What people did about alerts.
    "poi.v1.AlertService/AcknowledgeAlert": Audited(change=True),
    "poi.v1.AlertService/ConfirmAlert": Audited(change=True),
    "poi.v1.AlertService/RejectAlert": Audited(change=True),
    "poi.v1.AlertService/ResolveAlert": Audited(change=True),
    "poi.v1.AlertService/StreamAlerts": Audited(_PARENT),
    "poi.v1.AlertService/ListAlerts": Audited(_PARENT),
    "poi.v1.AlertService/GetAlert": Audited(),
    "poi.v1.AlertService/UpdateAlertSettings": Audited("alert_settings.name", change=True),
    "poi.v1.FeedbackService/ReportMatch": Audited(_PARENT, below="poi", change=True, made="name"),
    "poi.v1.FeedbackService/ListMatchReports": Audited(_PARENT),
    # Where alerts go: out of the mesh.
    "poi.v1.DeliveryService/CreateTarget": Audited(_PARENT, change=True, made="name"),
    "poi.v1.DeliveryService/UpdateTarget": Audited("target.name", change=True),
    "poi.v1.DeliveryService/DeleteTarget": Audited(change=True),
    "poi.v1.DeliveryService/TestTarget": Audited(change=True),
    "poi.v1.DeliveryService/ReplayDeliveries": Audited(_PARENT, change=True),
    # Four eyes.
    "poi.v1.ApprovalService/GetApproval": Audited(),
    "poi.v1.ApprovalService/Approve": Audited(change=True),
    "poi.v1.ApprovalService/Reject": Audited(change=True),
    "poi.v1.ApprovalService/UpdateApprovalSettings": Audited("approval_settings.name", change=True),
    # The auditors themselves.
    "poi.v1.AuditService/ListAuditRecords": Audited(_PARENT),
    "poi.v1.AuditService/ExportAudit": Audited(_PARENT, purpose=True),
    "poi.v1.AuditService/VerifyChain": Audited(_PARENT),
}

NOT_AUDITED: Final[Mapping[str, str]] = {
    "poi.v1.AlertService/RaiseAlerts": "ingest's own: the alerts are the record",
    "poi.v1.AlertService/SummarizeAlerts": "counts",
    "poi.v1.AlertService/GetAlertSettings": "nothing of people",
    "poi.v1.ApprovalService/GetApprovalSettings": "nothing of people",
    "poi.v1.ApprovalService/ListApprovals": "who asked for what, not what was in it",
    "poi.v1.DeliveryService/GetTarget": "nothing of people; secrets are never shown",
    "poi.v1.DeliveryService/ListTargets": "nothing of people; secrets are never shown",
    "poi.v1.DeliveryService/ListDeliveries": "which alerts went where, not what is in them",
    "poi.v1.EmbeddingService/ListModels": "nothing of people",
    "poi.v1.ErasureService/GetReceiptKey": "a public key",
    "poi.v1.ErasureService/ListPersonErasures": "that there were erasures, and how many traces",
    "poi.v1.FeedbackService/SuggestThreshold": "counts",
    "poi.v1.IngestService/GetIngestStatus": "nothing of people",
    "poi.v1.IngestService/ListCameras": "nothing of people",
    "poi.v1.IngestService/ListRejections": "why messages were refused, not what was in them",
    "poi.v1.MatchService/GetGalleryStatus": "counts",
    "poi.v1.MatchService/GetMatchSettings": "nothing of people",
    "poi.v1.RegionService/GetOccupancy": "counts",
    "poi.v1.RegistryService/Register": "where servers are",
    "poi.v1.WatchlistService/GetWatchlist": "rules, not who is on it",
    "poi.v1.WatchlistService/ListWatchlists": "rules, not who is on them",
}
