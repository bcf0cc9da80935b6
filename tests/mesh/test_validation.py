"""Constraints of the contract, on requests and on the messages of streams."""

from __future__ import annotations

import time
from typing import Any

import grpc
import pytest
from poi.v1 import delivery_pb2, history_pb2, poi_pb2, watchlist_pb2

from mesh import errors
from mesh.interceptors.validation import ValidationInterceptor, has_constraints


async def refused(call: Any) -> errors.InvalidArgument:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    told = errors.from_rpc(caught.value)
    assert isinstance(told, errors.InvalidArgument)
    assert told.code == grpc.StatusCode.INVALID_ARGUMENT
    return told


async def test_each_wrong_field_of_a_request_is_named(echo: Any, pb: Any) -> None:
    request = pb.SayRequest(text="x" * 21, items=[pb.Item(), pb.Item(count=-1)], by_key={"a b": pb.Item(count=-2)})
    told = await refused(echo.stub.Say(request))
    assert [field for field, _ in told.violations] == ["text", "items[1].count", 'by_key["a b"].count']
    assert all(description for _, description in told.violations)
    assert echo.servicer.calls == 0


async def test_a_thousand_wrong_fields_are_still_invalid_argument(echo: Any, pb: Any) -> None:
    request = pb.SayRequest(items=[pb.Item(count=-1)] * 1000)
    told = await refused(echo.stub.Say(request))
    assert [field for field, _ in told.violations[:3]] == ["items[0].count", "items[1].count", "items[2].count"]


async def test_a_server_streams_request(echo: Any, pb: Any) -> None:
    told = await refused(anext(aiter(echo.stub.Repeat(pb.SayRequest(text="x" * 21)))))
    assert [field for field, _ in told.violations] == ["text"]


async def test_a_client_stream(echo: Any, pb: Any) -> None:
    good, bad = pb.SayRequest(text="hello"), pb.SayRequest(items=[pb.Item(count=-1)])
    assert (await echo.stub.Collect(iter([good, good]))).count == 2
    told = await refused(echo.stub.Collect(iter([good, bad])))
    assert [field for field, _ in told.violations] == ["items[0].count"]


@pytest.mark.parametrize("method", ["Chat", "Exchange"])
async def test_a_bidi_stream_up_to_the_wrong_message(echo: Any, pb: Any, method: str) -> None:
    call = getattr(echo.stub, method)()
    await call.write(pb.SayRequest(text="hello"))
    assert (await call.read()).text == "hello"
    await call.write(pb.SayRequest(text="x" * 21))
    told = await refused(call.read())
    assert [field for field, _ in told.violations] == ["text"]


async def test_good_messages_pass_every_kind_of_rpc(echo: Any, pb: Any) -> None:
    hello = pb.SayRequest(text="hello")
    assert (await echo.stub.Say(hello)).text == "hello"
    assert [reply.count async for reply in echo.stub.Repeat(hello)] == [0, 1, 2]
    assert (await echo.stub.Collect(iter([hello, hello]))).text == "hello hello"
    assert [reply.text async for reply in echo.stub.Chat(iter([hello, hello]))] == ["hello", "hello"]
    assert [reply.text async for reply in echo.stub.Exchange(iter([hello]))] == ["hello"]
    assert [reply.text async for reply in echo.stub.Free(iter([pb.FreeRequest(text="x" * 99)]))] == ["x" * 99]


@pytest.mark.parametrize(
    ("request_message", "field"),
    [
        (history_pb2.SearchAppearancesRequest(parent="stores/s", image=b"x", cameras=["?"] * 1001), "cameras"),
        (
            history_pb2.EraseAppearancesRequest(
                parent="stores/s", appearances=history_pb2.AppearanceNames(names=["?"] * 1001)
            ),
            "appearances.names",
        ),
        (
            watchlist_pb2.CreateWatchlistRequest(
                parent="stores/s",
                watchlist=watchlist_pb2.Watchlist(
                    overrides=[
                        watchlist_pb2.CameraGroupOverride(),
                        watchlist_pb2.CameraGroupOverride(cameras=["?"] * 1001),
                    ]
                ),
            ),
            "watchlist.overrides[1].cameras",
        ),
        (
            delivery_pb2.CreateTargetRequest(
                parent="stores/s",
                target=delivery_pb2.Target(
                    webhook=delivery_pb2.WebhookTarget(headers={f"?{number}": "" for number in range(21)})
                ),
            ),
            "target.webhook.headers",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_of_a_list_that_is_too_long_no_item_is_looked_at(request_message: Any, field: str) -> None:
    """A message has room for millions of wrong ones: to find them all took a minute and gigabytes."""
    with pytest.raises(errors.InvalidArgument) as caught:
        ValidationInterceptor().check(request_message)
    assert [path for path, _ in caught.value.violations] == [field]


def test_what_the_contract_leaves_to_the_handler_is_left_alone() -> None:
    """A row of an import, for one: it is answered, and the stream goes on."""
    row = poi_pb2.ImportPoisRequest(request=poi_pb2.CreatePoiRequest(images=[b""] * 11))
    ValidationInterceptor().check(row)
    with pytest.raises(errors.InvalidArgument):
        ValidationInterceptor().check(row.request)


def test_types_without_constraints_are_recognised(pb: Any) -> None:
    assert has_constraints(pb.SayRequest.DESCRIPTOR)
    assert has_constraints(pb.Item.DESCRIPTOR)
    assert not has_constraints(pb.FreeRequest.DESCRIPTOR), "also where a type holds itself"
    assert not has_constraints(pb.SayReply.DESCRIPTOR)


def test_a_message_costs_microseconds(pb: Any) -> None:
    validation = ValidationInterceptor()
    constrained, free = pb.SayRequest(text="hello"), pb.FreeRequest(text="hello")

    def cost(message: Any) -> float:
        validation.check(message)
        best = float("inf")
        for _ in range(300):  # of many: the one that nobody disturbed
            started = time.perf_counter()
            for _ in range(20):
                validation.check(message)
            best = min(best, time.perf_counter() - started)
        return best / 20 * 1e6  # us a message

    assert cost(free) < 5
    assert cost(constrained) < 100
