"""What the control plane counts."""

from prometheus_client import Counter, Gauge

STREAMS = Gauge("poi_xds_streams", "Open streams of clients", ["client", "variant"])
RESPONSES = Counter("poi_xds_responses_total", "Responses sent", ["client", "type"])
NACKS = Counter("poi_xds_nacks_total", "Responses that a client refused", ["client", "type"])
REFUSING = Gauge("poi_xds_refusing", "Subscriptions whose latest response was refused", ["client", "type"])
ENDPOINTS = Gauge("poi_xds_endpoints", "Replicas known", ["service", "health"])
CHANGES = Counter("poi_xds_changes_total", "Snapshots published")
REJECTED = Counter("poi_xds_rejected_sources_total", "Contents of the source that could not be used")
ISSUER_FAILURES = Counter("poi_xds_issuer_failures_total", "Times that keys of tokens could not be had", ["issuer"])
ISSUER_KEYS = Gauge("poi_xds_issuer_keys", "Keys whose tokens the gateway takes", ["issuer"])
