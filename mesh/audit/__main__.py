"""`python -m mesh.audit`: serves the audit records to auditors until SIGTERM."""

from poi.v1 import audit_pb2_grpc

from mesh import redis
from mesh.aio import Background
from mesh.audit.service import SERVICE, AuditServicer
from mesh.audit.settings import AuditSettings
from mesh.audit.trimming import trim_forever
from mesh.server import Server, run
from mesh.settings import load


async def main() -> None:
    """Builds the parts in order and serves."""
    settings = load(AuditSettings)
    server = Server(settings)
    client = redis.connect(settings.redis_url)
    server.on_stop(client.aclose)
    background = Background()
    background.start(
        "trim", lambda: trim_forever(client, settings.retention_days, settings.trim_seconds, settings.service)
    )
    server.on_stop(background.close)
    server.add(audit_pb2_grpc.add_AuditServiceServicer_to_server, AuditServicer(client, server.draining), SERVICE)
    await server.serve()


if __name__ == "__main__":
    run(main)
