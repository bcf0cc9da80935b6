"""`buf curl`: a gRPC client that knows nothing of this project but what reflection tells it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BIN = Path(__file__).resolve().parents[2] / "node_modules" / ".bin"


@dataclass
class Call:
    """A call under way."""

    process: asyncio.subprocess.Process
    seen: list[Any] = field(default_factory=list)
    """The responses so far, as JSON."""

    async def responses(self) -> AsyncIterator[Any]:
        """Each response as soon as buf has written it."""
        assert self.process.stdout is not None
        decoder, text = json.JSONDecoder(), ""
        while block := await self.process.stdout.read(65_536):
            text += block.decode()
            while text := text.lstrip():
                try:
                    response, end = decoder.raw_decode(text)
                except json.JSONDecodeError:
                    break  # not all of it is here yet
                text = text[end:]
                self.seen.append(response)
                yield response


async def buf(*arguments: str, request: object = None) -> tuple[int, str, str]:
    """Status, standard output and standard error of `buf curl`."""
    async with _running(arguments, request) as process:
        output, errors = await process.communicate(_input(request))
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()


async def ask(target: str, method: str, request: object) -> Any:
    """The response of a unary method."""
    status, output, errors = await buf(f"http://{target}/{method}", request=request)
    assert status == 0, errors
    return json.loads(output)


@asynccontextmanager
async def stream(target: str, method: str, request: object) -> AsyncIterator[Call]:
    """A server stream; it is cut off at the end."""
    async with _running((f"http://{target}/{method}",), request) as process:
        assert process.stdin is not None
        process.stdin.write(_input(request) or b"")
        process.stdin.close()
        yield Call(process)


@asynccontextmanager
async def _running(arguments: tuple[str, ...], request: object) -> AsyncIterator[asyncio.subprocess.Process]:
    program = shutil.which("buf", path=str(_BIN))
    assert program is not None, "buf is not installed: `make ready` brings it"
    process = await asyncio.create_subprocess_exec(
        program,
        "curl",
        "--protocol=grpc",
        "--http2-prior-knowledge",
        *(["--data=@-"] if request is not None else []),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # `buf` is a Node program that starts the real one: both must go
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _input(request: object) -> bytes | None:
    return None if request is None else json.dumps(request).encode()
