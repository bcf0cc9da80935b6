"""What the demo shows on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2, common_pb2, delivery_pb2, history_pb2, region_pb2
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from demo import erasure, keep
from demo.steps import SeenAlert
from mesh.local import USUAL_PORTS, Mesh

_ROOT = Path(__file__).resolve().parents[1]
_COLOUR = {common_pb2.SEVERITY_HIGH: "bold red", common_pb2.SEVERITY_MEDIUM: "yellow", common_pb2.SEVERITY_LOW: "blue"}


def alert(console: Console, seen: SeenAlert) -> None:
    """One line for an alert."""
    match, raised = seen.alert.match, seen.alert
    latency = "" if seen.latency_ms is None else f", {seen.latency_ms:.0f} ms after the camera's message"
    line = Text("ALERT ", style=_COLOUR.get(match.severity, ""))
    line.append(f"{match.display_name}", style="bold")
    line.append(
        f" at {raised.camera.rpartition('/')[2]}, similarity {match.similarity:.2f} "
        f"(threshold {match.threshold:.2f}){latency}"
    )
    console.print(line)


def acknowledgement(console: Console, acknowledged: alert_pb2.Alert) -> None:
    """Who looks after an alert."""
    said, camera = acknowledged.acknowledgement, acknowledged.camera.rpartition("/")[2]
    console.print(
        f"Acknowledged the alert of {acknowledged.match.display_name} at {camera}: {said.actor}, {said.note!r}.",
        markup=False,
    )


def deliveries(console: Console, url: str, messages: Sequence[delivery_pb2.DeliveryMessage], refused: int) -> None:
    """What the webhook was told."""
    table = Table(title=f"Delivered to the webhook {url}, each signature checked", title_justify="left")
    for heading in ("event", "person", "camera", "state"):
        table.add_column(heading)
    for message in messages:
        told = message.alert
        table.add_row(
            alert_pb2.AlertEvent.Name(message.event).removeprefix("ALERT_EVENT_"),
            told.match.display_name,
            told.camera.rpartition("/")[2],
            alert_pb2.AlertState.Name(told.state).removeprefix("ALERT_STATE_"),
        )
    console.print(table)
    if refused:
        console.print(f"{refused} messages had a wrong signature", style="red")


def hits(console: Console, title: str, response: history_pb2.SearchAppearancesResponse) -> None:
    """The result of a search."""
    table = Table(title=title, title_justify="left")
    for heading in ("camera", "from", "to", "similarity", "faces", "frames", "zones meanwhile"):
        table.add_column(heading)
    for hit in response.hits:
        appearance = hit.appearance
        zones = dict.fromkeys(visit.zone.rpartition("/")[2] for visit in appearance.visits)
        table.add_row(
            appearance.camera.rpartition("/")[2],
            _clock(appearance.start_time),
            _clock(appearance.end_time),
            f"{hit.similarity:.2f}",
            str(appearance.face_count),
            str(len(appearance.frames)),
            ", ".join(zones) or "-",
        )
    console.print(table)


def journey(console: Console, title: str, way: history_pb2.GetJourneyResponse) -> None:
    """Where the person was, in order."""
    table = Table(title=title, title_justify="left")
    for heading in ("from", "to", "camera", "zone"):
        table.add_column(heading)
    for step in way.steps:
        table.add_row(
            _clock(step.start_time),
            _clock(step.end_time),
            step.camera.rpartition("/")[2],
            step.zone.rpartition("/")[2],
        )
    console.print(table)


def files(console: Console, saved: Sequence[Path]) -> None:
    """What was saved, to open."""
    if not saved:
        return
    console.print(f"Saved in {saved[0].parent}:", markup=False, soft_wrap=True)
    for path in saved:
        console.print(f"  {path.name}", markup=False)


def visits(console: Console, found: Sequence[region_pb2.Visit]) -> None:
    """Who was in which zone for how long."""
    table = Table(title="Visits to zones", title_justify="left")
    for heading in ("person", "zone", "from", "to", "dwell"):
        table.add_column(heading)
    for visit in found:
        table.add_row(
            visit.object_id[:8],
            visit.zone.rpartition("/")[2],
            _clock(visit.enter_time),
            _clock(visit.exit_time) if visit.HasField("exit_time") else "still there",
            f"{visit.dwell.ToMilliseconds() / 1000:.1f} s",
        )
    console.print(table)


def commands(console: Console, mesh: Mesh, store: str) -> None:
    """How to look around with a tool that knows nothing of this project."""
    buf = "node_modules/.bin/buf" if (_ROOT / "node_modules/.bin/buf").exists() else "buf"
    curl = f"{buf} curl --protocol grpc --http2-prior-knowledge"
    alerts, match, history = (f"http://{mesh.target(name)}" for name in ("alert", "match", "history"))
    elsewhere = [
        f"POI_{name.upper()}_TARGET={service.target}"
        for name, service in mesh.services.items()
        if service.target != f"127.0.0.1:{USUAL_PORTS[name]}"
    ]
    parent = f'\'{{"parent": "stores/{store}"}}\''
    lines = [
        "# what a server offers (it answers reflection; grpcurl -plaintext works as well)",
        f"{curl} --list-methods {alerts}",
        f"grpcurl -plaintext {mesh.target('history')} describe poi.v1.HistoryService",
        "# who is enrolled, what was seen, alerts from now on",
        f"{curl} -d {parent} {match}/poi.v1.PoiService/ListPois",
        f"{curl} -d {parent} {history}/poi.v1.HistoryService/ListAppearances",
        f"{curl} -d {parent} {alerts}/poi.v1.AlertService/StreamAlerts",
        *(
            [
                "# the same through the gateway, as from outside: REST, or the command line of the project",
                f"curl http://{mesh.gateway.gateway}/v1/stores/{store}/pois",
                f"curl -N http://{mesh.gateway.gateway}/v1/stores/{store}/alerts:stream",
                f".venv/bin/poi --store {store} --gateway http://{mesh.gateway.gateway} alerts --follow",
            ]
            if mesh.gateway
            else []
        ),
        "# the command line on the servers themselves",
        *([f"export {' '.join(elsewhere)}"] if elsewhere else []),
        f".venv/bin/poi --store {store} status",
        f".venv/bin/poi --store {store} alerts --follow",
        f".venv/bin/poi --store {store} frame PICTURE -o alert.jpg",
        f".venv/bin/poi --store {store} export ALERT --purpose 'case 1' --out case.zip",
        "# who was erased, and whether the receipt is genuine",
        f".venv/bin/poi --store {store} person list",
        f".venv/bin/poi person verify {keep.DIRECTORY / erasure.RECEIPT} --key {keep.DIRECTORY / erasure.KEY}",
        "# more traffic: synthetic cameras",
        f".venv/bin/python -m clients.replay --mqtt {mesh.mqtt_url}",
    ]
    console.print(Panel("Look around while it runs (Ctrl-C ends it)", expand=False))
    for line in lines:
        console.print(line, style="dim" if line.startswith("#") else "", markup=False, highlight=False, soft_wrap=True)


def _clock(time: Timestamp) -> str:
    return time.ToDatetime().strftime("%H:%M:%S.%f")[:-5]
