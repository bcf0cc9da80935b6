"""Publishing that outlives the broker: at least once, whatever the broker forgets when it is killed."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from mesh import brokers

_log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 5.0
_RECONNECT_EVERY_S = 0.1
_SERVE_EVERY_S = 0.005
_NOTICE_STOP_S = 0.1
_MOST_IN_FLIGHT = 1000
_NO_SUBSCRIBERS = ReasonCode(PacketTypes.PUBACK, "No matching subscribers")
_WRONG_PROTOCOL = ReasonCode(PacketTypes.CONNACK, "Unsupported protocol version")

Handler = Callable[[str, bytes], None]


class _Sent(NamedTuple):
    topic: str
    payload: bytes
    confirmed_at: float = 0.0  # monotonic; 0 while the broker has not confirmed it


class Publisher:
    """An MQTT client for one thread, which calls `publish`, and `work` or `flush` to serve the connection meanwhile.

    Every message is QoS 1 and kept until the broker confirms it, and for `repeat_seconds` after: a broker that is
    killed may have confirmed what it had not yet written. After a reconnect all of these are published again, in order.
    Who listens must therefore take repeats, as QoS 1 demands anyway.

    Args:
        url: `mqtt://[user:password@]host[:port]`, or `mqtts://` for TLS, see `mesh.brokers`.
        repeat_seconds: how long a confirmed message is kept.
        window: `publish` blocks while this many messages are unconfirmed.
    """

    def __init__(self, url: str, *, repeat_seconds: float = 5.0, window: int = 4000) -> None:
        self.url = url
        self._repeat_seconds = repeat_seconds
        self._window = window
        self._client: mqtt.Client | None = None
        self._stop = threading.Event()
        self._served_at = 0.0
        self._connected = False
        self._first = True
        self._refusal: ReasonCode | None = None
        self._next = 0
        self._sent: dict[int, _Sent] = {}  # by sequence number, ascending: unconfirmed, and confirmed of late
        self._confirmed: deque[int] = deque()  # confirmed ones, in order of confirmation
        self._waiting: deque[int] = deque()  # to be sent, when the broker takes more
        self._in_flight: dict[int, int] = {}  # packet id -> sequence number
        self._in_flight_limit = 0
        self._handlers: dict[str, Handler] = {}
        self.published = 0
        """Messages given to `publish`."""
        self.unconfirmed = 0
        """Of these, those that the broker has yet to confirm (again)."""
        self.repeated = 0
        """Messages published once more after a reconnect."""
        self.unheard = 0
        """Confirmations that said that nobody subscribes (MQTT 5 only)."""
        self.reconnects = 0

    @property
    def connected(self) -> bool:
        return self._connected

    def connect(self) -> None:
        """Connects, with MQTT 5 or else 3.1.1. From here on, lost connections are made again by `work`.

        Raises:
            ConnectionError: nobody answers at the address, or the broker refuses; says what to check.
        """
        for protocol in (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311):
            self._client = self._new_client(protocol)
            self._refusal = None
            try:
                self._client.connect(*_address(self.url))
            except OSError as error:
                raise ConnectionError(f"no MQTT broker answers at {_shown(self.url)}: {error}") from error
            deadline = monotonic() + _CONNECT_TIMEOUT_S
            while not self._connected and self._refusal is None and monotonic() < deadline:
                if self._client.loop(0.05) != mqtt.MQTT_ERR_SUCCESS:
                    break  # closed without an answer: some 3.1.1 brokers do that to a newer client
            if self._connected:
                return
            if self._refusal not in (None, _WRONG_PROTOCOL):
                break
        raise ConnectionError(f"the MQTT broker at {_shown(self.url)} refuses: {self._refusal or 'no answer'}")

    def subscribe(self, topic_filter: str, handler: Handler) -> None:
        """Calls `handler(topic, payload)` for each message, within `work`, also after reconnects. At most once each."""
        self._handlers[topic_filter] = handler
        self._connection.message_callback_add(
            topic_filter, lambda client, userdata, message: handler(message.topic, bytes(message.payload))
        )
        if self._connected:
            self._connection.subscribe(topic_filter, qos=0)

    def publish(self, topic: str, payload: bytes) -> float:
        """Publishes with QoS 1, or keeps the message until there is a connection.

        Returns:
            The monotonic time in seconds at which it was handed to the connection.
        """
        while self.unconfirmed >= self._window and not self._stop.is_set():
            self.work(0.05)
        self._forget_confirmed()
        number, self._next = self._next, self._next + 1
        self._sent[number] = _Sent(topic, payload)
        self.published += 1
        self.unconfirmed += 1
        at = monotonic()
        self._waiting.append(number)
        if self._connected:
            self._send_waiting()
        return at

    def publish_once(self, topic: str, payload: bytes) -> None:
        """Publishes with QoS 0: lost where the connection is, never repeated."""
        self._connection.publish(topic, payload, qos=0)

    def work(self, seconds: float) -> None:
        """Lets so much time pass, and serves the connection (confirmations, subscriptions, reconnecting) at least every
        5 ms of it."""
        now = monotonic()
        if seconds < _SERVE_EVERY_S and now - self._served_at < _SERVE_EVERY_S:
            # A look at the socket for each of thousands of messages a second made one cost 250 us of CPU time, not 180.
            if seconds > 0:
                self._stop.wait(seconds)
            return
        deadline = now + seconds
        while not self._stop.is_set():
            remaining = max(deadline - monotonic(), 0.0)
            if self._connected:
                if self._connection.loop(min(remaining, _NOTICE_STOP_S)) != mqtt.MQTT_ERR_SUCCESS:
                    self._lost()
            else:
                self._reconnect(min(remaining, _RECONNECT_EVERY_S))
            self._served_at = monotonic()
            if self._served_at >= deadline:
                return

    def flush(self, timeout: float) -> None:
        """Works until every message is confirmed.

        Raises:
            TimeoutError: some are not in that time.
        """
        deadline = monotonic() + timeout
        while self.unconfirmed and not self._stop.is_set():
            if monotonic() >= deadline:
                raise TimeoutError(f"{self.unconfirmed} messages unconfirmed by {_shown(self.url)} after {timeout:g} s")
            self.work(0.05)

    def stop(self) -> None:
        """Makes the calls of the other thread return; the only method that another thread may call."""
        self._stop.set()

    def close(self) -> None:
        """Disconnects. Does not wait for confirmations: `flush` does."""
        self._connection.disconnect()
        self._connection.loop(0.05)
        self._connected = False

    @property
    def _connection(self) -> mqtt.Client:
        if self._client is None:
            raise RuntimeError("connect first")
        return self._client

    def _new_client(self, protocol: MQTTProtocolVersion) -> mqtt.Client:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        parts = urlsplit(self.url)
        if parts.username:
            client.username_pw_set(unquote(parts.username), unquote(parts.password) if parts.password else None)
        if parts.scheme == "mqtts":
            client.tls_set_context(brokers.tls_context(self.url))
        client.max_inflight_messages = 0  # no limit of paho's own: `_send_waiting` has one
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        return client

    def _reconnect(self, wait: float) -> None:
        try:
            self._connection.reconnect()
        except OSError:
            self._stop.wait(wait)
            return
        deadline = monotonic() + _CONNECT_TIMEOUT_S
        while not self._connected and not self._stop.is_set() and monotonic() < deadline:
            if self._connection.loop(0.05) != mqtt.MQTT_ERR_SUCCESS:
                self._stop.wait(wait)
                return

    def _lost(self) -> None:
        if self._connected:
            self._connected = False
            _log.warning("connection to the MQTT broker at %s lost, connecting again", _shown(self.url))

    def _on_connect(self, client: mqtt.Client, userdata: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if reason.is_failure:
            self._refusal = reason
            return
        # More unconfirmed messages than the broker says it takes are a protocol error, and paho does not look.
        self._in_flight_limit = min(getattr(properties, "ReceiveMaximum", _MOST_IN_FLIGHT), _MOST_IN_FLIGHT)
        for topic_filter in self._handlers:
            client.subscribe(topic_filter, qos=0)
        self._connected = True
        client.drop_out_messages()  # paho's own repeats would lack the confirmed ones
        self._in_flight.clear()
        if self._first:
            self._first = False
            return
        self.reconnects += 1
        self.repeated += len(self._sent)
        self.unconfirmed = len(self._sent)
        self._confirmed.clear()
        for number, sent in self._sent.items():
            self._sent[number] = sent._replace(confirmed_at=0.0)
        self._waiting = deque(self._sent)
        self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting and len(self._in_flight) < self._in_flight_limit:
            number = self._waiting.popleft()
            sent = self._sent[number]
            info = self._connection.publish(sent.topic, sent.payload, qos=1)
            self._in_flight[info.mid] = number

    def _on_publish(self, client: mqtt.Client, userdata: Any, mid: int, reason: ReasonCode, properties: Any) -> None:
        number = self._in_flight.pop(mid, None)
        if number is None:  # of a QoS 0 message
            return
        if reason == _NO_SUBSCRIBERS:
            self.unheard += 1
        elif reason.is_failure:
            # Not cured by repeating (too large, not authorised): said once, and not waited for.
            _log.error("the MQTT broker refused a message on %s: %s", self._sent[number].topic, reason)
        self._sent[number] = self._sent[number]._replace(confirmed_at=monotonic())
        self._confirmed.append(number)
        self.unconfirmed -= 1
        self._send_waiting()

    def _forget_confirmed(self) -> None:
        if not self._connected:
            return  # what counts is how long before the loss it was confirmed
        horizon = monotonic() - self._repeat_seconds
        while self._confirmed and self._sent[self._confirmed[0]].confirmed_at < horizon:
            del self._sent[self._confirmed.popleft()]


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
        raise ValueError(f"not an MQTT address: {_shown(url)} (want mqtt://host:port)")
    return parts.hostname, parts.port or (8883 if parts.scheme == "mqtts" else 1883)


def _shown(url: str) -> str:
    return url.rpartition("@")[2]  # without a password
