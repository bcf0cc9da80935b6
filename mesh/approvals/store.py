"""Approvals in Redis.

Of a store: `poi:{store}:approvals` (sorted set: id by the time it was asked for, ms), `poi:{store}:approvals:settings`
(an ApprovalSettings), `poi:{store}:approval:<id>` (the Approval without its request, kept 30 days longer than it is
valid) and `poi:{store}:approval:<id>:request` (the request, sealed; gone once it is decided against, used or expired).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from poi.v1 import approval_pb2

from mesh import names
from mesh.errors import Aborted, InvalidArgument, NotFound
from mesh.redis import Redis
from mesh.vault import Box

PENDING: Final = approval_pb2.APPROVAL_STATE_PENDING
APPROVED: Final = approval_pb2.APPROVAL_STATE_APPROVED
REJECTED: Final = approval_pb2.APPROVAL_STATE_REJECTED
USED: Final = approval_pb2.APPROVAL_STATE_USED
EXPIRED: Final = approval_pb2.APPROVAL_STATE_EXPIRED
_DAY_SECONDS: Final = 86_400
_KEPT_SECONDS: Final = 30 * _DAY_SECONDS
_RACES: Final = 10
_FIELDS: Final = ("enrolment", "erasure", "valid_for")
_WITH_REQUEST: Final = (PENDING, APPROVED)

# KEYS approval, request, index; ARGV before or "", after, seconds to keep it, id, ms, seconds to keep the request (0
# removes it), request or "" to leave it. Answers whether it is written.
_WRITE: Final = """
local current = redis.call('GET', KEYS[1]) or ''
if current == ARGV[2] then return 1 end
if current ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
redis.call('ZADD', KEYS[3], ARGV[5], ARGV[4])
if ARGV[6] == '0' then redis.call('DEL', KEYS[2])
elseif ARGV[7] ~= '' then redis.call('SET', KEYS[2], ARGV[7], 'EX', ARGV[6]) end
return 1
"""


class Approvals:
    """The approvals of all stores in one Redis."""

    def __init__(self, redis: Redis, box: Box) -> None:
        """`box` seals requests."""
        self._redis, self._box = redis, box
        self._write = redis.register_script(_WRITE)

    async def settings(self, store: str) -> approval_pb2.ApprovalSettings:
        """What of a store needs a second person; nothing where nobody has said so."""
        kept: Any = await self._redis.get(_settings_key(store))
        found = approval_pb2.ApprovalSettings.FromString(kept or b"")
        found.name = f"{names.store(store)}/approvalSettings"
        if not found.HasField("valid_for"):
            found.valid_for.seconds = _DAY_SECONDS
        return found

    async def configure(self, store: str, settings: approval_pb2.ApprovalSettings) -> None:
        """Keeps the settings."""
        await self._redis.set(_settings_key(store), settings.SerializeToString())

    async def find(self, name: str) -> approval_pb2.Approval | None:
        """An approval as it is now, without its request; None where there is none. Raises InvalidArgument."""
        kept: Any = await self._redis.get(_key(name))
        return None if kept is None else _now(approval_pb2.Approval.FromString(kept))

    async def get(self, name: str, *, whole: bool = False) -> approval_pb2.Approval:
        """An approval with its request as long as it waits; `whole`: as long as that is kept, as of a call that was cut
        off. Raises NotFound, InvalidArgument, mesh.vault.Unopenable."""
        found = await self.find(name)
        if found is None:
            raise NotFound(name)
        kept: Any = await self._redis.get(_request_key(name)) if whole or found.state in _WITH_REQUEST else None
        if kept is not None:
            store, own = names.parse_approval(name)
            found.request.MergeFromString(self._box.open(store, kept, _context(own)))
        return found

    async def ask(self, approval: approval_pb2.Approval, request: Message, valid_seconds: float) -> None:
        """Keeps a request until it is decided. One that waits already stays as it is."""
        store, own = names.parse_approval(approval.name)
        packed = AnyMessage()
        packed.Pack(request)
        sealed = self._box.seal(store, packed.SerializeToString(), _context(own))
        before: Any = await self._redis.get(_key(approval.name)) or b""
        if before and _now(approval_pb2.Approval.FromString(before)).state in _WITH_REQUEST:
            return
        approval.state = PENDING
        approval.create_time.GetCurrentTime()
        approval.expire_time.FromNanoseconds(time.time_ns() + round(valid_seconds * 1e9))
        await self._put(before, approval, max(1, round(valid_seconds)), sealed)

    async def change(self, name: str, edit: Callable[[approval_pb2.Approval], None]) -> approval_pb2.Approval:
        """Lets `edit` change an approval in place, and keeps the result. Raises NotFound, Aborted, and what it does."""
        for _ in range(_RACES):
            before: Any = await self._redis.get(_key(name))
            if before is None:
                raise NotFound(name)
            approval = _now(approval_pb2.Approval.FromString(before))
            edit(approval)
            keep = 1 if approval.state in _WITH_REQUEST or approval.state == USED else 0
            if await self._put(before, approval, keep, b""):
                return approval
        raise Aborted(f"{name} is being changed by others", reason="CONCURRENT_CHANGE")

    async def withdraw(self, name: str) -> None:
        """Ends an approval that nobody has used yet, and removes what was asked for. Raises NotFound, Aborted."""

        def reject(approval: approval_pb2.Approval) -> None:
            if approval.state in _WITH_REQUEST:
                approval.state, approval.note = REJECTED, "the person was erased"
                approval.decide_time.GetCurrentTime()

        await self.change(name, reject)
        await self.drop_request(name)

    async def drop_request(self, name: str) -> None:
        """Removes what was asked for: it was done."""
        await self._redis.delete(_request_key(name))

    async def newest(
        self, store: str, before: float | None, count: int
    ) -> list[tuple[float, approval_pb2.Approval | None]]:
        """At most `count` approvals as (place in the list, approval), behind the place `before`, or the newest."""
        newest = "+inf" if before is None else f"({before}"
        listed: Any = await self._redis.zrevrangebyscore(
            _index_key(store), newest, "-inf", start=0, num=count, withscores=True
        )
        found = [(place, await self.find(names.approval(store, raw.decode("ascii")))) for raw, place in listed]
        if gone := [raw for (raw, _), (_, approval) in zip(listed, found, strict=True) if approval is None]:
            await self._redis.zrem(_index_key(store), *gone)
        return found

    async def _put(self, before: bytes, approval: approval_pb2.Approval, request_seconds: int, sealed: bytes) -> bool:
        store, own = names.parse_approval(approval.name)
        left = approval.expire_time.ToNanoseconds() / 1e9 - time.time()
        keys = [_key(approval.name), _request_key(approval.name), _index_key(store)]
        arguments: list[str | bytes | int] = [
            before,
            approval.SerializeToString(deterministic=True),
            max(1, round(left)) + _KEPT_SECONDS,
            own,
            approval.create_time.ToMicroseconds(),
            request_seconds,
            sealed,
        ]
        return bool(await self._write(keys=keys, args=arguments))


def updated(
    settings: approval_pb2.ApprovalSettings, request: approval_pb2.UpdateApprovalSettingsRequest
) -> approval_pb2.ApprovalSettings:
    """The settings as the request wants them. Raises InvalidArgument for a mask path that cannot be changed."""
    paths = list(request.update_mask.paths) or list(_FIELDS)
    if wrong := [path for path in paths if path not in _FIELDS]:
        raise InvalidArgument(violations=[("update_mask", f"{path[:100]!r} cannot be changed") for path in wrong])
    made, wanted = approval_pb2.ApprovalSettings(), request.approval_settings
    made.CopyFrom(settings)
    for path in paths:
        made.ClearField(path)  # type: ignore[arg-type]
        if path != "valid_for":
            setattr(made, path, getattr(wanted, path))
        elif wanted.HasField("valid_for"):
            made.valid_for.CopyFrom(wanted.valid_for)
    return made


def _now(approval: approval_pb2.Approval) -> approval_pb2.Approval:
    if approval.state in _WITH_REQUEST and approval.expire_time.ToNanoseconds() <= time.time_ns():
        approval.state = EXPIRED
    return approval


def _key(name: str) -> str:
    store, own = names.parse_approval(name)
    return f"poi:{{{store}}}:approval:{own}"


def _request_key(name: str) -> str:
    return f"{_key(name)}:request"


def _index_key(store: str) -> str:
    return f"poi:{{{store}}}:approvals"


def _settings_key(store: str) -> str:
    return f"poi:{{{store}}}:approvals:settings"


def _context(own: str) -> bytes:
    return b"approval/" + own.encode()
