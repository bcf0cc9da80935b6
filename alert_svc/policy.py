"""When a store's alerts are suppressed and escalated: the resource `stores/{store}/alertSettings`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

from google.protobuf.duration_pb2 import Duration
from poi.v1 import alert_pb2

from alert_svc.alerts import in_store
from mesh import names
from mesh.errors import InvalidArgument
from mesh.redis import Redis

_SUFFIX: Final = "/alertSettings"
_FIELDS: Final = (
    "suppression_window",
    "suppression_scope",
    "escalation_margin",
    "escalation_delay",
    "suppression_rules",
)
_LATE_MS: Final = 3_600_000
_MOST_NAMES: Final = 10_000
"""Names in all rules of a store: they are read for every RaiseAlerts."""


class Suppression(NamedTuple):
    """When an appearance is a repeat."""

    window_ms: int
    """If it follows within so long; 0 for never."""
    per_camera: bool
    """Whether it must be on the same camera."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A SuppressionRule: an empty part fits all."""

    watchlists: frozenset[str]
    cameras: frozenset[str]
    pois: frozenset[str]
    suppression: Suppression

    def fits(self, alert: alert_pb2.Alert) -> bool:
        """Whether it is for this alert."""
        return (
            (not self.cameras or alert.camera in self.cameras)
            and (not self.pois or alert.match.poi in self.pois)
            and (not self.watchlists or not self.watchlists.isdisjoint(alert.match.watchlists))
        )


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
    rules: tuple[Rule, ...] = ()
    """The first one that fits an alert holds instead of `window_ms` and `per_camera`."""

    def suppression(self, alert: alert_pb2.Alert) -> Suppression:
        """What holds for this alert."""
        for rule in self.rules:
            if rule.fits(alert):
                return rule.suppression
        return Suppression(self.window_ms, self.per_camera)

    @property
    def kept_ms(self) -> int:
        """How long to know when alerts were opened: the longest window that anything may have, and what frames may come
        late; 0 where nothing is ever suppressed."""
        longest_ms = max([self.window_ms, *(rule.suppression.window_ms for rule in self.rules)])
        return longest_ms + _LATE_MS if longest_ms else 0

    def updated(self, kept: alert_pb2.AlertSettings) -> Policy:
        """These, but for what a store has set."""
        return Policy(
            _ms(kept.suppression_window) if kept.HasField("suppression_window") else self.window_ms,
            kept.suppression_scope != alert_pb2.SUPPRESSION_SCOPE_POI if kept.suppression_scope else self.per_camera,
            kept.escalation_margin if kept.HasField("escalation_margin") else self.margin,
            _ms(kept.escalation_delay) if kept.HasField("escalation_delay") else self.delay_ms,
            tuple(map(_rule, kept.suppression_rules)) or self.rules,
        )

    def resource(self, name: str) -> alert_pb2.AlertSettings:
        """As the contract says it."""
        return alert_pb2.AlertSettings(
            name=name,
            suppression_window=_duration(self.window_ms),
            suppression_scope=_scope(self.per_camera),
            escalation_margin=self.margin,
            escalation_delay=_duration(self.delay_ms),
            suppression_rules=map(_shown, self.rules),
        )


class Policies:
    """The policies of all stores in one Redis, read each time: a change holds for the next call on every server."""

    def __init__(self, redis: Redis, default: Policy) -> None:
        self._redis = redis
        # Of one store after the other as a rule, and rarely changed: read from bytes once.
        self._read = lru_cache(maxsize=64)(lambda kept: default.updated(alert_pb2.AlertSettings.FromString(kept)))

    async def of(self, store_id: str) -> Policy:
        """The store's policy now."""
        kept: Any = await self._redis.get(_key(store_id))
        return self._read(kept or b"")

    async def update(self, store_id: str, wanted: alert_pb2.AlertSettings, paths: list[str]) -> Policy:
        """Changes the fields `paths` (all that are set when empty, all with "*"); the policy afterwards.

        Raises InvalidArgument (INVALID_UPDATE_MASK, INVALID_RULE).
        """
        if wrong := [path for path in paths if path not in (*_FIELDS, "*")]:
            raise InvalidArgument(
                violations=[("update_mask", f"{path[:100]!r} is none of {', '.join(_FIELDS)}") for path in wrong],
                reason="INVALID_UPDATE_MASK",
            )
        set_fields = {field.name for field, _ in wanted.ListFields()}
        changed = _FIELDS if "*" in paths else paths or [field for field in _FIELDS if field in set_fields]
        if "suppression_rules" in changed:
            _check(wanted.suppression_rules, store_id)
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


def _check(rules: Iterable[alert_pb2.SuppressionRule], store_id: str) -> None:
    """Raises InvalidArgument for names that are none, or of another store."""
    wrong, count = list[tuple[str, str]](), 0
    for number, rule in enumerate(rules):
        for part, parse in _PARTS:
            for index, name in enumerate(getattr(rule, part)):
                count += 1
                try:
                    field = f"alert_settings.suppression_rules[{number}].{part}[{index}]"
                    in_store(parse, name, field, store_id)
                except InvalidArgument as error:
                    wrong += error.violations
    if count > _MOST_NAMES:
        wrong = [("alert_settings.suppression_rules", f"{count} names in all, {_MOST_NAMES} at most")]
    if wrong:
        raise InvalidArgument(violations=wrong[:100], reason="INVALID_RULE")


_PARTS: Final[tuple[tuple[str, Callable[[str, str], tuple[str, str]]], ...]] = (
    ("watchlists", names.parse_watchlist),
    ("cameras", names.parse_camera),
    ("pois", names.parse_poi),
)


def _rule(rule: alert_pb2.SuppressionRule) -> Rule:
    return Rule(
        frozenset(rule.watchlists),
        frozenset(rule.cameras),
        frozenset(rule.pois),
        Suppression(_ms(rule.window), rule.scope != alert_pb2.SUPPRESSION_SCOPE_POI),
    )


def _shown(rule: Rule) -> alert_pb2.SuppressionRule:
    return alert_pb2.SuppressionRule(
        watchlists=sorted(rule.watchlists),
        cameras=sorted(rule.cameras),
        pois=sorted(rule.pois),
        window=_duration(rule.suppression.window_ms),
        scope=_scope(rule.suppression.per_camera),
    )


def _scope(per_camera: bool) -> alert_pb2.SuppressionScope.ValueType:
    return alert_pb2.SUPPRESSION_SCOPE_POI_AND_CAMERA if per_camera else alert_pb2.SUPPRESSION_SCOPE_POI


def _key(store_id: str) -> str:
    return f"poi:{{{store_id}}}:alerts:settings"


def _ms(duration: Duration) -> int:
    return duration.ToMilliseconds()


def _duration(milliseconds: int) -> Duration:
    made = Duration()
    made.FromMilliseconds(milliseconds)
    return made
