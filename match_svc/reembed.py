"""Makes the embeddings of all references anew, from their pictures: when the face model, or how it is run, has changed.

    python -m match_svc reembed [--store ID] [--model NAME] [--prepare] [--anew] [--drop]

The new records are put beside the gallery (`poi:{gallery}:reembed:<store>`), which goes on matching. When every person
has theirs, one script puts them in the place of the old ones, and every replica loads the registry anew: each matches
with all of the old embeddings until it matches with all of the new ones. It can be killed and started again at any
time: what was prepared is used, unless `--anew` says not to (the model is run in another way since). Whoever is changed
or removed meanwhile is looked at again; nothing of a removed person stays.

A reference without a picture, or on whose picture no face is found, keeps its embeddings: it goes on matching where
they are of the same model, and is listed otherwise. Where that is all that somebody has, nothing is switched unless
`--drop` says that these persons need not be matched; they stay enrolled.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import grpc
from poi.v1 import common_pb2, embedding_pb2, embedding_pb2_grpc, poi_pb2
from redis.exceptions import RedisError
from rich.console import Console

from match_svc.photos import ALIGNMENTS
from match_svc.records import Records
from match_svc.registry import LOG, REVISION, REVISIONS, image_field, images_key, pois_key, reembed_key
from match_svc.settings import MatchServerSettings
from mesh import channels
from mesh import redis as mesh_redis
from mesh.embeddings import FACE_MODEL
from mesh.errors import from_rpc
from mesh.redis import Redis
from mesh.settings import load
from mesh.vault.settings import box_of

_MIN_CONFIDENCE: Final = 0.5
"""The picture was accepted when it was enrolled; what it shows is known."""
_AT_ONCE: Final = 4
_CHUNK: Final = 100
_ROUNDS: Final = 20
"""How often persons that were changed meanwhile are looked at again."""
_ATTEMPTS: Final = 6
_FIRST_WAIT: Final = 0.2
_TELL_EVERY: Final = 500

# Only if the person is as they were when this was made from them.
_PUT = """
local record = redis.call('HGET', KEYS[1], ARGV[1])
if not record or string.match(record, '^%d+') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
return 1
"""

# Each change of a person takes away what was made from them, so that a count says whether all are there. The revision
# goes up by two and the log says so once: to replicas that is a gap, and they load all anew.
_SWITCH = """
if redis.call('HLEN', KEYS[1]) ~= redis.call('HLEN', KEYS[2]) then return 0 end
redis.call('RENAME', KEYS[2], KEYS[1])
local revision = redis.call('INCRBY', KEYS[3], 2)
redis.call('HSET', KEYS[4], ARGV[1], revision)
redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[2], '*', 'r', revision, 's', ARGV[1], 'p', '')
redis.call('DEL', KEYS[6])
return revision
"""


class ReembedError(Exception):
    """It cannot go on; the text says why. What was done is kept."""


@dataclass(slots=True)
class Findings:
    """What the new gallery of a store is like."""

    people: int = 0
    renewed: int = 0
    """References with new embeddings."""
    kept: int = 0
    """References with the embeddings they had, of the same model."""
    unmatched: list[str] = field(default_factory=list)
    """References that keep embeddings of another model, and so are not matched any more."""
    vanishing: list[str] = field(default_factory=list)
    """Persons who have no others."""

    def note(self, poi: poi_pb2.Poi, before: poi_pb2.Poi, model: str) -> None:
        """Take in a person as they will be, and as they are."""
        old = {reference.name: reference for reference in before.references}
        strange = [reference.name for reference in poi.references if reference.model != model]
        new = sum(1 for reference in poi.references if reference != old.get(reference.name))
        self.people += 1
        self.renewed += new
        self.kept += len(poi.references) - len(strange) - new
        self.unmatched += strange
        if len(strange) == len(poi.references):
            self.vanishing.append(poi.name)


class Reembedding:
    """The work on one store."""

    def __init__(
        self,
        redis: Redis,
        embedding: embedding_pb2_grpc.EmbeddingServiceAsyncStub,
        store: str,
        model: str,
        *,
        timeout: float,
        log_length: int,
        say: Callable[[str], None],
        records: Records | None = None,
    ) -> None:
        """`timeout` in seconds for one picture; `say` takes lines for whoever watches."""
        self._redis, self._records = redis, records or Records()
        self._embedding = embedding
        self._store = store
        self._model = model
        self._timeout = timeout
        self._log_length = log_length
        self._say = say
        self._put = redis.register_script(_PUT)
        self._switch = redis.register_script(_SWITCH)
        self._side = reembed_key(store)
        self._of = f"{self._side}:model"

    async def prepared(self) -> int:
        """How many have a new record of an earlier run with this model."""
        model = cast("bytes | None", await self._redis.get(self._of))
        return await self._redis.hlen(self._side) if model == self._model.encode() else 0

    async def forget(self) -> None:
        """Drop what an earlier run has prepared."""
        await self._redis.delete(self._side)

    async def prepare(self) -> None:
        """Have a new record of everybody. Raises ReembedError."""
        before = cast("bytes | None", await self._redis.get(self._of))
        if before is not None and before.decode() != self._model:
            await self._redis.delete(self._side)  # of another model: begun, and given up
        await self._redis.set(self._of, self._model)
        for _ in range(_ROUNDS):
            missing = await self._missing()
            if not missing:
                return
            done = 0
            for start in range(0, len(missing), _CHUNK):
                chunk = missing[start : start + _CHUNK]
                await _limited(self._person, chunk)
                done += len(chunk)
                if done % _TELL_EVERY == 0:
                    self._say(f"{self._store}: {done} of {len(missing)} persons")
        raise ReembedError(f"{self._store}: persons are being changed all the time; start it again")

    async def findings(self) -> Findings:
        """What is prepared."""
        found = Findings()
        cursor = 0
        while True:
            cursor, part = await cast("Awaitable[Any]", self._redis.hscan(self._side, cursor, count=_CHUNK))
            if not part:
                if not cursor:
                    return found
                continue
            before = await cast("Awaitable[list[bytes | None]]", self._redis.hmget(pois_key(self._store), list(part)))
            for (poi_id, value), old in zip(part.items(), before, strict=True):
                person = poi_id.decode()
                new = self._records.decode(self._store, person, value)
                found.note(new, self._records.decode(self._store, person, old) if old else poi_pb2.Poi(), self._model)
            if not cursor:
                return found

    async def switch(self) -> bool:
        """Put the new records in place of the old ones, all at once; False when somebody was changed meanwhile."""
        if not await self._redis.hlen(pois_key(self._store)):
            return True
        keys = [pois_key(self._store), self._side, REVISION, REVISIONS, LOG, self._of]
        return bool(await self._switch(keys=keys, args=[self._store, self._log_length]))

    async def _missing(self) -> list[str]:
        """Who has no new record, after those of nobody were removed."""
        there = set(await cast("Awaitable[list[bytes]]", self._redis.hkeys(pois_key(self._store))))
        prepared = set(await cast("Awaitable[list[bytes]]", self._redis.hkeys(self._side)))
        if gone := list(prepared - there):
            await self._redis.hdel(self._side, *gone)
        return sorted(poi_id.decode() for poi_id in there - prepared)

    async def _person(self, poi_id: str) -> None:
        value = await cast("Awaitable[bytes | None]", self._redis.hget(pois_key(self._store), poi_id))
        if value is None:
            return
        poi = self._records.decode(self._store, poi_id, value)
        for reference in poi.references:
            await self._renew(reference)
        base, poi.etag = poi.etag, ""
        # Another revision than the old record's, and one that no change ever gets: a change of the old record that is
        # under way at the switch must not pass for one of the new record.
        record = b"0%s:%s" % (base.encode(), self._records.encode(self._store, poi_id, poi))
        await self._put(keys=[pois_key(self._store), self._side], args=[poi_id, base, record])

    async def _renew(self, reference: poi_pb2.Reference) -> None:
        """New embeddings from the picture, where there is one that shows the face."""
        if not reference.has_image:
            return
        key, where = images_key(self._store), image_field(reference.name)
        value = await cast("Awaitable[bytes | None]", self._redis.hget(key, where))
        if value is None:
            return
        picture = self._records.decode_picture(self._store, where, value)
        faces = await self._faces(picture.image)
        near = [face for face in faces if _distance(face.box, picture.face_box) < picture.face_box.width / 2]
        if not near:
            return
        face = min(near, key=lambda one: _distance(one.box, picture.face_box))
        model = face.embeddings[0].model
        if model != self._model:
            raise ReembedError(f"the embedding service computes {model}, not {self._model}")
        reference.model = model
        del reference.embeddings[:]
        reference.embeddings.extend(face.embeddings)

    async def _faces(self, image: bytes) -> Sequence[embedding_pb2.Face]:
        request = embedding_pb2.DetectFacesRequest(
            parent=f"stores/{self._store}",
            image=image,
            options=embedding_pb2.FaceOptions(min_confidence=_MIN_CONFIDENCE, alignments=ALIGNMENTS),
        )
        for attempt in range(_ATTEMPTS):
            try:
                return (await self._embedding.DetectFaces(request, timeout=self._timeout)).faces
            except grpc.aio.AioRpcError as error:
                told = from_rpc(error)
                if not told.retryable or attempt == _ATTEMPTS - 1:
                    raise ReembedError(f"the embedding service says: {told.message} ({told.reason})") from error
            await asyncio.sleep(_FIRST_WAIT * 2**attempt)
        raise AssertionError("unreachable")


async def reembed(
    settings: MatchServerSettings,
    store: str,
    model: str,
    *,
    prepare_only: bool,
    drop: bool,
    console: Console,
    anew: bool = False,
) -> bool:
    """Do it for a store; whether the gallery is, or could be, switched. `anew`: without what was prepared before.

    Raises ReembedError, and what redis raises.
    """

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    redis = mesh_redis.connect(settings.redis_url)
    embed = channels.to_service(settings, "embed")
    try:
        work = Reembedding(
            redis,
            embedding_pb2_grpc.EmbeddingServiceStub(embed),
            store,
            model,
            timeout=settings.embed_timeout,
            log_length=settings.log_length,
            say=say,
            records=Records(box_of(settings, store)),
        )
        if anew:
            await work.forget()
        elif before := await work.prepared():
            say(f"{store}: goes on with {before} persons of an earlier run; --anew makes them again")
        for _ in range(_ROUNDS):
            await work.prepare()
            found = await work.findings()
            say(f"{store}: {found.people} persons, {found.renewed} references anew, {found.kept} kept as they are")
            for name in found.unmatched:
                say(f"no longer matched: {name}")
            for name in found.vanishing:
                say(f"would have no reference that is matched: {name}")
            if prepare_only:
                say(f"{store}: prepared; the gallery is as it was")
                return True
            if found.vanishing and not drop:
                say(f"{store}: not switched; --drop does it without them, who stay enrolled and are not matched")
                return False
            if await work.switch():
                say(f"{store}: switched to {model}")
                return True
        raise ReembedError(f"{store}: persons are being changed all the time; start it again")
    finally:
        await redis.aclose()
        await embed.close()


def run(argv: Sequence[str]) -> None:
    """The command. Ends with status 1 when nothing was switched, 2 for a wrong option or setting."""
    parser = argparse.ArgumentParser(
        prog="python -m match_svc reembed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings, as of the service")
    parser.add_argument(
        "--store", default=os.environ.get("POI_STORE", "store-1"), help="id of the store (default: %(default)s)"
    )
    parser.add_argument("--model", default=FACE_MODEL, help="that the embedding service runs (default: %(default)s)")
    parser.add_argument("--prepare", action="store_true", help="compute, and leave the gallery as it is")
    parser.add_argument("--anew", action="store_true", help="use nothing that an earlier run has prepared")
    parser.add_argument("--drop", action="store_true", help="switch although some persons are matched no more")
    chosen = parser.parse_args(argv)
    if chosen.model != FACE_MODEL and not chosen.prepare:
        parser.error(
            f"replicas of this release match {FACE_MODEL} only: --prepare now, and switch with a release that matches"
            f" {chosen.model}"
        )
    settings = load(MatchServerSettings, ["--config", chosen.config] if chosen.config else [])
    console = Console(soft_wrap=True)
    try:
        done = asyncio.run(
            reembed(
                settings,
                chosen.store,
                chosen.model,
                prepare_only=chosen.prepare,
                drop=chosen.drop,
                console=console,
                anew=chosen.anew,
            )
        )
    except ReembedError as error:
        console.print(f"stopped: {error}", markup=False)
        done = False
    except (RedisError, OSError) as error:
        console.print(f"stopped: Redis: {type(error).__name__}: {error}", markup=False)
        done = False
    except KeyboardInterrupt:
        console.print("stopped; the next run goes on from here")
        raise SystemExit(130) from None
    if not done:
        raise SystemExit(1)


async def _limited(work: Callable[[str], Awaitable[None]], items: Iterable[str]) -> None:
    """`work` for each item, a few at a time. What one raises ends the others."""
    free = asyncio.Semaphore(_AT_ONCE)

    async def one(item: str) -> None:
        async with free:
            await work(item)

    tasks = [asyncio.create_task(one(item)) for item in items]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _distance(one: common_pb2.BoundingBox, other: common_pb2.BoundingBox) -> float:
    """Between their centres."""
    across = (one.x + one.width / 2) - (other.x + other.width / 2)
    down = (one.y + one.height / 2) - (other.y + other.height / 2)
    return math.hypot(across, down)
