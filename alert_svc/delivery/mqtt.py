"""MQTT as a target: QoS 1, sent only once the broker has confirmed it.

paho runs the connection in its own thread here: a target sends one message at a time, so that a thread switch each
costs nothing that matters. Nothing of a lost connection is sent again by paho: the worker does that.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from poi.v1 import delivery_pb2

from alert_svc.delivery.addresses import Guard, Refused
from alert_svc.delivery.sender import Failed, Message
from mesh import brokers, names

_KEEPALIVE_SECONDS: Final = 30
_LONGEST_SECONDS: Final = (1 << 32) - 1


class MqttSender:
    """Publishes to one topic, over a connection that is opened when there is something to send."""

    def __init__(
        self,
        target: delivery_pb2.MqttTarget,
        own_broker: str,
        guard: Guard,
        tls: ssl.SSLContext,
        *,
        timeout: float,
        retention_seconds: float,
    ) -> None:
        """`own_broker`: URL of the store's broker, which no guard looks at. `timeout`: seconds to connect in.

        `retention_seconds`: how long alerts are kept, from when they were raised on.
        """
        self._target, self._tls, self._timeout = target, tls, timeout
        self._retention_seconds = retention_seconds
        parts = urlsplit(target.broker_url or own_broker)
        self._guard = guard if target.broker_url else None
        # Files of this machine are for the store's own broker to name, not for targets.
        self._own = own_broker if not target.broker_url and brokers.files(own_broker) else ""
        self._secure = parts.scheme == "mqtts"
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (8883 if self._secure else 1883)
        self._user = target.username or unquote(parts.username or "")
        self._password = target.password or unquote(parts.password or "")
        self._protocol = MQTTProtocolVersion.MQTTv5
        self._client: Client | None = None
        self._waiting: dict[int, asyncio.Future[str]] = {}

    async def send(self, message: Message) -> None:
        """Publishes, and waits for the broker's confirmation."""
        client = self._client or await self._connect()
        confirmed = [self._publish(client, self._target.topic, message.body, retain=False)]
        # An alert that was erased names nobody; what is retained of its person is cleared otherwise.
        if self._target.retain_last_state and not message.content.test and message.alert.match.poi:
            poi = names.parse_poi(message.alert.match.poi, "poi")[1]
            confirmed.append(self._retain(client, poi, message))
        await self._confirm(confirmed)

    def _retain(self, client: Client, poi_id: str, message: Message) -> asyncio.Future[str]:
        """As the last state of a person, until the alert is gone here as well."""
        properties = None
        if self._protocol == MQTTProtocolVersion.MQTTv5:
            age = time.time() - message.alert.create_time.ToNanoseconds() / 1e9
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = min(_LONGEST_SECONDS, max(1, math.ceil(self._retention_seconds - age)))
        topic = f"{self._target.topic}/pois/{poi_id}"
        return self._publish(client, topic, message.body, retain=True, properties=properties)

    async def clear(self, poi_id: str) -> None:
        """Removes the last state that the broker may have retained of a person. Raises Failed."""
        client = self._client or await self._connect()
        await self._confirm([self._publish(client, f"{self._target.topic}/pois/{poi_id}", b"", retain=True)])

    async def _confirm(self, confirmed: list[asyncio.Future[str]]) -> None:
        try:
            refused = [why for why in await asyncio.gather(*confirmed) if why]
        except BaseException:
            # Timed out, cut off or cancelled: what is confirmed later must not be taken for the answer to a later one.
            await self.close()
            raise
        if refused:
            raise Failed(f"the broker refused: {refused[0]}")

    async def close(self) -> None:
        """Ends the connection."""
        client, self._client = self._client, None
        self._waiting.clear()
        if client is not None:
            client.disconnect()
            await asyncio.shield(asyncio.to_thread(client.loop_stop))

    def _publish(
        self, client: Client, topic: str, body: bytes, *, retain: bool, properties: Properties | None = None
    ) -> asyncio.Future[str]:
        sent = client.publish(topic, body, qos=1, retain=retain, properties=properties)
        if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._lost(client)
            raise Failed("the connection to the broker was lost")
        future = asyncio.get_running_loop().create_future()
        self._waiting[sent.mid] = future
        return future

    async def _connect(self) -> Client:
        if self._guard is not None:
            try:
                await self._guard.resolve(self._host, self._port)
            except Refused as error:
                raise Failed(str(error)) from None
            except OSError:
                raise Failed(f"there is no host {self._host}") from None
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[str | None] = loop.create_future()
        try:
            client = self._make_client(loop, answered)
        except OSError as error:  # a file of the address that is not there, or no certificate
            raise Failed(f"cannot connect to {self._host}:{self._port}: {error}"[:300]) from None
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.to_thread(client.connect, self._host, self._port, _KEEPALIVE_SECONDS)
                client.loop_start()
                refusal = await answered
        except BaseException as error:
            await asyncio.shield(asyncio.to_thread(client.loop_stop))
            if isinstance(error, Refused | OSError | ssl.SSLError):
                raise Failed(f"cannot connect to {self._host}:{self._port}: {error}"[:300]) from None
            raise
        if refusal is not None:
            await asyncio.to_thread(client.loop_stop)
            # A broker without MQTT 5 says so, or just hangs up: the next attempt is with the other one.
            newest = self._protocol == MQTTProtocolVersion.MQTTv5
            self._protocol = MQTTProtocolVersion.MQTTv311 if newest else MQTTProtocolVersion.MQTTv5
            raise Failed(f"the broker did not accept the connection: {refusal}")
        self._client = client
        return client

    def _make_client(self, loop: asyncio.AbstractEventLoop, answered: asyncio.Future[str | None]) -> Client:
        client = Client(CallbackAPIVersion.VERSION2, protocol=self._protocol, reconnect_on_failure=False)
        client.connect_timeout = self._timeout
        if self._user:
            client.username_pw_set(self._user, self._password or None)
        if self._secure:
            client.tls_set_context(brokers.tls_context(self._own) if self._own else self._tls)

        def answer(why: str | None) -> None:
            if not answered.done():
                answered.set_result(why)

        def connected(_: Any, __: Any, ___: Any, code: ReasonCode, ____: Any) -> None:
            loop.call_soon_threadsafe(answer, str(code) if code.is_failure else None)

        def lost(*_: Any) -> None:
            loop.call_soon_threadsafe(answer, "it hung up")
            loop.call_soon_threadsafe(self._lost, client)

        def published(_: Any, __: Any, mid: int, code: ReasonCode, ___: Any) -> None:
            loop.call_soon_threadsafe(self._confirmed, client, mid, str(code) if code.is_failure else "")

        def opened(_: Any, __: Any, sock: Any) -> None:
            # Before anything of MQTT is sent: the name may have another address by now than the guard saw.
            address = sock.getpeername()[0]
            if self._guard is not None and not self._guard.allows(ip_address(address)):
                raise Refused(f"{self._host} is a private address, which the server does not allow")

        client.on_connect, client.on_disconnect, client.on_publish = connected, lost, published
        client.on_socket_open = opened
        return client

    def _confirmed(self, client: Client, mid: int, refusal: str) -> None:
        future = self._waiting.pop(mid, None) if client is self._client else None
        if future is not None and not future.done():
            future.set_result(refusal)

    def _lost(self, client: Client) -> None:
        if client is not self._client:
            return
        self._client = None
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(Failed("the connection to the broker was lost"))
