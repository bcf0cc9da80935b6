"""gRPC on one side, the watchlists of the registry on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias, cast

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from poi.v1 import watchlist_pb2, watchlist_pb2_grpc

from match_svc import hours
from match_svc.gallery import Snapshot
from match_svc.policy import RulesOf, effective
from match_svc.registry import Registry
from match_svc.removals import Removals
from match_svc.watchlists import Stored, Watchlists
from mesh import names, pages
from mesh.errors import InvalidArgument

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in its stubs only

CHANGEABLE: Final = (
    "display_name",
    "purpose",
    "threshold",
    "severity",
    "cameras",
    "hours",
    "time_zone",
    "retention",
    "overrides",
)
_PAGE, _MOST_PAGE = 50, 1000


class WatchlistServicer(watchlist_pb2_grpc.WatchlistServiceServicer):
    """poi.v1.WatchlistService."""

    def __init__(
        self,
        registry: Registry,
        watchlists: Watchlists,
        removals: Removals,
        rules: RulesOf,
        gallery: Callable[[str], Snapshot],
    ) -> None:
        """`gallery` gives a store's, for who on a list has expired."""
        self._registry = registry
        self._gallery = gallery
        self._watchlists = watchlists
        self._removals = removals
        self._rules_of = rules

    async def CreateWatchlist(
        self, request: watchlist_pb2.CreateWatchlistRequest, context: Context
    ) -> watchlist_pb2.Watchlist:
        """Make."""
        (store,) = names.parse_store(request.parent)
        watchlist = watchlist_pb2.Watchlist(name=names.watchlist(store, request.watchlist_id))
        _change(watchlist, request.watchlist, CHANGEABLE)
        watchlist.create_time.GetCurrentTime()
        watchlist.update_time.CopyFrom(watchlist.create_time)
        return await self._shown(store, Stored(await self._watchlists.create(store, watchlist), 0))

    async def GetWatchlist(
        self, request: watchlist_pb2.GetWatchlistRequest, context: Context
    ) -> watchlist_pb2.Watchlist:
        """Read."""
        store, watchlist_id = names.parse_watchlist(request.name)
        return await self._shown(store, await self._watchlists.get(store, watchlist_id))

    async def ListWatchlists(
        self, request: watchlist_pb2.ListWatchlistsRequest, context: Context
    ) -> watchlist_pb2.ListWatchlistsResponse:
        """Read many, by id."""
        (store,) = names.parse_store(request.parent)
        count = pages.clamp(request.page_size, _PAGE, _MOST_PAGE)
        after = pages.decode(request.page_token, request, after=pages.text).get("after", "")
        rest = [one for one in await self._watchlists.all(store) if one.watchlist.name > after]
        response = watchlist_pb2.ListWatchlistsResponse()
        response.watchlists.extend(await self._all_shown(store, rest[:count]))
        if len(rest) > count:
            response.next_page_token = pages.encode({"after": response.watchlists[-1].name}, request)
        return response

    async def UpdateWatchlist(
        self, request: watchlist_pb2.UpdateWatchlistRequest, context: Context
    ) -> watchlist_pb2.Watchlist:
        """Change."""
        wanted = request.watchlist
        store, watchlist_id = names.parse_watchlist(wanted.name, "watchlist.name")
        fields = _paths(request)
        changed = await self._watchlists.change(
            store, watchlist_id, lambda watchlist: _change(watchlist, wanted, fields), wanted.etag
        )
        await self._removals.effective(int(changed.watchlist.etag), context)
        return await self._shown(store, changed)

    async def DeleteWatchlist(self, request: watchlist_pb2.DeleteWatchlistRequest, context: Context) -> Empty:
        """Remove."""
        revision = await self._watchlists.delete(*names.parse_watchlist(request.name), etag=request.etag)
        await self._removals.effective(revision, context)
        return Empty()

    async def _shown(self, store: str, one: Stored) -> watchlist_pb2.Watchlist:
        (shown,) = await self._all_shown(store, [one])
        return shown

    async def _all_shown(self, store: str, stored: list[Stored]) -> list[watchlist_pb2.Watchlist]:
        """With what follows from the persons on them."""
        lists = [one.watchlist for one in stored]
        members = {one.watchlist.name.rpartition("/")[2]: one.members for one in stored}
        expired = self._gallery(store).expired
        persons = await self._registry.count(store) - expired.persons
        matched = {one: max(0, count - expired.members.get(one, 0)) for one, count in members.items()}
        policy = self._rules_of(await self._registry.settings(store), lists).policy(persons, matched)
        for watchlist_id, watchlist in zip(members, lists, strict=True):
            count = matched[watchlist_id]
            watchlist.poi_count = members[watchlist_id]
            watchlist.effective.CopyFrom(effective(policy.lists[watchlist_id].everywhere.cosines, count))
        return lists


def _paths(request: watchlist_pb2.UpdateWatchlistRequest) -> Iterable[str]:
    """The fields to change (AIP-134). Raises InvalidArgument for one that cannot be changed."""
    mask = request.update_mask.paths
    if not mask:
        given = _given(request.watchlist)
        return [name for name in CHANGEABLE if name in given]
    if "*" in mask:
        return CHANGEABLE
    if wrong := [path for path in mask if path not in CHANGEABLE]:
        allowed = ", ".join(CHANGEABLE)
        raise InvalidArgument(
            violations=[("update_mask", f"{path[:100]!r} cannot be changed; {allowed} can") for path in wrong],
            reason="INVALID_UPDATE_MASK",
        )
    return list(mask)


def _change(watchlist: watchlist_pb2.Watchlist, wanted: watchlist_pb2.Watchlist, fields: Iterable[str]) -> None:
    """Copy these fields, cleared ones too, and check what comes out. Raises InvalidArgument."""
    chosen = watchlist_pb2.Watchlist()
    chosen.CopyFrom(wanted)
    for name in _given(wanted).difference(fields):
        cast(Message, chosen).ClearField(name)
    for name in fields:
        cast(Message, watchlist).ClearField(name)
    watchlist.MergeFrom(chosen)
    if not watchlist.display_name.strip():
        raise InvalidArgument(violations=[("watchlist.display_name", "is required")])
    _check_cameras(watchlist)
    _check_hours(watchlist)


def _check_cameras(watchlist: watchlist_pb2.Watchlist) -> None:
    (store, _) = names.parse_watchlist(watchlist.name)
    places = [(f"watchlist.cameras[{at}]", camera) for at, camera in enumerate(watchlist.cameras)]
    for number, override in enumerate(watchlist.overrides):
        places += [
            (f"watchlist.overrides[{number}].cameras[{at}]", camera) for at, camera in enumerate(override.cameras)
        ]
    for field, camera in places:
        if names.parse_camera(camera, field)[0] != store:
            raise InvalidArgument(violations=[(field, "is a camera of another store")])


def _check_hours(watchlist: watchlist_pb2.Watchlist) -> None:
    try:
        hours.parse((), watchlist.time_zone)
    except ValueError as error:
        raise InvalidArgument(violations=[("watchlist.time_zone", str(error))]) from None
    for at, each in enumerate(watchlist.hours):
        try:
            hours.parse([each], "")
        except ValueError as error:
            raise InvalidArgument(violations=[(f"watchlist.hours[{at}]", str(error))]) from None


def _given(wanted: watchlist_pb2.Watchlist) -> set[str]:
    return {field.name for field, _ in wanted.ListFields()}
