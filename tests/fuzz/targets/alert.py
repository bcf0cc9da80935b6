"""AlertService, FeedbackService and DeliveryService. Nothing is delivered: the neighbours know nobody."""

from __future__ import annotations

from functools import partial

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from poi.v1 import alert_pb2, common_pb2, delivery_pb2, feedback_pb2

from tests.alert_svc.support import candidate
from tests.fuzz import traces
from tests.fuzz.logs import NAME
from tests.fuzz.requests import Requests, Seeds, nothing
from tests.fuzz.target import Target

STORE = "stores/store-1"
POI, LIST, CAMERA = f"{STORE}/pois/p1", f"{STORE}/watchlists/w1", f"{STORE}/cameras/c1"
APPEARANCE, ALERT, TARGET = f"{STORE}/appearances/a1", f"{STORE}/alerts/x", f"{STORE}/targets/t1"


def make() -> Target:
    """With an alert, a report and a target that writes to the log."""
    raised = candidate(STORE, "a1", "p1")
    raised.match.watchlists.append(LIST)
    raised.match.display_name = NAME
    target = delivery_pb2.Target(
        display_name="Log",
        enabled=True,
        log=delivery_pb2.LogTarget(),
        filter=delivery_pb2.TargetFilter(
            cameras=[CAMERA], pois=[POI], watchlists=[LIST], events=[alert_pb2.ALERT_EVENT_RAISED]
        ),
    )
    named = delivery_pb2.Target(name=TARGET)
    named.MergeFrom(target)
    webhook = delivery_pb2.Target(
        display_name="Hook", webhook=delivery_pb2.WebhookTarget(url="https://127.0.0.1:1/", headers={"X-A": "b"})
    )
    mqtt = delivery_pb2.Target(
        display_name="Mqtt", mqtt=delivery_pb2.MqttTarget(broker_url="mqtt://127.0.0.1:1", topic="a/b")
    )
    settings = alert_pb2.AlertSettings(
        name=f"{STORE}/alertSettings",
        suppression_window=Duration(seconds=60),
        escalation_margin=0.2,
        suppression_rules=[alert_pb2.SuppressionRule(watchlists=[LIST], cameras=[CAMERA], window=Duration(seconds=5))],
    )
    seeds: Seeds = {
        **traces.seeds(STORE),
        "RaiseAlerts": [
            alert_pb2.RaiseAlertsRequest(parent=STORE, candidates=[raised, candidate(STORE, "a2", "p1")]),
            alert_pb2.RaiseAlertsRequest(parent=STORE, candidates=[candidate(STORE, "a3", "p2", similarity=0.6)]),
        ],
        "StreamAlerts": [
            alert_pb2.StreamAlertsRequest(
                parent=STORE, cursor="0-0", cameras=[CAMERA], pois=[POI], min_severity=common_pb2.SEVERITY_LOW
            ),
            alert_pb2.StreamAlertsRequest(parent=STORE, start_time=raised.detect_time),
        ],
        "ListAlerts": [
            alert_pb2.ListAlertsRequest(parent=STORE, page_size=1),
            alert_pb2.ListAlertsRequest(
                parent=STORE,
                interval=common_pb2.Interval(start_time=raised.detect_time),
                cameras=[CAMERA],
                pois=[POI],
                watchlists=[LIST],
            ),
        ],
        "GetAlert": [alert_pb2.GetAlertRequest(name=ALERT)],
        "AcknowledgeAlert": [alert_pb2.AcknowledgeAlertRequest(name=ALERT, actor="ann", note="seen")],
        "ConfirmAlert": [alert_pb2.ConfirmAlertRequest(name=ALERT, actor="ann")],
        "RejectAlert": [alert_pb2.RejectAlertRequest(name=ALERT, actor="ann")],
        "ResolveAlert": [alert_pb2.ResolveAlertRequest(name=ALERT, actor="ann")],
        "ExportAlert": [alert_pb2.ExportAlertRequest(name=ALERT, actor="ann", purpose="court")],
        "SummarizeAlerts": [
            alert_pb2.SummarizeAlertsRequest(
                parent=STORE,
                interval=common_pb2.Interval(start_time=raised.detect_time, end_time=raised.detect_time),
            )
        ],
        "GetAlertSettings": [alert_pb2.GetAlertSettingsRequest(name=f"{STORE}/alertSettings")],
        "UpdateAlertSettings": [
            alert_pb2.UpdateAlertSettingsRequest(alert_settings=settings, update_mask=FieldMask(paths=["*"]))
        ],
        "ReportMatch": [
            feedback_pb2.ReportMatchRequest(
                parent=STORE, appearance=APPEARANCE, poi=POI, verdict=verdict, actor="ann", camera=CAMERA
            )
            for verdict in feedback_pb2.MatchVerdict.values()[1:]
        ],
        "ListMatchReports": [feedback_pb2.ListMatchReportsRequest(parent=STORE, pois=[POI], page_size=1)],
        "SuggestThreshold": [
            feedback_pb2.SuggestThresholdRequest(parent=STORE, poi=POI, max_missed_share=0.1, cameras=[CAMERA])
        ],
        "CreateTarget": [
            delivery_pb2.CreateTargetRequest(parent=STORE, target_id=f"t{number}", target=one)
            for number, one in enumerate((webhook, target, mqtt))
        ],
        "GetTarget": [delivery_pb2.GetTargetRequest(name=TARGET)],
        "ListTargets": [delivery_pb2.ListTargetsRequest(parent=STORE, page_size=1)],
        "UpdateTarget": [delivery_pb2.UpdateTargetRequest(target=named, update_mask=FieldMask(paths=["*"]))],
        "TestTarget": [delivery_pb2.TestTargetRequest(name=TARGET)],
        "ListDeliveries": [delivery_pb2.ListDeliveriesRequest(parent=TARGET, page_size=1)],
        "ReplayDeliveries": [
            delivery_pb2.ReplayDeliveriesRequest(parent=TARGET, deliveries=[f"{TARGET}/deliveries/1"])
        ],
    }
    texts = (STORE, POI, LIST, CAMERA, APPEARANCE, ALERT, TARGET, f"{STORE}/alertSettings", "t1", "ann", "*")
    env = partial(nothing, POI_ALERT_DELIVERY_TIMEOUT_SECONDS="0.2")
    return Requests("alert_svc", env, seeds=seeds, texts=texts).target()
