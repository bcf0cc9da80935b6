"""A client that speaks HTTP/2 itself, and so may leave a request unfinished."""

from __future__ import annotations

import asyncio
import ssl
import struct
from contextlib import suppress
from types import TracebackType
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived, StreamReset, TrailersReceived

from tests.support.waiting import PATIENCE, until


class RawClient:
    """One connection. `answers` has the headers and trailers of each call so far, and "reset" once it is over."""

    def __init__(self, target: str, *, source: str = "", tls: ssl.SSLContext | None = None) -> None:
        """`source`: the address that it calls from."""
        self._target, self._source, self._tls = target, source, tls
        self._http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.answers: dict[int, dict[str, str]] = {}
        self._moved = asyncio.Event()
        self._listening: asyncio.Task[None]
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> RawClient:
        host, port = self._target.rsplit(":", 1)
        options: dict[str, Any] = {"ssl": self._tls, "server_hostname": "localhost"} if self._tls else {}
        if self._source:
            options["local_addr"] = (self._source, 0)
        reader, self._writer = await asyncio.open_connection(host, int(port), **options)
        self._http.initiate_connection()
        self._flush()
        self._listening = asyncio.create_task(self._listen(reader))
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        self._writer.transport.abort()  # what is half-sent has no good end
        with suppress(OSError):
            await self._writer.wait_closed()

    def call(self, path: str, *metadata: tuple[str, str]) -> int:
        """The headers of a call; its number."""
        number = self._http.get_next_available_stream_id()
        scheme = "https" if self._tls else "http"
        self._http.send_headers(
            number,
            [
                *((":method", "POST"), (":scheme", scheme), (":path", path), (":authority", "localhost")),
                *(("te", "trailers"), ("content-type", "application/grpc")),
                *metadata,
            ],
        )
        self._flush()
        self.answers[number] = {}
        return number

    async def send(self, number: int, data: bytes, *, patience: float = PATIENCE) -> int:
        """Bytes of a call, as many as the server takes before it is silent for so long; how many that were."""
        sent = 0
        while sent < len(data) and not self.answers[number]:
            most = min(self._http.local_flow_control_window(number), self._http.max_outbound_frame_size)
            if most <= 0:
                self._moved.clear()
                try:
                    await asyncio.wait_for(self._moved.wait(), patience)
                except TimeoutError:
                    break
                continue
            part = data[sent : sent + most]
            self._http.send_data(number, part)
            sent += len(part)
            self._flush()
            await self._writer.drain()
        return sent

    def end(self, number: int) -> None:
        """The client's end of a call."""
        self._http.end_stream(number)
        self._flush()

    def cancel(self, number: int) -> None:
        """The end of a call."""
        self._http.reset_stream(number, 8)
        self._flush()

    @property
    def window(self) -> int:
        """Bytes that the server lets each call send before it reads."""
        return int(self._http.remote_settings.initial_window_size)

    async def status(self, number: int) -> int:
        """How a call has ended."""
        await until(lambda: "grpc-status" in self.answers[number], f"the end of call {number}")
        return int(self.answers[number]["grpc-status"])

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65_536):
            for event in self._http.receive_data(data):
                if isinstance(event, ResponseReceived | TrailersReceived):
                    headers = {str(name): str(value) for name, value in event.headers or ()}
                    self.answers[event.stream_id or 0].update(headers)
                elif isinstance(event, StreamReset):
                    self.answers[event.stream_id or 0]["reset"] = str(event.error_code)
            self._flush()
            self._moved.set()

    def _flush(self) -> None:
        self._writer.write(self._http.data_to_send())


def framed(message: bytes) -> bytes:
    """A message as gRPC sends it."""
    return struct.pack(">BI", 0, len(message)) + message
