"""`python -m alert_svc`: serves the alert service until SIGTERM."""

from poi.v1 import alert_pb2_grpc, erasure_pb2_grpc, feedback_pb2_grpc

from alert_svc.delivery import build
from alert_svc.erasing.traces import AlertTraces
from alert_svc.evidence import build as evidence
from alert_svc.export.exporter import Exporter
from alert_svc.feedback import service as feedback
from alert_svc.log import AlertLog
from alert_svc.service import SERVICE, AlertServicer
from alert_svc.settings import AlertSettings
from alert_svc.sweep import sweep_forever
from mesh import redis, traces
from mesh.aio import Background
from mesh.server import Server, run
from mesh.settings import load
from mesh.vault.settings import box_of


async def main() -> None:
    """Builds the parts in order and serves."""
    settings = load(AlertSettings)
    server = Server(settings)
    client = redis.connect(settings.redis_url)
    server.on_stop(client.aclose)
    box = box_of(settings)
    log = AlertLog(
        client,
        retention_days=settings.retention_days,
        ring=settings.ring,
        heartbeat=settings.heartbeat_seconds,
        policy=settings.policy,
        box=box,
    )
    background = Background()
    background.start("sweep", lambda: sweep_forever(log, settings.sweep_seconds))
    server.on_stop(background.close)
    sources = evidence.add(server, settings, client, log)
    exporter = Exporter(client, log, sources, retention_days=settings.retention_days, box=box)
    servicer = AlertServicer(log, exporter, server.draining, slow_seconds=settings.slow_client_seconds)
    server.add(alert_pb2_grpc.add_AlertServiceServicer_to_server, servicer, SERVICE)
    server.add(
        feedback_pb2_grpc.add_FeedbackServiceServicer_to_server, feedback.FeedbackServicer(log), feedback.SERVICE
    )
    targets, senders = await build.add(server, settings, client, log, box)
    keeper = AlertTraces(client, log, targets, senders, exporter.records)
    server.add(
        erasure_pb2_grpc.add_TraceServiceServicer_to_server, traces.TraceServicer(keeper, client), traces.SERVICE
    )
    await server.serve()


if __name__ == "__main__":
    run(main)
