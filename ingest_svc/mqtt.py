"""The MQTT connection: paho driven by the event loop, persistent session, manual acknowledgement.

paho's own thread would cost two thread switches a message; here its socket is read where the message is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import structlog
from paho.mqtt.client import (
    MQTT_CLEAN_START_FIRST_ONLY,
    Client,
    ConnectFlags,
    MQTTMessage,
)
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from mesh import brokers

_log = structlog.get_logger(__name__)

_FIRST_BACKOFF, _MAX_BACKOFF = 0.1, 2.0
_CONNACK_SECONDS = 3.0
_KEEPALIVE_SECONDS = 30
_RESUBSCRIBE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Token:
    """What acknowledges one message: its id on one connection. On a later connection it means nothing."""

    generation: int
    mid: int
    qos: int


OnMessage = Callable[[str, bytes, Token], None]


class Mqtt:
    """A subscriber that stays connected. `on_message` is called in the event loop, for each message once a delivery."""

    def __init__(
        self,
        url: str,
        *,
        client_id: str,
        subscriptions: list[tuple[str, int]],
        on_message: OnMessage,
        session_expiry_seconds: int,
        receive_maximum: int,
    ) -> None:
        parts, self._url = urlsplit(url), url
        self._host, self._tls = parts.hostname or "127.0.0.1", parts.scheme == "mqtts"
        self._port = parts.port or (8883 if self._tls else 1883)
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        self._client_id = client_id
        self._subscriptions = subscriptions
        self._on_message = on_message
        self._session_expiry = session_expiry_seconds
        self._receive_maximum = receive_maximum
        self._protocol = MQTTProtocolVersion.MQTTv5
        self._protocol_known = False
        self._client: Client | None = None
        self._generation = 0
        self._loop = asyncio.get_running_loop()
        self._up = asyncio.Event()
        self._subscribed = asyncio.Event()
        self._down = asyncio.Event()
        self._paused = False
        self._reading: Any = None

    @property
    def connected(self) -> bool:
        """The broker has our subscriptions: messages come in."""
        return self._subscribed.is_set()

    async def wait_connected(self) -> None:
        """Wait until messages come in."""
        await self._subscribed.wait()

    @property
    def protocol(self) -> str:
        """What was agreed on with the broker; empty before the first connection."""
        if not self._protocol_known:
            return ""
        return "MQTT 5" if self._protocol == MQTTProtocolVersion.MQTTv5 else "MQTT 3.1.1"

    async def run(self) -> None:
        """Stay connected until cancelled."""
        backoff = _FIRST_BACKOFF
        try:
            while True:
                reason = await self._connect()
                if not reason:
                    backoff = _FIRST_BACKOFF
                    _log.info("mqtt_connected", protocol=self.protocol)
                    reason = await self._stay()
                self._close()
                _log.warning("mqtt_disconnected", reason=reason, retry_in_seconds=backoff)
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, _MAX_BACKOFF)
        finally:
            if self._client is not None:
                self._client.disconnect()
            self._close()

    def acknowledge(self, token: Token) -> None:
        """Tell the broker that the message is done with; nothing if it came on an earlier connection."""
        if token.qos and token.generation == self._generation and self._client is not None and self._up.is_set():
            self._client.ack(token.mid, token.qos)

    def publish(self, topic: str, payload: bytes, qos: int = 0) -> bool:
        """Send a message; False when there is no connection."""
        if self._client is None or not self._up.is_set():
            return False
        return self._client.publish(topic, payload, qos).rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def pause(self) -> None:
        """Stop reading: for brokers that have no receive maximum."""
        if not self._paused:
            self._paused = True
            if self._reading is not None:
                self._loop.remove_reader(self._reading)

    def resume(self) -> None:
        """Read again."""
        if self._paused:
            self._paused = False
            if self._reading is not None:
                self._loop.add_reader(self._reading, self._read)
                self._read_buffered()

    async def _connect(self) -> str:
        """Open a connection; the reason why not, else empty."""
        self._generation += 1
        self._up.clear()
        self._down.clear()
        try:
            client = self._client = self._make_client()
        except OSError as error:  # a file of the address that is not there, or no certificate
            return f"cannot connect to {self._host}:{self._port}: {error}"
        refused = [""]
        client.on_connect = lambda c, u, flags, code, props: self._connected(client, flags, code, refused)
        client.on_subscribe = lambda c, u, mid, codes, props: self._answered(client, codes)
        client.on_disconnect = lambda *_: self._down.set()
        properties = None
        if self._protocol == MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = self._session_expiry
            properties.ReceiveMaximum = self._receive_maximum
        clean = False if self._protocol == MQTTProtocolVersion.MQTTv5 else MQTT_CLEAN_START_FIRST_ONLY
        try:
            await self._loop.run_in_executor(
                None,
                lambda: client.connect(
                    self._host, self._port, keepalive=_KEEPALIVE_SECONDS, clean_start=clean, properties=properties
                ),
            )
        except (OSError, ssl.SSLError) as error:
            return f"cannot connect to {self._host}:{self._port}: {error}"
        self._attach(client)
        up, down = asyncio.ensure_future(self._up.wait()), asyncio.ensure_future(self._down.wait())
        done, waiting = await asyncio.wait({up, down}, timeout=_CONNACK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        if up in done:
            return ""
        if not self._protocol_known:  # a broker without MQTT 5 says so, or just hangs up
            newest = self._protocol == MQTTProtocolVersion.MQTTv5
            self._protocol = MQTTProtocolVersion.MQTTv311 if newest else MQTTProtocolVersion.MQTTv5
        return refused[0] or "the broker did not accept the connection"

    def _make_client(self) -> Client:
        v5 = self._protocol == MQTTProtocolVersion.MQTTv5
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=self._protocol,
            clean_session=None if v5 else False,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        if self._user is not None:
            client.username_pw_set(self._user, self._password)
        if self._tls:
            client.tls_set_context(brokers.tls_context(self._url))
        generation = self._generation

        def deliver(_: Client, __: Any, message: MQTTMessage) -> None:
            self._on_message(message.topic, bytes(message.payload), Token(generation, message.mid, message.qos))

        client.on_message = deliver
        return client

    def _connected(self, client: Client, flags: ConnectFlags, code: ReasonCode, refused: list[str]) -> None:
        if code.is_failure:
            refused[0] = f"the broker refused: {code}"
            self._down.set()
            return
        self._protocol_known = True
        self._subscribe(client)
        self._up.set()

    def _subscribe(self, client: Client) -> None:
        if client is not self._client:
            return
        if self._protocol == MQTTProtocolVersion.MQTTv5:
            client.subscribe([(topic, SubscribeOptions(qos=qos)) for topic, qos in self._subscriptions])
        else:
            client.subscribe(self._subscriptions)

    def _answered(self, client: Client, codes: Sequence[ReasonCode]) -> None:
        """What the broker says of the subscriptions, in their order. What it refused is asked for again and again: who
        may read what can be changed there without us, and the others are of use meanwhile."""
        answers = zip(self._subscriptions, codes, strict=False)
        refused = {topic: str(code) for (topic, _), code in answers if code.is_failure}
        if refused:
            _log.error("mqtt_subscriptions_refused", topics=refused, retry_in_seconds=_RESUBSCRIBE_SECONDS)
            self._loop.call_later(_RESUBSCRIBE_SECONDS, self._subscribe, client)
        elif client is self._client:
            self._subscribed.set()

    def _attach(self, client: Client) -> None:
        """Let the event loop drive the client's socket."""
        sock = client.socket()
        if sock is None:
            self._down.set()
            return
        self._reading = sock

        def write() -> None:
            client.loop_write()
            if not client.want_write():
                self._loop.remove_writer(sock)

        def unregister(_: Client, __: Any, closing: Any) -> None:
            self._loop.remove_writer(closing)

        def register(_: Client, __: Any, waiting: Any) -> None:
            try:
                self._loop.add_writer(waiting, write)
            except RuntimeError:  # uvloop has given the socket up, see `_read`: who acknowledges is not to blame
                self._down.set()

        client.on_socket_register_write = register
        client.on_socket_unregister_write = unregister
        # The client closes its socket by itself when the broker is gone: it must be out of the loop before that.
        client.on_socket_close = lambda c, u, s: self._detach(s)
        if not self._paused:
            self._loop.add_reader(sock, self._read)
        if client.want_write():
            self._loop.add_writer(sock, write)

    def _read(self) -> None:
        client, sock = self._client, self._reading
        if client is not None and client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._down.set()
            return
        # For a socket that was reset while something was still to be read uvloop calls once, and never again: without a
        # look at its error it would seem connected until the keepalive runs out.
        if sock is not None and self._reading is sock and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._down.set()
            return
        self._read_buffered()

    def _read_buffered(self) -> None:
        # TLS holds decrypted bytes that the selector does not see.
        client, sock = self._client, self._reading
        while client is not None and isinstance(sock, ssl.SSLSocket) and not self._paused and sock.pending():
            if client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._down.set()
                return

    async def _stay(self) -> str:
        """Until the connection is lost; keepalive in the meantime."""
        client = self._client
        while not self._down.is_set():
            try:
                async with asyncio.timeout(1.0):
                    await self._down.wait()
            except TimeoutError:
                if client is None or client.loop_misc() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    return "no sign of life from the broker"
        return "the connection was lost"

    def _detach(self, sock: Any) -> None:
        if self._reading is sock:
            self._reading = None
        with contextlib.suppress(ValueError, OSError):  # already closed: nothing to remove
            self._loop.remove_reader(sock)
            self._loop.remove_writer(sock)

    def _close(self) -> None:
        self._up.clear()
        self._subscribed.clear()
        client, self._client = self._client, None
        if client is None:
            return
        sock = client.socket()
        if sock is not None:
            self._detach(sock)
            # From here on it is dead, and says nothing to the event loop when it is collected.
            client.on_socket_close = client.on_socket_unregister_write = client.on_socket_register_write = None
            with contextlib.suppress(OSError):
                sock.close()
