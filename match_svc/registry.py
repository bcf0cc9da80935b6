"""The registry of persons of interest in Redis, and the log of its changes that every replica follows.

One script makes a change: record, order, revision, log and request id move together or not at all. All keys share the
hash tag `{gallery}`: the log is one for all stores, so the records must lie in its slot for the script to be atomic.

    poi:{gallery}:log                  stream: each change as r(evision), s(tore), p(oi; empty for settings and lists)
    poi:{gallery}:revision             counter of changes; each entry of the log has the next one
    poi:{gallery}:revisions            hash: store -> revision of its last change
    poi:{gallery}:settings             hash: store -> MatchSettings
    poi:{gallery}:pois:<store>         hash: POI -> "<revision>:" and a Poi with all embeddings (see `records`)
    poi:{gallery}:images:<store>       hash: "<POI>/<reference>" -> its ReferenceImage, without a name
    poi:{gallery}:reembed:<store>      hash: POI -> its record with embeddings made anew, while `reembed` is at work
    poi:{gallery}:order:<store>        sorted set: POI by the revision that enrolled it
    poi:{gallery}:watchlists:<store>   hash: watchlist -> "<revision>:" and a Watchlist
    poi:{gallery}:members:<store>      hash: watchlist -> how many persons are on it
    poi:{gallery}:request:<store>:<h>  string: what a request has done, so that it is never done twice
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast

from poi.v1 import match_pb2, poi_pb2

from match_svc import scripts
from match_svc.records import Records, person, picture
from mesh import names
from mesh.errors import Aborted, AlreadyExists, InvalidArgument, NotFound
from mesh.redis import Redis
from mesh.vault.resealing import SealedHash

LOG: Final = "poi:{gallery}:log"
REVISION: Final = "poi:{gallery}:revision"
REVISIONS: Final = "poi:{gallery}:revisions"
SETTINGS: Final = "poi:{gallery}:settings"

_REQUEST_SECONDS = 24 * 3600
_ATTEMPT_SECONDS = 60
"""How long a write without a request id is remembered: for as long as the connection may repeat it."""
_NONE: Final[Mapping[str, bytes]] = MappingProxyType({})
RACES = 10
"""How often a change without an etag is tried again after somebody else's came between."""


def pois_key(store: str) -> str:
    """The hash of a store's records."""
    return f"poi:{{gallery}}:pois:{store}"


def watchlists_key(store: str) -> str:
    """The hash of a store's watchlists."""
    return f"poi:{{gallery}}:watchlists:{store}"


def members_key(store: str) -> str:
    """The hash of how many persons are on each."""
    return f"poi:{{gallery}}:members:{store}"


def lists_of(store: str, poi: poi_pb2.Poi) -> frozenset[str]:
    """Ids of the watchlists that a person is on. Raises InvalidArgument for one that is none of the store's."""
    ids = set()
    for name in poi.watchlists:
        of, watchlist_id = names.parse_watchlist(name, "poi.watchlists")
        if of != store:
            raise InvalidArgument(violations=[("poi.watchlists", f"{name} is of another store")])
        ids.add(watchlist_id)
    return frozenset(ids)


def images_key(store: str) -> str:
    """The hash of the pictures of a store's references."""
    return f"poi:{{gallery}}:images:{store}"


def reembed_key(store: str) -> str:
    """The hash of records whose embeddings were made anew. A change of a record takes its own away."""
    return f"poi:{{gallery}}:reembed:{store}"


def image_field(reference: str) -> str:
    """Where in that hash the picture of a reference (by its resource name) is."""
    _, poi_id, reference_id = names.parse_reference(reference)
    return f"{poi_id}/{reference_id}"


async def sealed_hashes(redis: Redis) -> list[SealedHash]:
    """Where in Redis lies what `Records` seals."""
    stores = await cast("Awaitable[list[bytes]]", redis.hkeys(REVISIONS))
    hashes = []
    for store in sorted(one.decode() for one in stores):
        hashes += [SealedHash(key(store), store, person, revisioned=True) for key in (pois_key, reembed_key)]
        hashes.append(SealedHash(images_key(store), store, picture))
    return hashes


class _Held(NamedTuple):
    """What a person has beside the record, which a change of the record changes with it."""

    lists: frozenset[str]
    """Ids of watchlists."""
    pictured: frozenset[str]
    """References that have a picture."""

    @classmethod
    def by(cls, store: str, poi: poi_pb2.Poi) -> _Held:
        """Raises InvalidArgument for a list that is none of the store's."""
        return cls(lists_of(store, poi), frozenset(one.name for one in poi.references if one.has_image))


_NOTHING: Final = _Held(frozenset(), frozenset())


@dataclass(frozen=True, slots=True)
class Request:
    """A request that its caller may send again."""

    id: str = ""
    """Of the caller's request id, empty for none."""
    fingerprint: str = ""
    """Of the content."""

    @classmethod
    def of(cls, message: poi_pb2.CreatePoiRequest | poi_pb2.AddReferenceRequest) -> Request:
        """The identity of a message that has a `request_id`."""
        if not message.request_id:
            return cls()
        content = message.SerializeToString(deterministic=True)
        name = f"{message.DESCRIPTOR.name} {message.request_id}"
        return cls(_digest(name.encode()), _digest(content))


class Page(NamedTuple):
    """A part of a store's persons."""

    pois: list[tuple[int, poi_pb2.Poi]]
    """With their places in the order of enrolment."""
    rest: int | None
    """The place behind which there are more; None when there are none."""
    total: int
    """How many the store has in all."""


class Registry:
    """Reads and changes the registry. Raises what redis raises when Redis cannot be reached."""

    def __init__(
        self, redis: Redis, log_length: int, settled: Callable[[int], Awaitable[None]], records: Records | None = None
    ) -> None:
        """Every change awaits `settled(revision)` before it is answered. `records`: sealed ones, unless None."""
        self._redis, self._records = redis, records or Records()
        self._log_length = log_length
        self._settled = settled
        self._write = redis.register_script(scripts.WRITE)
        self._configure = redis.register_script(scripts.CONFIGURE)

    async def get(self, store: str, poi_id: str) -> poi_pb2.Poi:
        """One person with all embeddings. Raises NotFound."""
        value = await cast("Awaitable[bytes | None]", self._redis.hget(pois_key(store), poi_id))
        if value is None:
            raise NotFound(names.poi(store, poi_id))
        return self._records.decode(store, poi_id, value)

    async def exists(self, store: str, poi_id: str) -> bool:
        """Whether a person is enrolled."""
        return bool(await self._redis.hexists(pois_key(store), poi_id))

    async def page(self, store: str, before: int | None, count: int) -> Page:
        """`count` persons, newest first; `before` is the place of the last one of the page before."""
        newest = "+inf" if before is None else f"({before}"
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.zrevrangebyscore(_order_key(store), newest, "-inf", start=0, num=count + 1, withscores=True)
            pipe.zcard(_order_key(store))
            ordered, total = await pipe.execute()
        shown = ordered[:count]
        if not shown:
            return Page([], None, total)
        ids = [poi_id for poi_id, _ in shown]
        values = await cast("Awaitable[list[bytes | None]]", self._redis.hmget(pois_key(store), ids))
        places = [int(place) for _, place in shown]
        found = [
            (place, self._records.decode(store, poi_id.decode(), value))
            for place, poi_id, value in zip(places, ids, values, strict=True)
            if value is not None
        ]
        return Page(found, places[-1] if len(ordered) > count else None, total)

    async def earlier(self, store: str, request: Request) -> poi_pb2.Poi | None:
        """What this request made when it was sent before, as it is now; None when it was not.

        Raises InvalidArgument when the id belongs to another request, and NotFound when the person was deleted since.
        """
        if not request.id:
            return None
        value = cast("bytes | None", await self._redis.get(_request_key(store, request.id)))
        return None if value is None else await self._repeated(store, request, value)

    async def revision(self) -> int:
        """Of the last change."""
        return int(await cast("Awaitable[bytes | None]", self._redis.get(REVISION)) or 0)

    async def picture(self, name: str) -> poi_pb2.ReferenceImage:
        """The picture of a reference. Raises NotFound where there is none."""
        store, _, _ = names.parse_reference(name)
        field = image_field(name)
        value = await cast("Awaitable[bytes | None]", self._redis.hget(images_key(store), field))
        if value is None:
            raise NotFound(name, reason="NO_IMAGE")
        image = self._records.decode_picture(store, field, value)
        image.name = name
        return image

    async def create(
        self, store: str, poi: poi_pb2.Poi, request: Request, pictures: Mapping[str, bytes] = _NONE
    ) -> poi_pb2.Poi:
        """Enrol a new person, named and complete, with `pictures` by reference. Raises AlreadyExists, and NotFound for
        a watchlist."""
        made = await self._attempt(store, poi, poi.name.rpartition("/")[2], "", request, _NOTHING, pictures)
        if made is None:
            raise AlreadyExists(poi.name)
        return made

    async def change(
        self,
        store: str,
        poi_id: str,
        edit: Callable[[poi_pb2.Poi], None],
        *,
        etag: str = "",
        request: Request | None = None,
        pictures: Mapping[str, bytes] = _NONE,
    ) -> poi_pb2.Poi:
        """Let `edit` change a person in place, and keep the result, with the `pictures` of new references.

        Pictures of references that `edit` removes go with them. Raises NotFound (a watchlist, too), Aborted (another
        etag, or others change it all the time), and what `edit` does.
        """
        for _ in range(RACES):
            poi = await self.get(store, poi_id)
            current = poi.etag
            if etag and etag != current:
                raise etag_mismatch(poi.name)
            before = _Held.by(store, poi)
            edit(poi)
            poi.update_time.GetCurrentTime()
            changed = await self._attempt(store, poi, poi_id, current, request or Request(), before, pictures)
            if changed is not None:
                return changed
        raise Aborted(f"{names.poi(store, poi_id)} is being changed by others", reason="CONCURRENT_CHANGE")

    async def delete(self, store: str, poi_id: str, etag: str = "") -> int:
        """Remove a person; the revision of that. Raises NotFound, and Aborted when they no longer have this etag."""
        for _ in range(RACES):
            poi = await self.get(store, poi_id)
            if etag and etag != poi.etag:
                raise etag_mismatch(poi.name)
            held = _Held.by(store, poi)
            outcome, told = await self._run(store, None, poi_id, poi.etag, Request(), held, _NONE)
            if outcome != b"conflict":
                revision = int(told.split(b" ")[0])
                await self._settled(revision)
                return revision
        raise Aborted(f"{names.poi(store, poi_id)} is being changed by others", reason="CONCURRENT_CHANGE")

    async def settings(self, store: str) -> match_pb2.MatchSettings:
        """What was set for a store; without a threshold when nothing was."""
        value = await cast("Awaitable[bytes | None]", self._redis.hget(SETTINGS, store))
        return match_pb2.MatchSettings.FromString(value or b"")

    async def configure(self, store: str, edit: Callable[[match_pb2.MatchSettings], None]) -> match_pb2.MatchSettings:
        """Let `edit` change a store's settings in place, and keep the result. Raises Aborted when others change them
        all the time."""
        for _ in range(RACES):
            before = await cast("Awaitable[bytes | None]", self._redis.hget(SETTINGS, store)) or b""
            settings = match_pb2.MatchSettings.FromString(before)
            edit(settings)
            revision = await self._configure(
                keys=[LOG, REVISION, REVISIONS, SETTINGS],
                args=[store, settings.SerializeToString(), self._log_length, before],
            )
            if int(revision) >= 0:
                await self._settled(int(revision))
                return settings
        raise Aborted("the settings are being changed by others", reason="CONCURRENT_CHANGE")

    async def count(self, store: str) -> int:
        """How many persons are enrolled."""
        return int(await self._redis.zcard(_order_key(store)))

    async def _attempt(
        self,
        store: str,
        poi: poi_pb2.Poi,
        poi_id: str,
        revision: str,
        request: Request,
        before: _Held,
        pictures: Mapping[str, bytes],
    ) -> poi_pb2.Poi | None:
        """Write the record if its revision is still this one; None when it is not.

        `before` is what the person held. Raises NotFound for a list that they are put on.
        """
        outcome, told = await self._run(store, poi, poi_id, revision, request, before, pictures)
        if outcome == b"conflict":
            return None
        if outcome == b"repeated":
            return await self._repeated(store, request, told)
        if outcome == b"unlisted":
            raise NotFound(names.watchlist(store, told.decode()))
        await self._settled(int(told))
        poi.etag = told.decode()
        return poi

    async def _run(
        self,
        store: str,
        poi: poi_pb2.Poi | None,
        poi_id: str,
        revision: str,
        request: Request,
        before: _Held,
        pictures: Mapping[str, bytes],
    ) -> Sequence[bytes]:
        after = _NOTHING if poi is None else _Held.by(store, poi)
        dropped = before.pictured - after.pictured
        kept: list[str | bytes] = []
        for name, image in pictures.items():
            field = image_field(name)
            kept += (field, self._records.encode_picture(store, field, image))
        record = b""
        if poi is not None:
            poi.ClearField("etag")
            record = self._records.encode(store, poi_id, poi)
        answer: Any = await self._write(
            keys=[
                pois_key(store),
                _order_key(store),
                LOG,
                REVISION,
                REVISIONS,
                _request_key(store, request.id or uuid.uuid4().hex),
                watchlists_key(store),
                members_key(store),
                images_key(store),
                reembed_key(store),
            ],
            args=[
                store,
                poi_id,
                revision,
                record,
                request.fingerprint,
                _REQUEST_SECONDS if request.id else _ATTEMPT_SECONDS,
                self._log_length,
                " ".join(after.lists - before.lists),
                " ".join(before.lists - after.lists),
                len(dropped),
                *(image_field(name) for name in dropped),
                *kept,
            ],
        )
        return cast("Sequence[bytes]", answer)

    async def _repeated(self, store: str, request: Request, told: bytes) -> poi_pb2.Poi:
        revision, poi_id, fingerprint = told.decode().split(" ")
        if fingerprint != request.fingerprint:
            raise InvalidArgument(
                violations=[("request_id", "was used for another request within the last day")],
                reason="REQUEST_ID_REUSED",
            )
        await self._settled(int(revision))
        return await self.get(store, poi_id)


def _order_key(store: str) -> str:
    return f"poi:{{gallery}}:order:{store}"


def _request_key(store: str, digest: str) -> str:
    return f"poi:{{gallery}}:request:{store}:{digest}"


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def etag_mismatch(name: str) -> Aborted:
    """Somebody came between."""
    return Aborted(f"{name} has changed since: read it again", reason="ETAG_MISMATCH", metadata={"name": name})
