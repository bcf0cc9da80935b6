"""AppendDetections: durable answers in order, repeats, and bad items that cost themselves only."""

import grpc
import numpy as np
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2
from poi.v1 import common_pb2, history_pb2

from mesh.errors import Draining, InvalidArgument, from_rpc
from mesh.local import Service
from tests.history_svc.client import STORE, Client, detection
from tests.history_svc.conftest import StartHistory
from tests.support import unit

pytestmark = pytest.mark.both_stores


def _reason(details: list[Any]) -> str:
    info = error_details_pb2.ErrorInfo()
    assert details[0].Unpack(info)
    return info.reason


async def test_stored_detections_are_named_with_their_appearance(client: Client) -> None:
    first, second = detection(unit(1), at=0), detection(unit(1), at=1)

    response = await client.append(first, second)

    assert response.batch_id == 7
    assert [one.detection_id for one in response.stored] == [first.detection_id, second.detection_id]
    assert {one.appearance for one in response.stored} == {f"{STORE}/appearances/{first.detection_id}"}
    assert [one.first for one in response.stored] == [True, False]


async def test_repeats_are_answered_as_before_and_not_stored_again(client: Client, server: Service) -> None:
    batch = [detection(unit(1), at=at, object_id=object_id) for object_id in "ab" for at in range(3)]
    once = await client.append(*batch)

    again = await client.append(*batch, *batch)
    server.restart()
    after_restart = await client.append(*batch)

    assert list(again.stored) == [*once.stored, *once.stored]
    assert list(after_restart.stored) == list(once.stored)
    assert sorted(one.detection_count for one in await client.appearances()) == [3, 3]


async def test_repeats_in_flight_are_stored_once(client: Client) -> None:
    batch = history_pb2.AppendDetectionsRequest(parent=STORE, detections=[detection(unit(1), at=at) for at in range(9)])

    answers = [response async for response in client.stream([batch] * 20)]

    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    (appearance,) = await client.appearances()
    assert appearance.detection_count == 9


async def test_many_batches_in_flight_are_answered_in_order(client: Client) -> None:
    requests = [
        history_pb2.AppendDetectionsRequest(
            parent=STORE, batch_id=number, detections=[detection(at=number, object_id=str(number % 7))]
        )
        for number in range(200)
    ]

    answers = [response async for response in client.stream(requests)]

    assert [answer.batch_id for answer in answers] == list(range(200))
    assert [answer.stored[0].detection_id for answer in answers] == [
        request.detections[0].detection_id for request in requests
    ]


def _changed(**fields: object) -> common_pb2.Detection:
    one = detection(unit(1), at=50)
    for name, value in fields.items():
        if value is None:
            one.ClearField(name)  # type: ignore[arg-type]
        else:
            setattr(one, name, value)
    return one


def _with_embedding(vector: np.ndarray, model: str = "") -> common_pb2.Detection:
    one = detection(unit(1), at=50)
    one.embedding.vector = vector.astype("<f4").tobytes()
    one.embedding.model = model or one.embedding.model
    return one


def _at(seconds: float) -> common_pb2.Detection:
    one = detection(at=0)
    one.detect_time.FromSeconds(int(one.detect_time.seconds + 3600 + seconds))
    return one


def _with_box(x: float) -> common_pb2.Detection:
    one = detection(at=50)
    one.person_box.x = x
    return one


_BAD: list[tuple[common_pb2.Detection, str]] = [
    (_changed(detection_id=None), "INVALID_ARGUMENT"),
    (_changed(detection_id="x" * 32), "INVALID_ARGUMENT"),
    (_changed(detection_id="AB" * 16), "INVALID_ARGUMENT"),
    (_changed(camera=None), "INVALID_NAME"),
    (_changed(camera="stores/store-1/cameras/"), "INVALID_NAME"),
    (_changed(camera="stores/other/cameras/c"), "WRONG_STORE"),
    (_changed(object_id=None), "INVALID_ARGUMENT"),
    (_changed(object_id="x" * 1000), "INVALID_ARGUMENT"),
    (_changed(detect_time=None), "INVALID_ARGUMENT"),
    (_at(-8 * 86400), "TIME_OUT_OF_RANGE"),
    (_at(86_400), "TIME_OUT_OF_RANGE"),  # far enough: tests run long after they are collected
    (_with_box(float("nan")), "INVALID_ARGUMENT"),
    (_with_embedding(np.full(256, np.nan)), "INVALID_EMBEDDING"),
    (_with_embedding(2 * unit(1)), "INVALID_EMBEDDING"),
    (_with_embedding(np.zeros(256)), "INVALID_EMBEDDING"),
    (_with_embedding(unit(1, 128)), "INVALID_EMBEDDING"),
    (_with_embedding(unit(1), "another-model"), "MODEL_MISMATCH"),
]


async def test_a_bad_detection_costs_itself_only(client: Client) -> None:
    good = [detection(unit(1), at=at) for at in range(len(_BAD))]

    response = await client.append(*(one for pair in zip(good, [bad for bad, _ in _BAD], strict=True) for one in pair))

    assert [one.detection_id for one in response.stored] == [one.detection_id for one in good]
    assert [(error.index, error.item_id) for error in response.errors] == [
        (2 * at + 1, bad.detection_id) for at, (bad, _) in enumerate(_BAD)
    ]
    assert [_reason(list(error.status.details)) for error in response.errors] == [reason for _, reason in _BAD]


async def test_a_batch_for_another_store_is_refused(client: Client) -> None:
    response = await client.append(detection(), detection(at=1), parent="stores/other")

    assert not response.stored
    assert [error.index for error in response.errors] == [0, 1]
    assert {_reason(list(error.status.details)) for error in response.errors} == {"WRONG_STORE"}


async def test_what_is_over_256_detections_is_refused(client: Client) -> None:
    response = await client.append(*(detection(at=at / 100) for at in range(258)))

    assert len(response.stored) == 256
    assert [(error.index, _reason(list(error.status.details))) for error in response.errors] == [
        (256, "BATCH_TOO_LARGE"),
        (257, "BATCH_TOO_LARGE"),
    ]


@pytest.mark.parametrize(
    ("field", "huge"),
    [
        ("detections", history_pb2.AppendDetectionsRequest(parent=STORE, detections=[common_pb2.Detection()] * 1025)),
        ("frames", history_pb2.AppendDetectionsRequest(parent=STORE, frames=[history_pb2.FrameUpload()] * 1025)),
    ],
    ids=["detections", "frames"],
)
async def test_a_batch_that_is_far_too_large_is_not_answered_item_by_item(
    any_client: Client, field: str, huge: history_pb2.AppendDetectionsRequest
) -> None:
    """A message has room for millions of empty ones, and each refusal takes fifty times the room of one."""
    good = history_pb2.AppendDetectionsRequest(parent=STORE, batch_id=1)
    answers = any_client.stream([good, huge])
    answered = [(await anext(answers)).batch_id]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await anext(answers)

    error = from_rpc(raised.value)
    assert isinstance(error, InvalidArgument)
    assert (error.reason, [path for path, _ in error.violations], answered) == ("BATCH_TOO_LARGE", [field], [1])


async def test_a_stream_is_answered_and_then_ended_when_the_server_stops(start: StartHistory) -> None:
    server = start()
    async with Client(server.target) as client:
        call = client.stub.AppendDetections()
        await call.write(history_pb2.AppendDetectionsRequest(parent=STORE, batch_id=1, detections=[detection()]))
        answer = await call.read()
        assert isinstance(answer, history_pb2.AppendDetectionsResponse)
        assert answer.batch_id == 1

        server.stop()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call.read()
    assert isinstance(from_rpc(raised.value), Draining)
