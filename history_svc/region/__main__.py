"""`python -m history_svc.region`: serves the region service until SIGTERM."""

from __future__ import annotations

from poi.v1 import erasure_pb2_grpc, region_pb2_grpc

from history_svc.region.recorder import Recorder
from history_svc.region.service import SERVICE, RegionServicer
from history_svc.region.settings import RegionSettings
from history_svc.region.store import SceneStore
from history_svc.region.traces import RegionTraces
from mesh import traces
from mesh.aio import Background
from mesh.redis import connect
from mesh.server import Server, run
from mesh.settings import load


async def main() -> None:
    """Builds the parts in order and serves."""
    settings = load(RegionSettings)
    server = Server(settings)
    redis = connect(settings.redis_url)
    server.on_stop(redis.aclose)
    recorder = Recorder(
        SceneStore(redis),
        settings.rules,
        retention=round(settings.retention_days * 86_400_000),
        max_events=settings.max_events,
    )
    background = Background()
    background.start("keep_house", recorder.keep_house)
    server.on_stop(background.close)
    servicer = RegionServicer(
        redis,
        recorder,
        server.draining,
        heartbeat=settings.heartbeat_seconds,
        max_ahead=settings.max_ahead_seconds,
    )
    server.add(region_pb2_grpc.add_RegionServiceServicer_to_server, servicer, SERVICE)
    keeper = traces.TraceServicer(RegionTraces(redis), redis)
    server.add(erasure_pb2_grpc.add_TraceServiceServicer_to_server, keeper, traces.SERVICE)
    await server.serve()


if __name__ == "__main__":
    run(main)
