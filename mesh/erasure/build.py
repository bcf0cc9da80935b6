"""Puts the eraser together from the settings of the audit server."""

from __future__ import annotations

from poi.v1 import erasure_pb2_grpc

from mesh import channels
from mesh.aio import Background
from mesh.approvals.store import Approvals
from mesh.audit.settings import AuditSettings
from mesh.erasure import keepers
from mesh.erasure.eraser import Eraser
from mesh.erasure.keepers import ApprovalTraces, Asked, Remote
from mesh.erasure.looking import Looking
from mesh.erasure.receipts import Signer
from mesh.erasure.service import SERVICE, ErasureServicer
from mesh.erasure.store import Erasures
from mesh.redis import Redis
from mesh.server import Server
from mesh.settings import program_name, refuse


def add(server: Server, settings: AuditSettings, redis: Redis, approvals: tuple[Approvals, Redis] | None) -> None:
    """Lets the server serve ErasureService. Ends the process where the key of receipts cannot be used."""
    asked: dict[str, Asked] = {}
    for name in keepers.SERVICES:
        channel = channels.to_service(settings, name)
        server.on_stop(channel.close)
        asked[name] = Remote(channel, settings.erasure_find_seconds, settings.erasure_step_seconds)
    if approvals is not None:
        asked["approvals"] = ApprovalTraces(*approvals)
    erasures, signer, eraser = Erasures(redis), _signer(settings), None
    if signer is not None:
        eraser = Eraser(erasures, asked, signer, settings.erasure_retry_seconds)
        background = Background()
        server.on_start(lambda: background.start("erase", eraser.run))
        server.on_stop(background.close)
    servicer = ErasureServicer(erasures, Looking(asked), eraser, signer, approvals[0] if approvals else None)
    server.add(erasure_pb2_grpc.add_ErasureServiceServicer_to_server, servicer, SERVICE)


def _signer(settings: AuditSettings) -> Signer | None:
    if settings.receipt_key is None:
        return None
    try:
        return Signer.load(settings.receipt_key)
    except (OSError, ValueError) as error:
        refuse(program_name(type(settings)), f"POI_AUDIT_RECEIPT_KEY={settings.receipt_key}: {error}")
