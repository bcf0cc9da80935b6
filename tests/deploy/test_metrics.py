"""What Prometheus keeps for a year tells nobody who was seen."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from prometheus_client import REGISTRY

from mesh.telemetry import MONITORING
from tests.deploy.states import ZERO_TRUST
from tests.deploy.test_manifests import documents, find

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("mesh", "embed_svc", "match_svc", "history_svc", "alert_svc", "ingest_svc")
WORDS = {
    *("grpc_type", "grpc_service", "grpc_method", "grpc_code", "call", "variant", "type", "kind"),
    *("reason", "went", "result", "verdict", "event", "health", "service", "client", "issuer"),
}
"""Labels whose values are words of our own, or of settings."""
IDS = {"store", "camera", "watchlist", "poi"}
"""Labels with ids of resources: none is a display name, and none leads to an appearance, a face or an alert."""


def test_labels_are_words_and_ids_only() -> None:
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            if re.search(r"^from prometheus_client import", file.read_text(), re.MULTILINE):
                import_module(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))

    labels = {
        name: set(getattr(collector, "_labelnames", ()))
        for collector, names in REGISTRY._collector_to_names.items()
        for name in names
        if name.startswith(("poi_", "grpc_"))
    }

    assert len(labels) > 50, "they were all seen"
    assert {name: used - WORDS - IDS for name, used in labels.items() if used - WORDS - IDS} == {}
    assert {name for name, used in labels.items() if "poi" in used and name.endswith("_total")} == {
        "poi_alert_verdicts_by_poi_total"
    }


def test_metrics_are_for_namespaces_that_monitor_with_the_certificate_for_that() -> None:
    spec = find("NetworkPolicy", "metrics")["spec"]
    certificates = {one["metadata"]["name"]: one["spec"] for one in documents(ZERO_TRUST / "certificates.yaml")}

    assert spec["ingress"] == [
        {
            "from": [{"namespaceSelector": {"matchLabels": {"poi-mesh/monitoring": "true"}}}],
            "ports": [{"protocol": "TCP", "port": "metrics"}],
        }
    ]
    assert certificates[MONITORING]["uris"] == [f"spiffe://poi-mesh/mesh/{MONITORING}"]
    assert "server auth" not in certificates[MONITORING]["usages"]
