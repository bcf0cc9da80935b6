"""Where alerts are in Redis.

Of a store, under `poi:{store}:alerts`: itself a hash, id -> Alert; `:index`, a sorted set of create time and id, for
listing; `:due`, a sorted set of the HIGH alerts that wait for somebody, by the time (epoch ms) since when;
`:window:{poi}`, a hash of camera -> the open alert that takes in the person's repeats; `:added:{id}`, the one that took
in an appearance; `:settings`; `:erased`; and `:log`. `poi:alerts:stores` names the stores for the sweep.
"""

from __future__ import annotations

from typing import Final

from poi.v1 import alert_pb2

from mesh import names

STORES: Final = "poi:alerts:stores"
"""The set of the stores that have alerts."""


def key(store_id: str, part: str = "") -> str:
    """Of a store's alerts: the records, or a part beside them."""
    return f"poi:{{{store_id}}}:alerts:{part}" if part else f"poi:{{{store_id}}}:alerts"


def log_key(store_id: str) -> str:
    """The Redis stream that is the store's log."""
    return key(store_id, "log")


def erased_key(store_id: str) -> str:
    """The references of erased persons, for a while (see `alert_svc.erasing.tombstones`)."""
    return key(store_id, "erased")


def window_key(store_id: str, alert: alert_pb2.Alert) -> str:
    """The windows of the alert's person."""
    return key(store_id, f"window:{names.parse_poi(alert.match.poi)[1]}")
