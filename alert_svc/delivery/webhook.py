"""Webhooks: a signed POST to an address that was looked at before, without redirects or proxies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import httpx
from poi.v1 import delivery_pb2

from alert_svc.delivery import signature
from alert_svc.delivery.addresses import Guard, Refused
from alert_svc.delivery.sender import Failed, Message

_REFUSALS: Final = frozenset({400, 413, 415, 422})
"""Answers that are about this message, which no later attempt would change."""
_LARGEST_ANSWER: Final = 65_536
_REST_SECONDS: Final = 1.0

# httpx logs each URL at INFO, which may hold a token.
logging.getLogger("httpx").setLevel(logging.WARNING)


class WebhookSender:
    """Posts to one URL."""

    def __init__(
        self, target: delivery_pb2.WebhookTarget, guard: Guard, tls: ssl.SSLContext, *, timeout: float
    ) -> None:
        """`timeout`: seconds for each step of a request; whoever sends limits the whole."""
        self._target, self._guard, self._tls, self._timeout = target, guard, tls, timeout
        self._url = address(target.url)
        self._port = self._url.port or {"http": 80, "https": 443}[self._url.scheme]
        self._client: httpx.AsyncClient | None = None
        self._worked = ""
        """The address that answered last: it is tried first."""

    async def send(self, message: Message) -> None:
        """Posts; an answer 2xx is a success."""
        try:
            addresses = await self._guard.resolve(self._url.host, self._port)
        except Refused as error:
            raise Failed(str(error)) from None
        except OSError:
            raise Failed(f"there is no host {self._url.host}") from None
        addresses.sort(key=lambda one: one != self._worked)  # stable
        for number, one in enumerate(addresses, start=1):
            try:
                # The first one may not even refuse (an IPv6 address behind a network without IPv6): the last has its
                # share of the time.
                await self._post(one, message, self._timeout / len(addresses))
                return
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if number == len(addresses):
                    raise Failed(f"cannot connect to {self._url.host}:{self._port}: {_cause(error)}") from None
            except httpx.HTTPError as error:
                raise Failed(f"no answer: {type(error).__name__}: {_cause(error)}") from None

    async def close(self) -> None:
        """Ends connections. Whoever sends again opens another one."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _open(self) -> httpx.AsyncClient:
        # One host for one client: a connection that is kept open is one whose address was allowed.
        return httpx.AsyncClient(
            verify=self._tls,
            trust_env=False,
            follow_redirects=False,
            timeout=self._timeout,
            limits=httpx.Limits(max_connections=2, max_keepalive_connections=1, keepalive_expiry=30.0),
        )

    async def _post(self, host: str, message: Message, connect_seconds: float) -> None:
        # To the address that was allowed, not to the name, which may resolve to another one by now. The name is still
        # what the server is asked for, and what its certificate must be of.
        client = self._client = self._client or self._open()
        request = client.build_request(
            "POST",
            self._url.copy_with(host=host),
            content=message.body,
            timeout=httpx.Timeout(self._timeout, connect=connect_seconds),
            headers={
                **self._target.headers,
                "Host": self._url.netloc.decode("ascii"),
                "Content-Type": "application/json",
                "User-Agent": "poi-mesh",
                **signature.headers(self._target.secret, message.content.delivery, int(time.time()), message.body),
            },
            extensions={"sni_hostname": self._url.host},
        )
        response = await client.send(request, stream=True)
        self._worked = host
        # Read to its end the connection can be used again. The status is the answer, whatever becomes of the rest.
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(_REST_SECONDS):
                read = 0
                async for chunk in response.aiter_raw():
                    read += len(chunk)
                    if read > _LARGEST_ANSWER:
                        break
        await response.aclose()
        if not response.is_success:
            raise Failed(
                f"answered {response.status_code} {response.reason_phrase}"[:200],
                retry_after=_retry_after(response.headers.get("retry-after", "")),
                refused=response.status_code in _REFUSALS,
            )


def address(url: str) -> httpx.URL:
    """A URL as it is used. Raises ValueError for one that cannot be."""
    try:
        made = httpx.URL(url)
        made.host  # noqa: B018  (decodes it, which some encoded names do not bear: idna's UnicodeError)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(str(error)) from None
    return made


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Trusts the system's authorities, and those of a PEM file. Raises OSError, ssl.SSLError."""
    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


def _retry_after(value: str) -> float | None:
    """Seconds of a Retry-After header: a number, or a date."""
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _cause(error: BaseException) -> str:
    """What went wrong underneath: httpx says little itself."""
    cause = error
    while inner := cause.__cause__ or cause.__context__:
        cause = inner
    return str(cause)[:200] or type(cause).__name__
