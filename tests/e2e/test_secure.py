"""The mesh with certificates and authorisation: everything works for who may, and nothing for who may not."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from poi.v1 import alert_pb2, alert_pb2_grpc, common_pb2, history_pb2, history_pb2_grpc, match_pb2, match_pb2_grpc
from typer.testing import CliRunner, Result

from clients.cli.__main__ import app
from clients.replay import CameraTraffic, Publisher, Replay
from demo.material import Person
from demo.steps import Steps
from mesh import channels
from mesh.auth import Role
from mesh.errors import MeshError, NotFound, PermissionDenied, from_rpc
from mesh.local import Mesh
from tests.alert_svc.support import candidate, raise_alerts
from tests.support import embedding, unit

STORE = "store-1"
PARENT = f"stores/{STORE}"
ANN = Person("ann", "Ann", common_pb2.SEVERITY_HIGH, embeddings=(embedding(unit(1)),))


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """All servers but that of the models."""
    services = ["match", "history", "region", "alert", "ingest"]
    env = {"POI_DRAIN_SECONDS": "0", "POI_STORE": STORE}
    with Mesh(tmp_path_factory.mktemp("secure"), env=env, services=services, secure=True) as mesh:
        yield mesh


def frame() -> bytes:
    """A camera's message with Ann."""
    box = {"x": 10, "y": 20, "width": 100, "height": 300}
    face = base64.b64encode(unit(1).astype("<f4").tobytes()).decode()
    seen = {"confidence": 0.99, "bounding_box_px": box, "reid": face}
    person = {"id": 1, "bounding_box_px": box, "confidence": 0.9, "sub_objects": {"face": [seen]}}
    return json.dumps({"timestamp": time.time(), "objects": {"person": [person]}}).encode()


async def refused(call: Awaitable[Any]) -> MeshError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc(caught.value)


async def test_the_demos_steps_each_in_its_role(secure: Mesh) -> None:
    replay = Replay(CameraTraffic(cameras=1, seconds=1.0), secure.mqtt_url)
    publisher, listening = Publisher(secure.mqtt_url), asyncio.Event()
    async with asyncio.timeout(150), Steps(secure, STORE) as steps:
        await steps.enrol(ANN)
        alerts = steps.alerts(replay, listening)
        first = asyncio.ensure_future(anext(aiter(alerts)))
        await listening.wait()
        await steps.cameras_are_heard()
        await asyncio.to_thread(publisher.connect)
        publisher.publish("scenescape/data/camera/door", frame())

        alert = (await first).alert
        assert alert.match.poi == f"{PARENT}/pois/ann"
        acknowledged = await steps.acknowledge(alert, "dana", "on my way")
        found = await steps.search(ANN, None)
        way = await steps.journey(ANN, None)
        await steps.visits()

    assert acknowledged.acknowledgement.actor == "dana"
    assert [hit.appearance.name for hit in found.hits] == [alert.appearance]
    assert len(way.steps) == 1

    # By name: history asks match for her embeddings, as the service it is.
    async with secure.connect("history", Role.ANALYST) as channel:
        search = history_pb2.SearchAppearancesRequest(parent=PARENT, poi=f"{PARENT}/pois/ann")
        assert len((await history_pb2_grpc.HistoryServiceStub(channel).SearchAppearances(search)).hits) == 1


async def test_whoever_may_not_is_refused_whatever_they_try(secure: Mesh) -> None:
    search = history_pb2.SearchAppearancesRequest(parent=PARENT, embedding=embedding(unit(1)))
    async with (
        secure.connect("history", Role.OPERATOR) as operator,
        secure.connect("history", Role.ANALYST) as analyst,
        secure.connect("match") as nobody,
        channels.connect(secure.target("alert")) as plain,
    ):
        error = await refused(history_pb2_grpc.HistoryServiceStub(operator).SearchAppearances(search))
        assert isinstance(error, PermissionDenied)
        search.parent = "stores/store-2"
        error = await refused(history_pb2_grpc.HistoryServiceStub(analyst).SearchAppearances(search))
        assert isinstance(error, NotFound)
        faces = match_pb2.MatchFacesRequest(parent=PARENT, embeddings=[embedding(unit(1))])
        error = await refused(match_pb2_grpc.MatchServiceStub(nobody).MatchFaces(faces))
        assert isinstance(error, PermissionDenied)
        unheard = alert_pb2_grpc.AlertServiceStub(plain).ListAlerts(alert_pb2.ListAlertsRequest(), wait_for_ready=False)
        assert (await refused(unheard)).code is grpc.StatusCode.UNAVAILABLE


def poi(mesh: Mesh, *words: str, roles: tuple[Role, ...], subject: str = "kim") -> Result:
    """The `poi` command of somebody."""
    return CliRunner().invoke(app, list(words), env=mesh.client_env(*roles, subject=subject), prog_name="poi")


async def raised(mesh: Mesh) -> str:
    """An alert, as ingest raises it."""
    assert mesh.secured is not None
    files = mesh.secured.files("ingest")
    async with channels.connect(mesh.target("alert"), service="alert", tls=files) as channel:
        answer = await raise_alerts(alert_pb2_grpc.AlertServiceStub(channel), PARENT, candidate(PARENT, "by-hand"))
    return answer.alerts[0].alert


def test_the_command_line_has_a_certificate_and_a_token(secure: Mesh, tmp_path: Path) -> None:
    status = poi(secure, "status", roles=(Role.AUDITOR,))
    assert status.stdout.count("SERVING") == 5, status.output  # the server of the models is not there

    alert = asyncio.run(raised(secure))
    listed = json.loads(poi(secure, "alerts", "--json", roles=(Role.OPERATOR,)).stdout)["alerts"]
    assert alert in [each["name"] for each in listed]
    resolved = poi(secure, "resolve", alert, roles=(Role.OPERATOR,))
    assert "by kim" in resolved.stdout, resolved.output
    as_another = poi(secure, "resolve", alert, "--actor", "dana", roles=(Role.OPERATOR,))
    assert "ACTOR_MISMATCH" in as_another.stderr
    assert "ROLE_MISSING" in poi(secure, "alerts", roles=(Role.ENROLLER,)).stderr

    env = secure.client_env(Role.OPERATOR)
    without = CliRunner().invoke(app, ["--tls-ca", env["POI_TLS_CA"], "alerts"], prog_name="poi")
    assert without.exit_code == 2
    del env["POI_TLS_CERTIFICATE"], env["POI_TLS_KEY"], env["POI_TLS_CA"]
    in_the_clear = CliRunner().invoke(app, ["alerts"], env=env, prog_name="poi")
    assert "over TLS only" in in_the_clear.stderr
