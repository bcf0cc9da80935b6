"""The gateway as its clients meet it: REST, gRPC-Web, gRPC; what it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import grpc
import httpx
import pytest
from poi.v1 import (
    alert_pb2,
    alert_pb2_grpc,
    embedding_pb2,
    embedding_pb2_grpc,
    match_pb2,
    region_pb2,
    region_pb2_grpc,
)

from mesh.local import Envoy
from tests.support import PATIENCE, until
from tests.xds.conftest import ControlPlane, Replica, StartReplica, gallery_status, who

MATCH = {"poi": "stores/s1/pois/p1", "reference": "stores/s1/pois/p1/references/r1", "similarity": 0.5}
CANDIDATE = {"camera": 'a "b" \\', "detectTime": "2026-11-20T09:00:00Z", "detection_id": "", "match": MATCH}
PAGE = "https://console.example"
GALLERY = "/v1/stores/s1/galleryStatus"
RAISE = "/v1/stores/s1/alerts:raise"


class Edge:
    """A gateway in front of one replica of match and alert."""

    def __init__(self, plane: ControlPlane, envoy: Envoy, replica: Replica, http: httpx.AsyncClient) -> None:
        self.address, self.envoy, self.replica, self.http = plane.gateway, envoy, replica, http


@pytest.fixture
async def edge(
    control_plane: Callable[..., ControlPlane], envoy: Callable[..., Envoy], replica: StartReplica
) -> AsyncIterator[Callable[..., object]]:
    clients: list[httpx.AsyncClient] = []

    async def start(**env: str) -> Edge:
        server = await replica(7)
        settings = {"POI_XDS_GATEWAY_CORS_ORIGINS": json.dumps([PAGE]), **env}
        plane = await asyncio.to_thread(control_plane, settings, match=[server], alert=[server], region=[server])
        program = await asyncio.to_thread(envoy, plane)
        client = httpx.AsyncClient(base_url=f"http://{plane.gateway}", timeout=PATIENCE)
        clients.append(client)

        async def there() -> bool:
            return (await client.get(GALLERY)).status_code == 200

        await until(there)
        return Edge(plane, program, server, client)

    yield start
    for client in clients:
        await client.aclose()


StartEdge = Callable[..., "asyncio.Future[Edge]"]


async def test_the_same_api_as_rest_grpc_web_and_grpc(
    edge: StartEdge, channel: Callable[[str], grpc.aio.Channel]
) -> None:
    gateway = await edge()
    http = gateway.http

    answer = await http.get(GALLERY)
    assert answer.json() == {"name": "stores/s1/galleryStatus", "revision": "7"}
    assert gateway.replica.metadata["x-request-id"] == answer.headers["x-request-id"]
    missing = await http.get("/v1/stores/nowhere/galleryStatus")
    assert (missing.status_code, missing.json()["code"]) == (404, 5)
    assert missing.json()["details"][0]["domain"] == "poi-mesh"

    async with http.stream("GET", "/v1/stores/s1/alerts:stream") as stream:
        lines = stream.aiter_lines()
        names = [json.loads(await anext(lines))["alert"]["name"] for _ in range(3)]
    assert names == [f"stores/s1/alerts/{number}" for number in range(3)]

    message = gallery_status().SerializeToString()
    frame = b"\0" + len(message).to_bytes(4, "big") + message
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", "origin": PAGE}
    web = await http.post("/poi.v1.MatchService/GetGalleryStatus", content=frame, headers=headers)
    size = int.from_bytes(web.content[1:5], "big")
    assert match_pb2.GalleryStatus.FromString(web.content[5 : 5 + size]).revision == 7
    assert b"grpc-status:0" in web.content[5 + size :].replace(b" ", b"")
    assert web.headers["access-control-allow-origin"] == PAGE
    assert "grpc-status" in web.headers["access-control-expose-headers"]
    stranger = await http.get(GALLERY, headers={"origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in stranger.headers

    assert await who(channel(gateway.address), 1) == [7]
    stub = alert_pb2_grpc.AlertServiceStub(channel(gateway.address))
    request = alert_pb2.StreamAlertsRequest(parent="stores/s1")
    assert (await anext(aiter(stub.StreamAlerts(request)))).alert.name == "stores/s1/alerts/0"

    document = await http.get("/openapi.json")
    assert document.headers["content-type"] == "application/json"
    assert GALLERY.replace("s1", "{store}") in document.json()["paths"]


async def test_what_the_contract_does_not_know_is_refused(edge: StartEdge) -> None:
    gateway = await edge()

    async def post(content: object) -> httpx.Response:
        return await gateway.http.post(RAISE, json=content)

    for content, field in (
        ({"colour": "red"}, "colour"),
        ({"candidates": [CANDIDATE, {"match": {"similarty": 1}}]}, "candidates.match.similarty"),
    ):
        refused = await post(content)
        assert refused.status_code == 400, refused.text
        assert refused.headers["content-type"] == "application/json"
        assert refused.json()["details"][1]["fieldViolations"][0]["field"] == field
    assert not gateway.replica.raised

    reached = await post({"candidates": [CANDIDATE]})

    assert reached.status_code == 200, reached.text
    (candidate,) = gateway.replica.raised[0].candidates
    assert (candidate.camera, candidate.match.similarity) == ('a "b" \\', 0.5)


async def test_what_the_gateway_answers_itself_is_a_status_as_well(
    edge: StartEdge, channel: Callable[[str], grpc.aio.Channel]
) -> None:
    gateway = await edge()
    http, code = gateway.http, grpc.StatusCode

    for answer, status, expected, about in (
        (await http.get(GALLERY, params={"colour": "red"}), 400, code.INVALID_ARGUMENT, "colour"),
        (await http.post(RAISE, content=b'{"candidates": ['), 400, code.INVALID_ARGUMENT, ""),
        (await http.get("/v1/stores/s1/nothing"), 404, code.NOT_FOUND, "/v1/stores/s1/nothing"),
        (
            await http.get("/v1/stores/s1/models"),
            503,
            code.UNAVAILABLE,
            "no healthy upstream",
        ),
    ):
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
        assert answer.json()["code"] == expected.value[0]
        assert answer.json()["details"][0]["domain"] == "poi-mesh"
        assert about in answer.json()["message"]

    stub = embedding_pb2_grpc.EmbeddingServiceStub(channel(gateway.address))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.ListModels(embedding_pb2.ListModelsRequest(parent="stores/s1"), timeout=5)
    assert (error.value.code(), error.value.details()) == (code.UNAVAILABLE, "no healthy upstream")


async def test_who_sends_slowly_may_who_stalls_may_not_and_a_stream_may_be_silent(
    edge: StartEdge, channel: Callable[[str], grpc.aio.Channel]
) -> None:
    gateway = await edge(POI_XDS_GATEWAY_STALL_SECONDS="3")

    async def slow() -> AsyncIterator[bytes]:
        yield b'{"candidates": [' + json.dumps(CANDIDATE).encode()
        for _ in range(24):  # all in all longer than a call of this service may take
            await asyncio.sleep(0.5)
            yield b" "
        yield b"]}"

    async def stall() -> bytes:
        reader, writer = await asyncio.open_connection(*gateway.address.split(":"))
        writer.write(f"POST {RAISE} HTTP/1.1\r\nhost: gateway\r\ncontent-length: 100\r\n\r\n{{".encode())
        answer = await reader.readline()
        writer.close()
        return answer

    async def silent() -> int:
        stub = region_pb2_grpc.RegionServiceStub(channel(gateway.address))
        call = stub.RecordSceneUpdates()
        await call.write(region_pb2.RecordSceneUpdatesRequest(parent="stores/s1", batch_id=1))
        await call.read()
        await asyncio.sleep(6)
        await call.write(region_pb2.RecordSceneUpdatesRequest(parent="stores/s1", batch_id=2))
        answer = await call.read()
        assert isinstance(answer, region_pb2.RecordSceneUpdatesResponse)
        return answer.batch_id

    sent, stalled, batch = await asyncio.gather(gateway.http.post(RAISE, content=slow()), stall(), silent())

    assert (sent.status_code, batch) == (200, 2)
    assert stalled.split()[1] == b"408"
    assert [request.candidates[0].camera for request in gateway.replica.raised] == [CANDIDATE["camera"]]


@pytest.mark.parametrize("content", ["0," * 300_000, '"a", ' * 300_000, '"' + '\\"' * 300_000 + '",'])
async def test_a_body_of_countless_values_holds_up_nobody(edge: StartEdge, content: str) -> None:
    gateway = await edge()

    answer = await gateway.http.post(RAISE, content='{"candidates": [' + content + "0]}")

    assert (answer.status_code, answer.json()["details"][0]["reason"]) == (400, "TOO_MANY_VALUES")


async def test_large_bodies_and_headers_are_refused(edge: StartEdge) -> None:
    gateway = await edge(POI_XDS_GATEWAY_MAX_BODY_BYTES="4000000")

    async def post(size: int) -> int:
        answer = await gateway.http.post(RAISE, json={"candidates": [{"camera": "x" * size}]})
        return answer.status_code

    assert await post(5_000_000) == 413
    assert await post(3_000_000) != 413
    answer = await gateway.http.get(GALLERY, headers={"x-filler": "x" * 40_000})
    assert answer.status_code == 431


async def test_a_client_that_calls_too_often_is_told_so(
    edge: StartEdge, channel: Callable[[str], grpc.aio.Channel]
) -> None:
    gateway = await edge(POI_XDS_GATEWAY_CALLS_PER_SECOND="1", POI_XDS_GATEWAY_BURST="5")

    async def answers() -> list[int]:
        """All at once: however long they take, that is too often."""
        found = await asyncio.gather(*(gateway.http.get(GALLERY) for _ in range(100)))
        return [answer.status_code for answer in found]

    assert 429 in await answers()
    refused = await asyncio.gather(*(gateway.http.get(GALLERY) for _ in range(100)))
    assert {answer.json()["code"] for answer in refused if answer.status_code == 429} == {8}
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await who(channel(gateway.address), 1_000)  # it ends at the first refusal
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await gateway.http.get("/healthz")).status_code == 200
