"""Replicas from a file: what is wrong in it changes nothing."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from mesh.xds.model import Endpoint, Health
from mesh.xds.sources import BadSource
from mesh.xds.sources.file import FileSource, parse
from tests.support import PATIENCE


async def test_a_file_that_is_wrong_or_away_leaves_what_was_known(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.json"
    async with aclosing(FileSource(path).watch()) as source:

        async def next_match() -> set[str]:
            async with asyncio.timeout(PATIENCE):
                return {endpoint.address for endpoint in (await anext(source))["match"]}

        waiting = asyncio.create_task(next_match())
        await asyncio.sleep(0.2)
        assert not waiting.done(), "there is no file yet"
        path.write_text('{"match": ["10.0.0.1:7002"]}')
        assert await waiting == {"10.0.0.1:7002"}

        waiting = asyncio.create_task(next_match())
        for wrong in ("{", '{"match": ["match:7002"]}', '{"printer": []}'):
            path.write_text(wrong)
            await asyncio.sleep(0.2)
        path.unlink()
        await asyncio.sleep(0.2)
        assert not waiting.done()
        path.write_text('{"match": ["10.0.0.2:7002"]}')
        assert await waiting == {"10.0.0.2:7002"}


def test_an_endpoint_may_say_more_than_its_address() -> None:
    found = parse(b'{"match": ["[::1]:7002", {"address": "10.0.0.1:7002", "zone": "b", "health": "not_serving"}]}')

    assert found["match"] == {Endpoint("[::1]:7002"), Endpoint("10.0.0.1:7002", Health.NOT_SERVING, "b")}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "JSON"),
        (b'{"match": [{"zone": "b"}]}', "match.0"),
        (b'{"match": ["10.0.0.1"]}', "host:port"),
        (b'{"match": ["localhost:7002"]}', "localhost"),
        (b'{"printer": []}', "no such service: printer"),
    ],
)
def test_what_cannot_be_used_is_said(content: bytes, why: str) -> None:
    with pytest.raises(BadSource, match=why):
        parse(content)
