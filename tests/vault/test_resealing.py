"""What lies in Redis gets today's key, and nothing that is changed at the same moment is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mesh import redis as connections
from mesh.vault.resealing import SealedHash, keep_sealed, reseal
from tests.support.waiting import until
from tests.vault.conftest import STORE, Keys

PEOPLE = SealedHash("poi:people", STORE, str.encode, revisioned=True)
PICTURES = SealedHash("poi:pictures", STORE, str.encode)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Any]:
    made = connections.connect(redis_url)
    yield made
    await made.aclose()


async def put(client: Any, key: str, **values: bytes) -> None:
    await client.hset(key, mapping=dict(values))


async def get(client: Any, key: str, field: str) -> bytes:
    value: bytes | None = await client.hget(key, field)
    assert value is not None
    return value


async def test_what_was_in_the_clear_is_sealed_and_revisions_stay(client: Any, keys: Keys) -> None:
    vault = keys.vault(accept_plain=True)
    await put(client, PEOPLE.key, p1=b"7:a name: hers", p2=b"8:" + vault.seal(STORE, b"sealed", b"p2"))
    before = await get(client, PEOPLE.key, "p2")

    assert await reseal(client, vault, PEOPLE) == 1

    revision, _, content = (await get(client, PEOPLE.key, "p1")).partition(b":")
    assert revision == b"7"
    assert keys.vault().open(STORE, content, b"p1") == b"a name: hers"
    assert await get(client, PEOPLE.key, "p2") == before
    assert await reseal(client, vault, PEOPLE) == 0


async def test_after_a_rotation_nothing_needs_the_old_key(client: Any, keys: Keys) -> None:
    vault = keys.vault()
    await put(client, PICTURES.key, **{f"p{number}": vault.seal(STORE, b"x", b"p%d" % number) for number in range(200)})
    other = SealedHash("poi:other", "nobody", str.encode)

    async def hashes() -> list[SealedHash]:
        return [other, PICTURES]  # a store without keys keeps no other from its own

    running = asyncio.create_task(keep_sealed(client, vault, hashes, look=0.01))
    keys.run("rotate")

    async def is_done() -> bool:
        values: dict[bytes, bytes] = await client.hgetall(PICTURES.key)
        return all(vault.is_current(STORE, value) for value in values.values())

    await until(is_done)
    assert vault.current(STORE) == 2
    assert vault.open(STORE, await get(client, PICTURES.key, "p199"), b"p199") == b"x"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_is_written_in_the_clear_behind_the_first_pass_is_sealed_as_well(client: Any, keys: Keys) -> None:
    vault = keys.vault(accept_plain=True)
    await put(client, PICTURES.key, a=b"before")
    passes = 0

    async def hashes() -> list[SealedHash]:
        nonlocal passes
        passes += 1
        if passes == 2:  # by a server that is being exchanged
            await put(client, PICTURES.key, b=b"late")
        return [PICTURES]

    running = asyncio.create_task(keep_sealed(client, vault, hashes, look=0.01))

    async def is_done() -> bool:
        values: dict[bytes, bytes] = await client.hgetall(PICTURES.key)
        return len(values) == 2 and all(vault.is_current(STORE, value) for value in values.values())

    await until(is_done)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_change_that_comes_between_is_not_undone(
    client: Any, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = keys.vault(accept_plain=True)
    await put(client, PICTURES.key, a=b"before", b=b"stays")
    values: dict[bytes, bytes] = await client.hgetall(PICTURES.key)

    async def scanned(key: str, cursor: int, count: int) -> tuple[int, dict[bytes, bytes]]:
        await put(client, PICTURES.key, a=b"after")
        return 0, values

    monkeypatch.setattr(client, "hscan", scanned)
    assert await reseal(client, vault, PICTURES) == 1
    assert await get(client, PICTURES.key, "a") == b"after"
    assert vault.is_current(STORE, await get(client, PICTURES.key, "b"))


async def test_what_cannot_be_opened_stays_and_the_rest_goes_on(client: Any, keys: Keys) -> None:
    vault = keys.vault(accept_plain=True)
    damaged = bytearray(vault.seal(STORE, b"x", b"bad"))
    damaged[-1] ^= 1
    keys.run("rotate")
    await put(client, PICTURES.key, bad=bytes(damaged), good=b"plain")

    assert await reseal(client, vault, PICTURES) == 1

    assert await get(client, PICTURES.key, "bad") == bytes(damaged)
