"""A token is taken when all of it is right, and only then."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mesh.auth import ALL, Role
from mesh.auth.keys import FileKeys
from mesh.auth.tokens import LEEWAY_SECONDS, LOCAL_ISSUER, Tokens
from mesh.errors import Unauthenticated
from mesh.token import Accounts, AccountsError

OIDC = "https://login.example.com/"
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@pytest.fixture(scope="module")
def provider() -> rsa.RSAPrivateKey:
    """The key of an identity provider."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def tokens(tmp_path: Path, accounts: Accounts, provider: rsa.RSAPrivateKey) -> Tokens:
    """Of local accounts, and of the provider."""
    path = tmp_path / "provider.json"
    public = jwt.algorithms.RSAAlgorithm.to_jwk(provider.public_key(), as_dict=True)
    secret = {"kty": "oct", "kid": "shared", "k": base64.urlsafe_b64encode(b"x" * 32).decode()}
    path.write_bytes(orjson.dumps({"keys": [{**public, "kid": "p1", "use": "sig"}, secret]}))
    issuers = {LOCAL_ISSUER: FileKeys(accounts.jwks), OIDC: FileKeys(path)}
    return Tokens(issuers, roles_claim="realm.roles", stores_claim="https://example.com/stores")


def claims(**changes: Any) -> dict[str, Any]:
    now = time.time()
    made = {
        "iss": OIDC,
        "aud": ["other", "poi-mesh"],
        "sub": "user-1",
        "iat": now,
        "exp": now + 600,
        "realm": {"roles": ["operator", "barista"]},
        "https://example.com/stores": ["s1", "s2"],
    }
    made.update(changes)
    return {name: value for name, value in made.items() if value is not None}


@pytest.fixture
def sign(provider: rsa.RSAPrivateKey) -> Callable[..., str]:
    """A token of the provider."""

    def make(*, key: Any = provider, algorithm: str = "RS256", kid: str | None = "p1", **changes: Any) -> str:
        return jwt.encode(claims(**changes), key, algorithm=algorithm, headers={"kid": kid} if kid else None)

    return make


async def test_a_providers_token_says_roles_and_stores(tokens: Tokens, sign: Callable[..., str]) -> None:
    principal = await tokens.principal(sign(jti="t1"))

    assert (principal.kind, principal.name, principal.token_id) == ("person", "user-1", "t1")
    assert principal.roles == {Role.OPERATOR}
    assert principal.stores == frozenset({"s1", "s2"})


async def test_a_local_account_is_taken_beside_it(accounts: Accounts) -> None:
    tokens = Tokens({LOCAL_ISSUER: FileKeys(accounts.jwks)})

    person = await tokens.principal(accounts.issue("alex", {Role.ANALYST}, {"*"}, timedelta(hours=1)))
    program = await tokens.principal(accounts.issue("till", {Role.ANALYST}, {"s1"}, timedelta(hours=1), client=True))
    camera = await tokens.principal(accounts.issue("cam-1", {Role.CAMERA}, {"s1"}, timedelta(hours=1)))

    assert (person.kind, person.stores) == ("person", ALL)
    assert (program.kind, camera.kind) == ("client", "client")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"aud": "elsewhere"}, "audience"),
        ({"iss": "https://evil.example.com/"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"exp": None}, "must have"),
        ({"iat": None}, "must have"),
        ({"sub": None}, "must have"),
        ({"nbf": time.time() + 3600}, "not valid yet"),
        ({"kid": "p2"}, "key is not known"),
        ({"kid": None}, "key is not known"),
        ({"sub": ""}, "subject"),
        ({"algorithm": "RS512"}, "algorithm"),
        ({"algorithm": "PS256"}, "key is not known"),
    ],
)
async def test_one_thing_that_is_wrong(
    tokens: Tokens, sign: Callable[..., str], changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(Unauthenticated, match=why) as caught:
        await tokens.principal(sign(**changes))
    assert caught.value.reason == "TOKEN_INVALID"


async def test_a_token_that_has_ended_within_and_beyond_the_leeway(tokens: Tokens, sign: Callable[..., str]) -> None:
    await tokens.principal(sign(exp=time.time() - LEEWAY_SECONDS + 10))

    with pytest.raises(Unauthenticated) as caught:
        await tokens.principal(sign(exp=time.time() - LEEWAY_SECONDS - 1))
    assert caught.value.reason == "TOKEN_EXPIRED"


async def test_a_token_that_was_checked_ends_all_the_same(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    tokens = Tokens({LOCAL_ISSUER: FileKeys(accounts.jwks)}, clock=lambda: now)
    token = accounts.issue("alex", {Role.ANALYST}, {"s1"}, timedelta(seconds=1))
    first = await tokens.principal(token)
    assert await tokens.principal(token) is first

    now += 1 + LEEWAY_SECONDS + 1
    # What remembers it lets go of it; what looks at it anew has a clock of its own, which says it is still good.
    assert await tokens.principal(token) is not first


async def test_nobody_signs_for_another_issuer(tokens: Tokens, sign: Callable[..., str]) -> None:
    """The provider's key is known, but it is not that of the local accounts."""
    with pytest.raises(Unauthenticated, match="key is not known"):
        await tokens.principal(sign(iss=LOCAL_ISSUER))


async def test_a_token_without_a_signature(tokens: Tokens, sign: Callable[..., str]) -> None:
    with pytest.raises(Unauthenticated, match="algorithm"):
        await tokens.principal(sign(key=None, algorithm="none"))


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_a_public_key_is_not_a_secret_to_sign_with(tokens: Tokens, sign: Callable[..., str]) -> None:
    """HS256 with what everybody can read of a JWKS: neither the algorithm nor a shared key in it are taken."""
    for key, kid in ((b"x" * 32, "shared"), (b"y" * 32, "p1")):
        with pytest.raises(Unauthenticated, match="algorithm"):
            await tokens.principal(sign(key=key, algorithm="HS256", kid=kid))


async def test_a_signature_that_was_tampered_with(tokens: Tokens, sign: Callable[..., str]) -> None:
    header, _, signature = sign().split(".")
    forged = base64.urlsafe_b64encode(orjson.dumps(claims(sub="root"))).rstrip(b"=").decode()

    with pytest.raises(Unauthenticated, match="signature"):
        await tokens.principal(f"{header}.{forged}.{signature}")


async def test_a_very_long_token_is_not_looked_at(tokens: Tokens) -> None:
    with pytest.raises(Unauthenticated, match="too long"):
        await tokens.principal("a" * 10_000)


def segment(content: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(content)).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "token",
    [
        f"{segment({'alg': [], 'kid': 'p1'})}.{segment({})}.eA",
        f"{segment({'alg': {'x': 1}, 'kid': 'p1'})}.{segment({})}.eA",
        f"{segment({'alg': 'RS256', 'kid': ['p1']})}.{segment({'iss': OIDC})}.eA",
        f"{segment({'alg': 'RS256', 'kid': 'p1'})}.{segment({'iss': [OIDC]})}.eA",
        f"{segment({'alg': 'RS256', 'kid': 'p1', 'b64': False})}..eA",
        f"{segment({'alg': 'RS256', 'kid': 'p1', 'crit': ['x']})}.{segment({'iss': OIDC})}.eA",
        f"{base64.urlsafe_b64encode(b'[' * 6000).decode()}.e30.eA",
        f"{segment({'alg': 'RS256', 'kid': 'p1'})}.{base64.urlsafe_b64encode(b'[' * 5900).decode()}.eA",
        "\udc80.\udcff.\udc80",  # what a header that is no ASCII comes out as
        "é.é.é",
    ],
)
async def test_a_token_of_odd_parts_is_refused_like_any_other(tokens: Tokens, token: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await tokens.principal(token)
    assert caught.value.reason == "TOKEN_INVALID"


@pytest.mark.parametrize("exp", [10**400, 1e300])
async def test_a_token_without_an_end_to_speak_of(tokens: Tokens, sign: Callable[..., str], exp: float) -> None:
    assert (await tokens.principal(sign(exp=exp))).expires == 2**53


@pytest.mark.parametrize(
    ("stores", "bound"),
    [
        (["s1", 2, None, ["s3"], {"s4": 1}], {"s1"}),
        ("s1 s2", {"s1", "s2"}),
        ({"s1": True}, set()),
        (True, set()),
        (None, set()),
        ("s*", {"s*"}),
        ([["*"]], set()),
    ],
)
async def test_stores_of_odd_types_are_nobodys(
    tokens: Tokens, sign: Callable[..., str], stores: Any, bound: set[str]
) -> None:
    assert (await tokens.principal(sign(**{"https://example.com/stores": stores}))).stores == frozenset(bound)


async def test_a_principal_knows_whether_its_key_is_trusted(accounts: Accounts) -> None:
    tokens = Tokens({LOCAL_ISSUER: FileKeys(accounts.jwks)})
    principal = await tokens.principal(accounts.issue("alex", {Role.ANALYST}, {"s1"}, timedelta(hours=1)))

    accounts.add_key()
    assert principal.trusted()
    accounts.drop_old()
    assert not principal.trusted()


@pytest.mark.parametrize(
    ("roles", "stores", "lifetime"),
    [
        (set(), {"s1"}, timedelta(hours=1)),
        ({Role.ADMIN}, set(), timedelta(hours=1)),
        ({Role.ADMIN}, {"s1"}, timedelta(days=365)),
        ({Role.ADMIN}, {"s1"}, timedelta(0)),
    ],
)
def test_a_token_that_nobody_should_have(
    accounts: Accounts, roles: set[Role], stores: set[str], lifetime: timedelta
) -> None:
    with pytest.raises(AccountsError):
        accounts.issue("alex", roles, stores, lifetime)


def test_keys_are_for_their_owner_alone(accounts: Accounts) -> None:
    directory = accounts.jwks.parent

    assert {path.stat().st_mode & 0o777 for path in directory.glob("*.pem")} == {0o600}
    assert directory.stat().st_mode & 0o777 == 0o700
    published = orjson.loads(accounts.jwks.read_bytes())["keys"]
    assert not any({"d", "p", "q"} & key.keys() for key in published)
