"""Long streams that end themselves when the server drains, so that shutdown cuts nobody off in mid-message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

from mesh.errors import Draining

T = TypeVar("T")


async def until_drained(source: AsyncIterator[T], draining: asyncio.Event) -> AsyncGenerator[T, None]:
    """The items of `source` until it ends or `draining` is set; then raises `errors.Draining`.

    Works on both sides of an RPC: around a request stream, and around what a response stream is made of. Only the
    wait for the next item is broken off, never the work of the consumer on the last one. An item that arrives at that
    very moment may be dropped with the wait: it was not answered, so the peer sends it again when it resumes.
    """
    # A task per item would cost 10-20 us; instead one watcher per stream cancels the consumer while, and only while,
    # it waits here, as asyncio.timeout() does.
    waiting: asyncio.Task[object] | None = None
    broken_off = False

    def on_drain(_: object) -> None:
        nonlocal broken_off
        if waiting is not None and draining.is_set():
            broken_off = True
            waiting.cancel()

    watcher = asyncio.create_task(draining.wait())
    watcher.add_done_callback(on_drain)
    iterator = aiter(source)
    try:
        while not draining.is_set():
            waiting = asyncio.current_task()
            cancels = waiting.cancelling() if waiting else 0
            if cancels:
                # We were cancelled and somebody below kept it to himself, as libraries do that use asyncio.wait_for in
                # Python 3.11 (it does so when what it waits for is just done). The stream would go on for ever without
                # its client.
                raise asyncio.CancelledError
            try:
                item = await anext(iterator)
            except StopAsyncIteration:
                return
            except asyncio.CancelledError:
                # Somebody else may have cancelled us as well: that one is not ours to swallow.
                if broken_off and waiting is not None and waiting.uncancel() <= cancels:
                    raise Draining from None
                raise
            finally:
                waiting = None
            yield item
        raise Draining
    finally:
        watcher.cancel()
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
