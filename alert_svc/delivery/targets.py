"""The rules of targets: what makes a good one, what a change does, what is shown of it, what it hears of."""

from __future__ import annotations

import binascii
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2, delivery_pb2

from alert_svc.alerts import AlertFilter, in_store
from alert_svc.delivery import signature
from alert_svc.delivery.addresses import Guard
from alert_svc.delivery.webhook import address
from mesh import names
from mesh.errors import InvalidArgument

Violations = Iterator[tuple[str, str]]

_COMMON: Final = ("display_name", "enabled", "filter")
_KINDS: Final = ("webhook", "mqtt", "websocket", "log")
_OUR_HEADERS: Final = ("host", "connection", "content-length", "content-type", "transfer-encoding", "user-agent")


def created(wanted: delivery_pb2.Target, name: str, now: Timestamp, guard: Guard) -> delivery_pb2.Target:
    """A new target as it is kept, secrets included. Raises InvalidArgument."""
    target = delivery_pb2.Target(name=name, create_time=now, update_time=now, etag=_new_etag())
    _merge(target, wanted, [*_COMMON, *_kind(wanted)])
    _check(target, guard)
    return target


def changed(
    target: delivery_pb2.Target, wanted: delivery_pb2.Target, mask: FieldMask, now: Timestamp, guard: Guard
) -> delivery_pb2.Target:
    """The target after a change; secrets that are not given stay. Raises InvalidArgument."""
    given = {field.name for field, _ in wanted.ListFields()}
    paths = list(mask.paths) or [path for path in (*_COMMON, *_KINDS) if path in given]
    if "*" in paths:
        paths = [*_COMMON, *_kind(wanted)]
    wrong = [
        path
        for path in paths
        if path.partition(".")[0] not in (*_COMMON, *_KINDS)
        or not FieldMask(paths=[path]).IsValidForDescriptor(delivery_pb2.Target.DESCRIPTOR)
    ]
    if wrong:
        raise InvalidArgument(
            violations=[("update_mask", f"{path[:100]!r} cannot be changed") for path in wrong],
            reason="INVALID_UPDATE_MASK",
        )
    kind = _kind(target)[0]
    if any(path.partition(".")[0] in _KINDS and path.partition(".")[0] != kind for path in paths):
        raise InvalidArgument(violations=[("target", f"is a {kind}, and stays one")], reason="KIND_CHANGED")
    after = delivery_pb2.Target()
    after.CopyFrom(target)
    _merge(after, wanted, paths)
    _keep_secrets(after, target, paths)
    _check(after, guard)
    _keep_to_their_server(after, target, wanted, paths)
    after.update_time.CopyFrom(now)
    after.etag = _new_etag()
    return after


def _keep_secrets(after: delivery_pb2.Target, before: delivery_pb2.Target, paths: Sequence[str]) -> None:
    """Those that an update does not give stay."""
    if not after.webhook.secret and before.webhook.secret:
        after.webhook.secret = before.webhook.secret
    if before.webhook.headers and not after.webhook.headers and "webhook.headers" not in paths:
        after.webhook.headers.update(before.webhook.headers)
    if before.mqtt.password and not after.mqtt.password and "mqtt.password" not in paths and after.mqtt.broker_url:
        after.mqtt.password = before.mqtt.password


def _keep_to_their_server(
    after: delivery_pb2.Target, before: delivery_pb2.Target, wanted: delivery_pb2.Target, paths: Sequence[str]
) -> None:
    """Raises InvalidArgument where kept headers, or a kept password, would be sent to another server.

    They are never shown: whoever may change a target must not have them sent to a server of their own instead. The key
    of the signature is not sent, and may stay.
    """
    wrong = []
    given = bool(wanted.webhook.headers) and not {"webhook", "webhook.headers"}.isdisjoint(paths)
    if after.webhook.headers and not given and _server(after.webhook.url) != _server(before.webhook.url):
        wrong.append(("target.webhook.headers", "must be given again, or cleared, for another server"))
    given = bool(wanted.mqtt.password) and not {"mqtt", "mqtt.password"}.isdisjoint(paths)
    if after.mqtt.password and not given and _server(after.mqtt.broker_url) != _server(before.mqtt.broker_url):
        wrong.append(("target.mqtt.password", "must be given again, or cleared, for another server"))
    if wrong:
        raise InvalidArgument(violations=wrong, reason="INVALID_TARGET")


def shown(target: delivery_pb2.Target, status: delivery_pb2.TargetStatus) -> delivery_pb2.Target:
    """The target as clients see it: without secrets, with its status."""
    visible = delivery_pb2.Target()
    visible.CopyFrom(target)
    if visible.HasField("webhook"):
        visible.webhook.header_names.extend(sorted(visible.webhook.headers))
        visible.webhook.ClearField("secret")
        visible.webhook.ClearField("headers")
    if visible.HasField("mqtt"):
        visible.mqtt.ClearField("password")
    visible.status.CopyFrom(status)
    if not target.enabled:
        visible.status.state = delivery_pb2.TARGET_STATE_DISABLED
    return visible


class Filter:
    """Whether a target wants to hear of an event."""

    def __init__(self, wanted: delivery_pb2.TargetFilter) -> None:
        self._alerts = AlertFilter(
            min_severity=wanted.min_severity,
            cameras=frozenset(wanted.cameras),
            pois=frozenset(wanted.pois),
            watchlists=frozenset(wanted.watchlists),
        )
        self._events = frozenset(wanted.events)

    def __call__(self, event: int, alert: alert_pb2.Alert) -> bool:
        """Whether it does."""
        return (not self._events or event in self._events) and self._alerts(alert)


def _check(target: delivery_pb2.Target, guard: Guard) -> None:
    store_id = names.parse_target(target.name)[0]
    wrong: list[tuple[str, str]] = []
    for field, parse in (
        ("cameras", names.parse_camera),
        ("pois", names.parse_poi),
        ("watchlists", names.parse_watchlist),
    ):
        for index, name in enumerate(getattr(target.filter, field)):
            try:
                in_store(parse, name, f"target.filter.{field}[{index}]", store_id)
            except InvalidArgument as error:
                wrong += error.violations
    if target.HasField("webhook"):
        wrong += _webhook(target.webhook, guard)
    elif target.HasField("mqtt"):
        wrong += _mqtt(target.mqtt, guard)
    if wrong:
        raise InvalidArgument(violations=wrong, reason="INVALID_TARGET")


def _webhook(webhook: delivery_pb2.WebhookTarget, guard: Guard) -> Violations:
    wrong = list(_address(webhook.url, ("http", "https"), "target.webhook.url", guard))
    if not wrong:
        try:
            address(webhook.url)
        except ValueError:
            wrong.append(("target.webhook.url", "is not a URL that can be posted to"))
    yield from wrong
    try:
        signature.key(webhook.secret)
    except (ValueError, binascii.Error) as error:
        yield "target.webhook.secret", str(error)
    for name in webhook.headers:
        if name.lower() in _OUR_HEADERS or name.lower().startswith("webhook-"):
            yield f"target.webhook.headers[{name}]", "is set by the server"


def _mqtt(mqtt: delivery_pb2.MqttTarget, guard: Guard) -> Violations:
    if not mqtt.topic:
        yield "target.mqtt.topic", "is needed"
    if mqtt.broker_url:
        yield from _address(mqtt.broker_url, ("mqtt", "mqtts"), "target.mqtt.broker_url", guard)
    elif mqtt.username or mqtt.password:
        yield "target.mqtt.username", "is of a broker that broker_url names: the store's own has its own"


def _address(url: str, schemes: tuple[str, ...], field: str, guard: Guard) -> Violations:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        yield field, "is not a URL"
        return
    if parts.scheme not in schemes or not parts.hostname or port == 0:
        yield field, f"is not a URL of {' or '.join(schemes)}"
    elif _names_somebody(parts):
        yield field, "must not hold a user or a password"
    elif not guard.may_be_named(parts.hostname):
        yield field, "is a private address, which the server does not allow"


def _server(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _names_somebody(parts: SplitResult) -> bool:
    return parts.username is not None or parts.password is not None


def _kind(target: delivery_pb2.Target) -> list[Any]:
    kind = target.WhichOneof("kind")
    if kind is None:
        raise InvalidArgument(violations=[("target", f"is none of {', '.join(_KINDS)}")], reason="INVALID_TARGET")
    return [kind]


def _merge(target: delivery_pb2.Target, wanted: delivery_pb2.Target, paths: list[str]) -> None:
    source = delivery_pb2.Target()
    source.CopyFrom(wanted)
    if source.HasField("webhook"):
        source.webhook.ClearField("header_names")
    if not source.HasField("enabled"):
        source.enabled = True
    FieldMask(paths=paths).MergeMessage(source, target, replace_message_field=True, replace_repeated_field=True)


def _new_etag() -> str:
    return secrets.token_hex(8)
