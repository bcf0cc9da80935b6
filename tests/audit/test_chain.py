"""The chain: whole whoever writes, and whatever is done to it is found and named."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from poi.v1 import audit_pb2

from mesh import redis as connections
from mesh.audit import chain, verify
from mesh.audit.trimming import trim, trim_forever
from mesh.audit.verify import Verifier
from mesh.errors import OutOfRange
from mesh.redis import Redis
from tests.audit.support import STORE, a_record, records
from tests.support.redis import KINDS, RedisOfKind


async def filled(redis: Redis, count: int = 10) -> chain.Chain:
    """A chain of so many records, `test.1` first."""
    made = chain.Chain(redis, STORE)
    for number in range(1, count + 1):
        await made.append([a_record(f"test.{number}")])
    return made


async def faults(redis: Redis, **known: Any) -> list[tuple[int, int, int]]:
    """(kind, first, last) of what is wrong."""
    found = await verify.verify(redis, STORE, **known)
    return [(fault.kind, fault.first_sequence, fault.last_sequence) for fault in found.faults]


async def rewrite(redis: Redis, sequence: int, **changed: bytes) -> None:
    """Changes fields of one entry, as somebody with Redis' password would: everything behind it is put back."""
    log: Any = await redis.xrange(chain.log_key(STORE))
    await redis.delete(chain.log_key(STORE))
    for raw_id, fields in log:
        own = fields | {key.encode(): value for key, value in changed.items()}
        await redis.xadd(chain.log_key(STORE), own if raw_id == f"{sequence}-0".encode() else fields, id=raw_id)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_chain_is_sound_on_every_redis(tmp_path: Path, kind: str) -> None:
    with RedisOfKind(tmp_path, kind) as server:
        client = connections.connect(server.url)
        await filled(client)
        assert await trim(client, STORE, time.time_ns(), "audit") == 10
        found = await verify.verify(client, STORE)
        await client.aclose()

    assert (found.faults, found.count, found.first_sequence, found.last_sequence) == ([], 1, 11, 11)


async def test_records_are_chained_in_order(redis: Redis) -> None:
    await filled(redis, 3)

    first, second, third = await records(redis)

    assert [first.action, second.action, third.action] == ["test.1", "test.2", "test.3"]
    assert [one.sequence for one in (first, second, third)] == [1, 2, 3]
    assert first.previous_hash == chain.genesis(STORE).hex()
    assert (second.previous_hash, third.previous_hash) == (first.hash, second.hash)
    assert third.name == f"stores/{STORE}/auditRecords/3"
    assert await faults(redis) == []


async def test_many_writers_at_once_make_one_chain(redis_url: str, redis: Redis) -> None:
    clients = [connections.connect(redis_url) for _ in range(6)]

    async def write(number: int) -> None:
        own = chain.Chain(clients[number], STORE)
        for at in range(20):
            await own.append([a_record(f"{number}/{at}/{each}") for each in range(2)])

    await asyncio.gather(*(write(number) for number in range(6)))
    for client in clients:
        await client.aclose()

    actions = [record.action for record in await records(redis)]
    assert sorted(actions) == sorted(f"{n}/{at}/{each}" for n in range(6) for at in range(20) for each in range(2))
    for number in range(6):
        own = [action for action in actions if action.startswith(f"{number}/")]
        assert own == [f"{number}/{at}/{each}" for at in range(20) for each in range(2)], "each in its own order"
    assert await faults(redis) == []


async def test_an_append_whose_answer_was_lost_is_not_written_twice(redis: Redis) -> None:
    made = await filled(redis, 2)
    arguments, _ = made._arguments([a_record("once")], 0)
    script = redis.register_script(chain._APPEND)
    keys = [chain.log_key(STORE), chain.head_key(STORE)]

    first, again = await script(keys=keys, args=arguments), await script(keys=keys, args=arguments)

    assert (first[0], again[0]) == (1, 1)
    assert [record.action for record in await records(redis)] == ["test.1", "test.2", "once"]


async def test_a_record_that_was_changed_is_named(redis: Redis) -> None:
    await filled(redis)
    forged = a_record("nothing happened")
    forged.sequence = 4
    await rewrite(redis, 4, r=forged.SerializeToString())

    assert await faults(redis) == [(verify.CHANGED, 4, 4)]


async def test_a_record_that_was_changed_with_its_hash_is_named_by_the_next_one(redis: Redis) -> None:
    await filled(redis)
    forged = a_record("nothing happened")
    forged.sequence = 4
    before = (await records(redis))[2].hash
    content = forged.SerializeToString()
    await rewrite(redis, 4, r=content, h=chain.link(bytes.fromhex(before), content))

    assert await faults(redis) == [(verify.BROKEN_LINK, 5, 5)]


async def test_records_that_were_removed_are_named(redis: Redis) -> None:
    await filled(redis)
    await redis.xdel(chain.log_key(STORE), "5-0", "6-0", "8-0")

    assert await faults(redis) == [(verify.GAP, 5, 6), (verify.GAP, 8, 8)]


async def test_the_last_records_gone_are_found_and_stay_found(redis: Redis) -> None:
    made = await filled(redis)
    await redis.xdel(chain.log_key(STORE), "9-0", "10-0")

    assert await faults(redis) == [(verify.WRONG_END, 9, 10)]

    await made.append([a_record("afterwards")])
    assert await faults(redis) == [(verify.GAP, 9, 10)]


async def test_the_first_records_gone_without_a_word_are_found(redis: Redis) -> None:
    await filled(redis)
    await redis.xtrim(chain.log_key(STORE), minid="4-0", approximate=False)

    assert await faults(redis) == [(verify.WRONG_BEGINNING, 1, 3)]


async def test_a_chain_that_was_cut_back_with_its_head_is_told_by_who_wrote_it(redis: Redis) -> None:
    made = await filled(redis)
    whole = await verify.verify(redis, STORE)
    kept = (await records(redis))[7]
    await redis.xdel(chain.log_key(STORE), "9-0", "10-0")
    await redis.delete(chain.head_key(STORE))
    await redis.hset(chain.head_key(STORE), mapping={"sequence": "8", "hash": bytes.fromhex(kept.hash)})
    assert await faults(redis) == [], "nothing in the chain itself says so"
    known = {"known_sequence": whole.last_sequence, "known_hash": whole.last_hash}
    assert await faults(redis, **known) == [(verify.KNOWN_DIFFERS, 10, 10)]

    await redis.execute_command("XSETID", chain.log_key(STORE), "8-0")  # type: ignore[no-untyped-call]
    await made.append([a_record("afterwards")])

    assert [record.action for record in await records(redis)][-2:] == [chain.WENT_BACK, "afterwards"]
    assert await faults(redis) == [(verify.WENT_BACK, 9, 9)]


@pytest.mark.parametrize("further", [0, 1, 5])
async def test_records_that_redis_lost_are_told_although_others_wrote_on_without_them(
    redis: Redis, further: int
) -> None:
    other = chain.Chain(redis, STORE)
    await other.append([a_record("of another process")])
    made = await filled(redis, 7)
    keys = [chain.log_key(STORE), chain.head_key(STORE)]
    saved = [(key, await redis.dump(key)) for key in keys]
    lost = await made.append([a_record("lost"), a_record("lost, too")])
    for key, content in saved:  # as a replica that takes over, or a file that was not synced, has it
        await redis.restore(key, 0, content or b"", replace=True)
    for number in range(2 + further):
        await other.append([a_record(f"afterwards {number}")])

    await made.append([a_record("of who was told that it was written")])

    *_, told, last = await records(redis)
    assert (told.action, last.action) == (chain.WENT_BACK, "of who was told that it was written")
    assert (told.details[chain.THROUGH], told.details[chain.THROUGH_HASH]) == (str(lost.sequence), lost.hash.hex())
    at = 11 + further
    assert await faults(redis) == [(verify.WENT_BACK, at, at)]
    await made.append([a_record("and only once")])
    assert await faults(redis) == [(verify.WENT_BACK, at, at)]


async def test_a_chain_that_was_lost_as_a_whole_is_told_and_its_store_known_again(redis: Redis) -> None:
    made = await filled(redis, 3)
    await redis.flushall()

    await made.append([a_record("afterwards")])

    assert [record.action for record in await records(redis)] == [chain.WENT_BACK, "afterwards"]
    assert await chain.stores(redis) == [STORE], "or nobody would trim it"


async def test_a_sequence_that_was_there_once_is_not_given_again(redis: Redis) -> None:
    await filled(redis)
    kept = (await records(redis))[7]
    await redis.xdel(chain.log_key(STORE), "9-0", "10-0")
    await redis.hset(chain.head_key(STORE), mapping={"sequence": "8", "hash": bytes.fromhex(kept.hash)})

    await chain.Chain(redis, STORE).append([a_record("of another process")])

    assert await faults(redis) == [(verify.GAP, 9, 10)]


async def test_a_chain_made_anew_does_not_have_the_hash_that_was_known(redis: Redis) -> None:
    await filled(redis)
    whole = await verify.verify(redis, STORE)
    await redis.flushall()
    await filled(redis, 12)

    assert await faults(redis) == []
    known = {"known_sequence": whole.last_sequence, "known_hash": whole.last_hash}
    assert await faults(redis, **known) == [(verify.KNOWN_DIFFERS, 10, 10)]


async def test_what_is_left_after_a_trim_proves_itself(redis: Redis) -> None:
    made = await filled(redis, 5)
    before = await records(redis)
    middle = time.time_ns()
    for number in range(6, 11):
        await made.append([a_record(f"test.{number}")])

    assert await trim(redis, STORE, middle, "audit") == 5
    assert await trim(redis, STORE, middle, "audit") == 0

    kept = await records(redis)
    assert [record.sequence for record in kept] == list(range(6, 12))
    assert kept[-1].action == chain.TRIMMED
    assert dict(kept[-1].details) == {"through_sequence": "5", "through_hash": before[4].hash, "records": "5"}
    assert await faults(redis) == []
    assert await faults(redis, known_sequence=5, known_hash=before[4].hash) == []
    with pytest.raises(OutOfRange):
        await faults(redis, known_sequence=3, known_hash=before[2].hash)
    # More than was trimmed is gone: found all the same.
    await redis.xdel(chain.log_key(STORE), "6-0")
    assert await faults(redis) == [(verify.WRONG_BEGINNING, 1, 6)]


async def test_a_record_of_a_clock_that_was_ahead_keeps_no_older_ones(redis: Redis) -> None:
    made = await filled(redis, 3)
    ahead = a_record("ahead")
    ahead.record_time.FromNanoseconds(time.time_ns() + 400 * 86_400 * 10**9)
    await made.append([ahead, a_record("behind it")])
    middle = time.time_ns()
    await made.append([a_record("young")])

    assert await trim(redis, STORE, middle, "audit") == 5

    assert [record.action for record in await records(redis)] == ["young", chain.TRIMMED]
    assert await faults(redis) == []


async def test_a_clock_that_is_ahead_removes_nothing(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(redis, 3)
    years_ahead = time.time_ns() + 4000 * 86_400 * 10**9
    monkeypatch.setattr("mesh.audit.trimming.time", SimpleNamespace(time_ns=lambda: years_ahead))

    async def once(seconds: float) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr("mesh.audit.trimming.asyncio", SimpleNamespace(sleep=once))
    with pytest.raises(asyncio.CancelledError):
        await trim_forever(redis, 365, 3600, "audit")

    assert len(await records(redis)) == 3


async def test_another_store_has_another_beginning(redis: Redis) -> None:
    await filled(redis, 2)
    taken: Any = await redis.xrange(chain.log_key(STORE))
    for raw_id, fields in taken:
        await redis.xadd(chain.log_key("s2"), fields, id=raw_id)

    found = await verify.verify(redis, "s2")

    assert verify.WRONG_BEGINNING in {fault.kind for fault in found.faults}


def test_bytes_that_are_no_record_are_named() -> None:
    verifier = Verifier(STORE)
    content = b"\xff\xff\xff"
    genesis = chain.genesis(STORE)
    entry = chain.Entry(1, content, genesis, chain.link(genesis, content))

    verifier.take(entry)
    verifier.finish(chain.End(1, entry.hash))

    (fault,) = verifier.faults
    assert (fault.kind, fault.first_sequence) == (audit_pb2.CHAIN_FAULT_KIND_CHANGED, 1)


async def test_an_append_that_is_tried_again_by_its_caller_is_not_written_twice(redis: Redis) -> None:
    made = await filled(redis, 1)
    records_again = [a_record("first"), a_record("second")]
    before = made._end
    await made.append(records_again)
    made._end = before  # as if no answer had come
    await chain.Chain(redis, STORE).append([a_record("of somebody else")])

    await made.append(records_again)

    assert [record.action for record in await records(redis)] == ["test.1", "first", "second", "of somebody else"]
    assert await faults(redis) == []
