"""`poi alert-settings`, and `poi alerts` with lists, events and twins."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable

import pytest
from poi.v1 import alert_pb2, match_pb2
from typer.testing import CliRunner

from clients.cli.__main__ import app
from mesh.local import Service
from tests.alert_svc.support import candidate, connected, raise_alerts

Poi = Callable[..., str]


@pytest.fixture
def poi(alert_server: Service, store: str) -> Poi:
    """Runs the command; its output, or its complaint where it fails."""
    env = {"POI_ALERT_TARGET": alert_server.target, "POI_STORE": store.removeprefix("stores/")}

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, arguments, env=env, prog_name="poi")
        return result.stdout if result.exit_code == 0 else result.stderr

    return run


def raise_twins(server: Service, store: str) -> str:
    """An alert of Jo, on the list `vip`, with Bo as runner-up; its id. Then Bo is better."""

    async def run() -> str:
        jo, bo = candidate(store, poi="jo", similarity=0.7), candidate(store, poi="bo", similarity=0.72)
        bo.match.display_name = "Bo"
        jo.match.watchlists.append(f"{store}/watchlists/vip")
        bo.runners_up.append(match_pb2.Match(poi=jo.match.poi, similarity=0.7))
        async with connected(server.target) as client:
            made = await raise_alerts(client, store, jo, bo)
        assert made.alerts[1].runner_up
        return made.alerts[0].alert.rpartition("/")[2]

    return asyncio.run(run())


def test_settings_are_shown_and_changed_in_parts(poi: Poi) -> None:
    shown = poi("alert-settings")
    assert "better by 0.10 escalates" in shown
    assert "a HIGH alert escalates after 5 min unseen" in shown
    assert re.split(r" {2,}", shown.splitlines()[-1].strip()) == ["all", "all", "all", "none", "the same camera"]

    rules = ("--rule", "list=vip,list=staff,window=1h,scope=store", "--rule", "camera=door,poi=p7,window=0")
    changed = poi("alert-settings", "--window", "90", "--scope", "store", "--delay", "2m", "--margin", "0.2", *rules)
    rows = [re.split(r" {2,}", line.strip()) for line in changed.splitlines()[-3:]]
    assert rows == [
        ["staff, vip", "all", "all", "1 h", "any camera"],
        ["all", "door", "p7", "none", "the same camera"],
        ["all", "all", "all", "90 s", "any camera"],
    ]
    poi("alert-settings", "--no-rules")
    kept = json.loads(poi("alert-settings", "--json"))
    assert kept.pop("name").endswith("/alertSettings")
    assert kept == {
        "suppressionWindow": "90s",
        "suppressionScope": "SUPPRESSION_SCOPE_POI",
        "escalationMargin": 0.2,
        "escalationDelay": "120s",
    }
    assert "after 5 min unseen" in poi("alert-settings", "--reset")


def test_settings_that_make_no_sense_are_refused(poi: Poi) -> None:
    assert "says no window=TIME" in poi("alert-settings", "--rule", "list=vip")
    assert "is none of list=" in poi("alert-settings", "--rule", "colour=red,window=1m")
    assert "not like 30s, 5m or 2h" in poi("alert-settings", "--window", "soon")
    assert "exclude each other" in poi("alert-settings", "--no-rules", "--rule", "window=1m")
    assert "goes alone" in poi("alert-settings", "--reset", "--window", "1m")
    assert "86400" in poi("alert-settings", "--window", "25h")


def test_alerts_are_filtered_by_list_and_event_and_name_twins(poi: Poi, alert_server: Service, store: str) -> None:
    alert = raise_twins(alert_server, store)
    assert "Bo 0.72" in poi("alerts", "--watchlist", "vip")
    assert alert in poi("alerts", "--poi", "bo")
    assert poi("alerts", "--watchlist", "staff") == "no alerts\n"
    followed = poi("alerts", "--follow", "--since", "1h", "--event", "escalated", "--limit", "1")
    (line,) = followed.splitlines()
    assert "ESCALATED" in line
    assert line.endswith("for RUNNER_UP  or Bo 0.72")
    assert "--event goes with --follow" in poi("alerts", "--event", "raised")
    events = {name.removeprefix("ALERT_EVENT_") for name in alert_pb2.AlertEvent.keys()}  # noqa: SIM118
    for event in events - {"UNSPECIFIED", "HEARTBEAT"}:
        made = poi(
            "targets", "create", "--id", event.lower(), "--log", "--event", event, "--watchlist", "vip", "--json"
        )
        assert json.loads(made)["filter"] == {
            "events": [f"ALERT_EVENT_{event}"],
            "watchlists": [f"{store}/watchlists/vip"],
        }
