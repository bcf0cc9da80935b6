"""`make demo SECURE=1`: keys for what is stored, an identity for each role, and an auditor who looks at it all."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from poi.v1 import audit_pb2, audit_pb2_grpc
from rich.console import Console
from rich.panel import Panel

from demo import keep
from mesh import names
from mesh.auth import Role
from mesh.local import Mesh
from mesh.pki.files import write
from mesh.vault import keyring, masters

WHO: Final = keep.DIRECTORY / "who"
"""Where a file for each role is, to be read by a shell: certificate, token, where the servers are."""
_ROLES: Final = (Role.OPERATOR, Role.ANALYST, Role.ENROLLER, Role.ADMIN, Role.AUDITOR)
_PURPOSE: Final = "end of the demo"
_PAGE: Final = 1000


def settings(directory: Path, store: str) -> dict[str, str]:
    """What the services are told beyond certificates and tokens: seal what is stored, ask why. Makes the keys."""
    master, ring = directory.resolve() / "master.key", directory.resolve() / "keyring.json"
    masters.create_file(master)
    with keyring.editing(ring, create=True) as keys:
        keys.add(store, masters.load(f"file:{master}"))
    return {
        "POI_AUDIT_REQUIRE_PURPOSE": "true",
        "POI_VAULT_KEYRING": str(ring),
        "POI_VAULT_MASTER": f"file:{master}",
    }


@contextmanager
def identities(mesh: Mesh, store: str) -> Iterator[None]:
    """The files of `WHO`, for as long as the mesh runs."""
    written = []
    try:
        for role in _ROLES:
            env = {"POI_STORE": store, **mesh.client_env(role, subject=f"demo {role.value}")}
            if mesh.gateway is not None:
                env["GATEWAY"] = f"https://{mesh.gateway.gateway}"
            lines = [f"export {name}={shlex.quote(value)}\n" for name, value in env.items()]
            path = WHO / f"{role.value}.env"
            write(path, "".join(lines).encode())
            written.append(path)
        yield
    finally:
        for path in written:
            path.unlink(missing_ok=True)


async def audited(console: Console, mesh: Mesh, store: str) -> bool:
    """What the audit log says of all this, as its auditor reads it; whether its chain is sound."""
    parent = names.store(store)
    async with mesh.connect("audit", Role.AUDITOR, subject="demo auditor", purpose=_PURPOSE) as channel:
        stub: audit_pb2_grpc.AuditServiceAsyncStub = audit_pb2_grpc.AuditServiceStub(channel)
        found = await stub.VerifyChain(audit_pb2.VerifyChainRequest(parent=parent), timeout=60)
        request = audit_pb2.ListAuditRecordsRequest(parent=parent, page_size=_PAGE)
        records = (await stub.ListAuditRecords(request, timeout=60)).audit_records
    people = [each for each in records if each.actor.kind == audit_pb2.ACTOR_KIND_PERSON]
    done = Counter(each.action.rpartition("/")[2] for each in people if each.phase == audit_pb2.AUDIT_PHASE_END)
    of_people = ", ".join(f"{count} {what}" for what, count in done.most_common(6))
    state, end = "sound" if found.sound else "BROKEN", f"{found.last_sequence}:{found.last_hash[:16]}"
    console.print(
        f"Audit: {found.record_count} records, of people {of_people}; the chain is {state}, its end is {end}…",
        markup=False,
    )
    return found.sound and found.record_count > 0 and bool(done)


def commands(console: Console, mesh: Mesh, store: str) -> None:
    """How to look around, in each role."""
    operator, analyst, auditor = (_shown(WHO / f"{role}.env") for role in ("operator", "analyst", "auditor"))
    curl = 'curl --cacert $POI_TLS_CA -H "authorization: Bearer $POI_TOKEN"'
    poi, photo = ".venv/bin/poi", _shown(keep.DIRECTORY / keep.PHOTO)
    lines = [
        "# an operator: alerts, as they come, through the gateway; the same as REST",
        f". {operator}",
        f"{poi} --gateway $GATEWAY alerts --follow",
        f"{curl} $GATEWAY/v1/stores/{store}/alerts",
        "# what an operator may not: PERMISSION_DENIED, or 403; without a token: 401; of another store: 404",
        f"{poi} search {photo}",
        f"{curl} -i $GATEWAY/v1/stores/{store}/targets",
        f"curl -i --cacert $POI_TLS_CA $GATEWAY/v1/stores/{store}/alerts",
        f"{curl} -i $GATEWAY/v1/stores/elsewhere/alerts",
        "# an analyst searches, and says why",
        f". {analyst}",
        f"{poi} --purpose 'case 7' search {photo}",
        "# an auditor reads who did what, and checks that nobody has touched it",
        f". {auditor}",
        f"{poi} audit list --limit 20",
        f"{poi} audit verify",
        "# more traffic: synthetic cameras",
        f".venv/bin/python -m clients.replay --mqtt {shlex.quote(mesh.mqtt_url)}",
    ]
    console.print(Panel("Look around while it runs (Ctrl-C ends it)", expand=False))
    for line in lines:
        console.print(line, style="dim" if line.startswith("#") else "", markup=False, highlight=False, soft_wrap=True)


def _shown(path: Path) -> str:
    """As somebody types it who stands in the project's directory."""
    root = keep.DIRECTORY.parents[1]
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
