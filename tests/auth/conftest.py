from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from mesh.auth import Role
from mesh.pki import Authority
from mesh.server import Server
from mesh.token import Accounts
from tests.auth.support import DAY, Clients, Servicer, a_servicer, serving


@pytest.fixture
def pki(tmp_path: Path) -> Authority:
    """An authority with its root."""
    authority = Authority(tmp_path / "pki")
    authority.create("poi-mesh")
    return authority


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    """Local accounts with a key."""
    made = Accounts(tmp_path / "keys")
    made.issue("nobody", {Role.AUDITOR}, {"s1"}, timedelta(hours=1))
    return made


@pytest.fixture
def servicer() -> Servicer:
    return a_servicer()


@pytest.fixture
async def server(pki: Authority, accounts: Accounts, servicer: Servicer) -> AsyncIterator[Server]:
    """A server of store s1 that asks who calls."""
    tls = pki.issue("match", "s1", DAY).files
    async with serving(tls, accounts.jwks, servicer) as running:
        yield running


@pytest.fixture
async def clients(pki: Authority, accounts: Accounts, server: Server) -> AsyncIterator[Clients]:
    """Its clients."""
    made = Clients(pki, accounts)
    made.address = server.address
    yield made
    await made.close()
