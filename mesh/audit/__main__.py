"""`python -m mesh.audit`: serves audit records, approvals and erasures of persons until SIGTERM."""

from poi.v1 import approval_pb2_grpc, audit_pb2_grpc

from mesh import redis
from mesh.aio import Background
from mesh.approvals import interceptor as waiting
from mesh.approvals.service import SERVICE as APPROVAL_SERVICE
from mesh.approvals.service import ApprovalServicer
from mesh.approvals.store import Approvals
from mesh.audit.service import SERVICE, AuditServicer
from mesh.audit.settings import AuditSettings
from mesh.audit.trimming import trim_forever
from mesh.erasure import build as erasure
from mesh.server import Server, run
from mesh.settings import load
from mesh.vault.settings import box_of


async def main() -> None:
    """Builds the parts in order and serves."""
    settings = load(AuditSettings)
    interceptors, closers = waiting.added(settings)
    server = Server(settings, interceptors=interceptors)
    for close in closers:
        server.on_stop(close)
    client = redis.connect(settings.redis_url)
    server.on_stop(client.aclose)
    background = Background()
    background.start(
        "trim", lambda: trim_forever(client, settings.retention_days, settings.trim_seconds, settings.service)
    )
    server.on_stop(background.close)
    server.add(audit_pb2_grpc.add_AuditServiceServicer_to_server, AuditServicer(client, server.draining), SERVICE)
    approvals = None
    if settings.approvals_redis_url:
        kept = redis.connect(settings.approvals_redis_url)
        server.on_stop(kept.aclose)
        approvals = Approvals(kept, box_of(settings)), kept
        servicer = ApprovalServicer(approvals[0])
        server.add(approval_pb2_grpc.add_ApprovalServiceServicer_to_server, servicer, APPROVAL_SERVICE)
    erasure.add(server, settings, client, approvals)
    await server.serve()


if __name__ == "__main__":
    run(main)
