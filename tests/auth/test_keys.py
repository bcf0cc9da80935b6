"""Keys of issuers: in a file that changes, and at an address that is not always there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from mesh.auth import Role, keys
from mesh.auth.keys import FileKeys, UrlKeys, keys_of, parse
from mesh.auth.tokens import LOCAL_ISSUER, Tokens
from mesh.errors import Unauthenticated, Unavailable
from mesh.token import Accounts
from tests.support import PATIENCE, until

ISSUER = "https://login.example.com"


class Provider:
    """An identity provider."""

    def __init__(self, jwks: Path) -> None:
        self.jwks = jwks
        self.asked: list[str] = []
        self.down = False
        self.document: dict[str, Any] = {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/keys"}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        if self.down:
            return httpx.Response(503)
        if request.url.path == "/keys":
            return httpx.Response(200, content=self.jwks.read_bytes())
        return httpx.Response(200, content=orjson.dumps(self.document))

    @property
    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self))


@pytest.fixture
def provider(accounts: Accounts) -> Provider:
    return Provider(accounts.jwks)


def key_id(accounts: Accounts) -> str:
    """The newest key's."""
    found: str = orjson.loads(accounts.jwks.read_bytes())["keys"][-1]["kid"]
    return found


async def test_keys_at_an_address_are_asked_for_once(provider: Provider, accounts: Accounts) -> None:
    source = UrlKeys(url=f"{ISSUER}/keys", client=provider.client)

    for _ in range(3):
        assert await source.find(key_id(accounts)) is not None

    assert provider.asked == ["/keys"]
    await source.close()


async def test_an_oidc_provider_says_where_its_keys_are(provider: Provider, accounts: Accounts) -> None:
    source = UrlKeys(issuer=ISSUER, client=provider.client)

    assert await source.find(key_id(accounts)) is not None

    assert provider.asked == ["/.well-known/openid-configuration", "/keys"]
    await source.close()


@pytest.mark.parametrize(
    "document",
    [{"issuer": "https://evil.example.com", "jwks_uri": f"{ISSUER}/keys"}, {"issuer": ISSUER, "jwks_uri": "http://x/"}],
)
async def test_an_oidc_document_that_leads_astray(
    provider: Provider, accounts: Accounts, document: dict[str, Any]
) -> None:
    provider.document = document
    source = UrlKeys(issuer=ISSUER, client=provider.client)

    with pytest.raises(Unavailable):
        await source.find(key_id(accounts))
    await source.close()


async def test_a_provider_that_never_comes_to_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                yield b" "
                await asyncio.sleep(0.01)

    monkeypatch.setattr(keys, "_WHOLE_SECONDS", 0.1)
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Endless()))
    source = UrlKeys(url=f"{ISSUER}/keys", client=httpx.AsyncClient(transport=transport))

    async with asyncio.timeout(PATIENCE):
        with pytest.raises(Unavailable):
            await source.find("any")
    await source.close()


async def test_a_new_key_is_found_and_unknown_ones_are_not_asked_for_again_and_again(
    provider: Provider, accounts: Accounts
) -> None:
    now = 1000.0
    source = UrlKeys(url=f"{ISSUER}/keys", client=provider.client, clock=lambda: now)
    await source.find(key_id(accounts))
    before = source.version()

    accounts.add_key()
    assert await source.find(key_id(accounts)) is None  # asked a moment ago
    now += 31
    assert await source.find(key_id(accounts)) is not None
    assert source.version() != before
    for number in range(20):
        assert await source.find(f"made-up-{number}") is None

    assert len(provider.asked) == 2
    await source.close()


async def test_keys_that_were_read_stay_good_while_the_provider_is_away(provider: Provider, accounts: Accounts) -> None:
    now = 1000.0
    source = UrlKeys(url=f"{ISSUER}/keys", client=provider.client, clock=lambda: now)
    provider.down = True
    with pytest.raises(Unavailable):
        await source.find(key_id(accounts))

    provider.down = False
    now += 31
    assert await source.find(key_id(accounts)) is not None

    provider.down = True
    now += 3600
    assert await source.find(key_id(accounts)) is not None
    await source.close()


async def test_a_key_that_the_provider_withdrew_ends_tokens_that_were_checked(
    provider: Provider, accounts: Accounts
) -> None:
    """Though nothing asks for a key any more: who was let in is remembered."""
    now = 1000.0
    source = UrlKeys(url=f"{ISSUER}/keys", client=provider.client, clock=lambda: now)
    tokens = Tokens({LOCAL_ISSUER: source})
    token = accounts.issue("alex", {Role.ADMIN}, {"s1"}, timedelta(hours=1))
    await tokens.principal(token)

    accounts.add_key()
    accounts.drop_old()
    now += 601
    await tokens.principal(token)  # asks, and does not wait
    await until(lambda: source.version() != 1, "the answer in the background")

    with pytest.raises(Unauthenticated):
        await tokens.principal(token)
    await source.close()


@pytest.mark.parametrize("url", ["http://login.example.com/keys", "ftp://login.example.com", "file:///etc/passwd"])
def test_keys_come_over_tls(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        keys_of(url, ISSUER)


def test_a_damaged_file_leaves_the_keys_as_they_are(accounts: Accounts) -> None:
    source = FileKeys(accounts.jwks)
    before = source.version()

    accounts.jwks.write_bytes(b"{")
    assert source.version() == before
    accounts.jwks.unlink()
    assert source.version() == before

    accounts.add_key()
    assert source.version() != before


async def test_a_key_for_something_else_is_not_taken(accounts: Accounts, tmp_path: Path) -> None:
    accounts.issue("alex", {Role.ADMIN}, {"s1"}, timedelta(hours=1))
    [entry] = orjson.loads(accounts.jwks.read_bytes())["keys"]
    path = tmp_path / "jwks.json"
    path.write_bytes(orjson.dumps({"keys": [{**entry, "use": "enc"}, {"kty": "new"}, 17]}))

    assert await FileKeys(path).find(entry["kid"]) is None


def test_a_damaged_file_is_read_once_not_at_every_call(
    tmp_path: Path, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(accounts.jwks.read_bytes())
    source, before = FileKeys(path), key_id(accounts)
    path.write_bytes(b"{")
    read: list[bytes] = []

    def counting(content: bytes) -> Any:
        read.append(content)
        return parse(content)

    monkeypatch.setattr(keys, "parse", counting)
    for _ in range(3):
        source.version()
        assert source.known(before) is not None
    assert len(read) == 1

    accounts.add_key()
    path.write_bytes(accounts.jwks.read_bytes())
    assert source.known(key_id(accounts)) is not None
