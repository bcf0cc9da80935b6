"""The request log: which lines, and nothing of what a request holds."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest


def lines(err: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, err.splitlines()) if "rpc_method" in line]


async def test_lines(echo: Any, pb: Any, capsys: pytest.CaptureFixture[str]) -> None:
    await echo.stub.Say(pb.SayRequest(text="hello"))
    with pytest.raises(grpc.aio.AioRpcError):
        await echo.stub.Say(pb.SayRequest(text="missing"))
    assert [reply.text async for reply in echo.stub.Chat(iter([pb.SayRequest(text="hello")]))] == ["hello"]
    await echo.server.stop()
    written = lines(capsys.readouterr().err)
    assert [(line["event"], line["rpc_method"], line.get("code"), line["level"]) for line in written] == [
        ("rpc", "Say", "OK", "debug"),
        ("rpc", "Say", "NOT_FOUND", "info"),
        ("stream_started", "Chat", None, "info"),
        ("stream_ended", "Chat", "OK", "info"),
    ]
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") for line in written)
    assert all(line["duration_ms"] >= 0 for line in written if "code" in line)


async def test_contents_are_never_logged(echo: Any, pb: Any, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "Jane-Doe-was-here-and-bought-nothing"
    with pytest.raises(grpc.aio.AioRpcError):
        await echo.stub.Say(pb.SayRequest(text=secret))
    call = echo.stub.Free(iter([pb.FreeRequest(text=secret)]))
    assert [reply.text async for reply in call] == [secret]
    await echo.server.stop()
    err = capsys.readouterr().err
    assert len(lines(err)) == 3
    assert secret not in err
