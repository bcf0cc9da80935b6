"""Certificates and roots change under load, and no call fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from poi.v1 import alert_pb2, alert_pb2_grpc, match_pb2, match_pb2_grpc

from mesh import channels
from mesh.pki import Authority
from mesh.rotating import RotatingChannel, _Generation
from mesh.server import Server
from mesh.settings import TlsFiles
from tests.auth.support import a_servicer, serving, shut_out
from tests.support import PATIENCE, until

DAY = timedelta(days=1)
LOOK = 0.05


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at many times a second."""
    defaults: Any = RotatingChannel.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "look_seconds", LOOK)
    monkeypatch.setitem(defaults, "lost_seconds", 0.3)


@pytest.fixture
async def server(pki: Authority) -> AsyncIterator[Server]:
    async with serving(pki.issue("match", "s1", DAY).files, None, a_servicer()) as running:
        yield running


@pytest.fixture
async def channel(pki: Authority, server: Server) -> AsyncIterator[RotatingChannel]:
    made = channels.connect(server.address, service="match", tls=pki.issue("ingest", "s1", DAY).files)
    assert isinstance(made, RotatingChannel)
    async with made:
        yield made


async def changed(channel: RotatingChannel, act: Callable[[], Any]) -> None:
    """Does it, and waits until the channel has noticed."""
    before = channel.current
    await asyncio.to_thread(act)
    await until(lambda: channel.current is not before)


class Load:
    """Calls, one after the other, until told to stop."""

    def __init__(self, call: Callable[[], Awaitable[Any]]) -> None:
        self._call = call
        self._stop = asyncio.Event()
        self.answered = 0
        self.failed: list[str] = []

    async def run(self) -> None:
        while not self._stop.is_set():
            try:
                await self._call()
                self.answered += 1
            except grpc.aio.AioRpcError as error:
                self.failed.append(f"{error.code().name}: {error.details()}")

    async def some(self, number: int) -> None:
        wanted = self.answered + number
        await until(lambda: self.answered >= wanted or bool(self.failed))

    def stop(self) -> None:
        self._stop.set()


@pytest.fixture
async def load(channel: RotatingChannel) -> AsyncIterator[Load]:
    """Calls through a stub that was made before anything changed."""
    stub = alert_pb2_grpc.AlertServiceStub(channel)
    made = Load(lambda: stub.GetAlert(alert_pb2.GetAlertRequest(name="stores/s1/alerts/a")))
    task = asyncio.create_task(made.run())
    yield made
    made.stop()
    await task


def batch_stream(channel: grpc.aio.Channel, outbox: asyncio.Queue[int]) -> Any:
    """A stream as ingest keeps one open."""

    async def batches() -> AsyncIterator[match_pb2.MatchDetectionsRequest]:
        while True:
            yield match_pb2.MatchDetectionsRequest(parent="stores/s1", batch_id=await outbox.get())

    return match_pb2_grpc.MatchServiceStub(channel).MatchDetections(batches())


async def test_certificates_are_renewed_without_a_failed_call(
    pki: Authority, channel: RotatingChannel, load: Load
) -> None:
    outbox: asyncio.Queue[int] = asyncio.Queue()
    stream = batch_stream(channel, outbox)
    outbox.put_nowait(0)
    assert (await stream.read()).batch_id == 0

    for number in (1, 2, 3):
        await load.some(20)
        await changed(channel, lambda: pki.renew(everything=True))
        await load.some(20)
        outbox.put_nowait(number)
        assert (await stream.read()).batch_id == number  # on the connection it was opened on
    assert len(channel._old) == 1, "only the first channel still has a call"
    stream.cancel()

    assert not load.failed
    await until(lambda: not channel._old)


async def test_a_root_is_replaced_without_a_failed_call(
    pki: Authority, server: Server, channel: RotatingChannel, load: Load
) -> None:
    for step in (pki.roll, pki.renew, pki.retire):
        await load.some(20)
        await changed(channel, step)
        await load.some(20)

    assert not load.failed
    # Who comes with a certificate of the old root is not let in any more, and others are.
    async with channels.connect(server.address, service="match", tls=pki.issue("alert", "s1", DAY).files) as fresh:
        await alert_pb2_grpc.AlertServiceStub(fresh).GetAlert(alert_pb2.GetAlertRequest(name="stores/s1/alerts/a"))


async def test_the_old_root_is_good_for_nothing_after_it(pki: Authority, server: Server, tmp_path: Any) -> None:
    kept = pki.issue("alert", "s1", DAY, directory=tmp_path / "kept").files  # nobody renews it there
    for step in (pki.roll, pki.renew, pki.retire):
        step()

    # It trusts the new root, as whoever was told of it would.
    files = TlsFiles(kept.certificate, kept.key, pki.issue("ingest", "s1", DAY).files.ca)
    async with channels.connect(server.address, service="match", tls=files) as channel:
        await shut_out(channel)


async def test_a_stream_that_waits_for_its_server_is_not_left_with_an_old_certificate(
    pki: Authority, free_port: int
) -> None:
    """It would knock with it for ever. It ends, and its owner opens it again: with the new one."""
    files = pki.issue("ingest", "s1", DAY).files
    channel = channels.connect(f"127.0.0.1:{free_port}", service="match", tls=files)
    assert isinstance(channel, RotatingChannel)
    async with channel:
        waiting = asyncio.ensure_future(batch_stream(channel, asyncio.Queue()).read())
        await asyncio.sleep(LOOK)
        await changed(channel, lambda: pki.renew(everything=True))

        async with asyncio.timeout(PATIENCE):
            with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
                await waiting
        await until(lambda: not channel._old)


async def test_nothing_is_left_behind_when_a_channel_is_closed(pki: Authority, server: Server) -> None:
    before = len(asyncio.all_tasks())
    channel = channels.connect(server.address, service="match", tls=pki.issue("ingest", "s1", DAY).files)
    assert isinstance(channel, RotatingChannel)
    waiting = asyncio.ensure_future(batch_stream(channel, asyncio.Queue()).read())
    await changed(channel, lambda: pki.renew(everything=True))

    await channel.close()
    with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
        await waiting

    await until(lambda: len(asyncio.all_tasks()) <= before)


async def test_an_old_channel_that_finds_its_server_as_it_is_closed_is_closed(subtests: pytest.Subtests) -> None:
    class Finds:
        """A channel: it is connected after two turns of the loop, and stays so."""

        state = grpc.ChannelConnectivity.CONNECTING
        closed = False

        def get_state(self) -> grpc.ChannelConnectivity:
            return self.state

        async def channel_ready(self) -> None:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.state = grpc.ChannelConnectivity.READY

        async def wait_for_state_change(self, state: grpc.ChannelConnectivity) -> None:
            await asyncio.Event().wait()

        async def close(self) -> None:
            self.closed = True

    for turns in range(1, 12):
        with subtests.test(turns=turns):
            channel: Any = Finds()
            generation = _Generation(channel)
            generation.began(asyncio.get_running_loop().create_future())
            retiring = asyncio.create_task(generation.retire(60))
            for _ in range(turns):
                await asyncio.sleep(0)
            retiring.cancel()
            await until(retiring.done)
            assert channel.closed
