"""When a store's alerts are suppressed and escalated: the resource `stores/{store}/alertSettings`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from poi.v1 import alert_pb2

from mesh import names
from mesh.errors import InvalidArgument
from mesh.redis import Redis

_SUFFIX: Final = "/alertSettings"
_FIELDS: Final = ("suppression_window", "suppression_scope", "escalation_margin", "escalation_delay")


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings in the units that the rules use."""

    window_ms: int = 0
    """An appearance that follows within it is a repeat; 0 for none."""
    per_camera: bool = True
    """Whether a repeat must be on the same camera."""
    margin: float = 0.1
    """A match whose similarity is higher by so much escalates."""
    delay_ms: int = 300_000
    """A HIGH alert that is NEW for so long escalates; 0 for never."""

    def updated(self, kept: alert_pb2.AlertSettings) -> Policy:
        """These, but for what a store has set."""
        return Policy(
            _ms(kept.suppression_window) if kept.HasField("suppression_window") else self.window_ms,
            kept.suppression_scope != alert_pb2.SUPPRESSION_SCOPE_POI if kept.suppression_scope else self.per_camera,
            kept.escalation_margin if kept.HasField("escalation_margin") else self.margin,
            _ms(kept.escalation_delay) if kept.HasField("escalation_delay") else self.delay_ms,
        )

    def resource(self, name: str) -> alert_pb2.AlertSettings:
        """As the contract says it."""
        scope = alert_pb2.SUPPRESSION_SCOPE_POI_AND_CAMERA if self.per_camera else alert_pb2.SUPPRESSION_SCOPE_POI
        return alert_pb2.AlertSettings(
            name=name,
            suppression_window=_duration(self.window_ms),
            suppression_scope=scope,
            escalation_margin=self.margin,
            escalation_delay=_duration(self.delay_ms),
        )


class Policies:
    """The policies of all stores in one Redis, read each time: a change holds for the next call on every server."""

    def __init__(self, redis: Redis, default: Policy) -> None:
        self._redis, self._default = redis, default

    async def of(self, store_id: str) -> Policy:
        """The store's policy now."""
        return self._default.updated(await self._kept(store_id))

    async def update(self, store_id: str, wanted: alert_pb2.AlertSettings, paths: list[str]) -> Policy:
        """Changes the fields `paths` (all that are set when empty, all with "*"); the policy afterwards.

        Raises InvalidArgument (INVALID_UPDATE_MASK).
        """
        if wrong := [path for path in paths if path not in (*_FIELDS, "*")]:
            raise InvalidArgument(
                violations=[("update_mask", f"{path[:100]!r} is none of {', '.join(_FIELDS)}") for path in wrong],
                reason="INVALID_UPDATE_MASK",
            )
        set_fields = {field.name for field, _ in wanted.ListFields()}
        changed = _FIELDS if "*" in paths else paths or [field for field in _FIELDS if field in set_fields]
        key = _key(store_id)

        async def change(pipe: Any) -> None:
            kept = alert_pb2.AlertSettings.FromString(await pipe.get(key) or b"")
            for field in changed:
                kept.ClearField(field)  # type: ignore[arg-type]
                if field in set_fields:
                    kept.MergeFrom(_only(wanted, field))
            pipe.multi()
            pipe.set(key, kept.SerializeToString())

        await self._redis.transaction(change, key)
        return await self.of(store_id)

    async def _kept(self, store_id: str) -> alert_pb2.AlertSettings:
        kept: Any = await self._redis.get(_key(store_id))
        return alert_pb2.AlertSettings.FromString(kept or b"")


def settings_store(name: str, field: str) -> str:
    """The store of `stores/{store}/alertSettings`. Raises InvalidArgument."""
    store = name.removesuffix(_SUFFIX)
    try:
        if store != name:
            return names.parse_store(store, field)[0]
    except InvalidArgument:
        pass
    raise InvalidArgument(violations=[(field, "must look like stores/{store}/alertSettings")], reason="INVALID_NAME")


def _only(settings: alert_pb2.AlertSettings, field: str) -> alert_pb2.AlertSettings:
    value = getattr(settings, field)
    return alert_pb2.AlertSettings(**{field: value})


def _key(store_id: str) -> str:
    return f"poi:{{{store_id}}}:alerts:settings"


def _ms(duration: Duration) -> int:
    return duration.ToMilliseconds()


def _duration(milliseconds: int) -> Duration:
    made = Duration()
    made.FromMilliseconds(milliseconds)
    return made
