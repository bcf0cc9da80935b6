"""`python -m match_svc`: settings, parts, server. `python -m match_svc reembed`: see there."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

from poi.v1 import embedding_pb2_grpc, erasure_pb2_grpc, match_pb2_grpc, poi_pb2_grpc, watchlist_pb2_grpc

from match_svc import calibration
from match_svc.checks import Checks, Likeness
from match_svc.decisions import Decisions
from match_svc.enrolment import Enrolment
from match_svc.follower import Follower
from match_svc.forgetting import Forgetter
from match_svc.gallery import Snapshot
from match_svc.images import Cutter, Framing
from match_svc.importing import Importer
from match_svc.log import LogReader
from match_svc.matching import Matcher
from match_svc.people import DIMENSION
from match_svc.photos import Least, Photos
from match_svc.policy import Rules
from match_svc.records import Records
from match_svc.registry import Registry, sealed_hashes
from match_svc.removals import Removals
from match_svc.replicas import Replicas
from match_svc.service import MatchServicer, PoiServicer
from match_svc.settings import MatchServerSettings
from match_svc.traces import RegistryTraces
from match_svc.tracks import Pools
from match_svc.watchlist_service import WatchlistServicer
from match_svc.watchlists import Watchlists
from mesh import channels, traces
from mesh import redis as mesh_redis
from mesh.aio import Background
from mesh.approvals import interceptor as approvals
from mesh.server import Server, run
from mesh.settings import load
from mesh.vault import Vault
from mesh.vault.resealing import keep_sealed
from mesh.vault.settings import box_of

POI_SERVICE, WATCHLIST_SERVICE = "poi.v1.PoiService", "poi.v1.WatchlistService"
MATCH_SERVICE = "poi.v1.MatchService"


def assemble(settings: MatchServerSettings) -> Server:
    """The server with all its parts, to be started inside the running event loop."""
    waiting, closers = approvals.added(settings)
    server = Server(settings, interceptors=waiting)
    for close in closers:
        server.on_stop(close)

    redis = mesh_redis.connect(settings.redis_url)
    embed = channels.to_service(settings, "embed")
    loaded = asyncio.Event()

    def changed() -> None:
        if not loaded.is_set():
            loaded.set()
            server.set_serving(POI_SERVICE, True)
            server.set_serving(WATCHLIST_SERVICE, True)
        replicas.changed()

    rules = partial(Rules.of, settings.default_threshold, calibration.load(settings.calibration))
    box = box_of(settings)
    records = Records(box)
    follower = Follower(LogReader(redis), rules, settings.write_wait_seconds, changed, records)
    replicas = Replicas(
        redis,
        lambda: (follower.revision, follower.position),
        replica_seconds=settings.replica_seconds,
        max_lag_seconds=settings.max_lag_seconds,
        on_serving=lambda serving: server.set_serving(MATCH_SERVICE, serving),
    )
    registry = Registry(redis, settings.log_length, follower.settled, records)
    watchlists = Watchlists(redis, settings.log_length, follower.settled)
    decisions = Decisions(redis, settings.decision_seconds, settings.decision_tracks, settings.decision_timeout)
    pools = None
    if settings.pool_faces > 1:
        margins = settings.lone_face_margin, settings.doubtful_face_margin
        pools = Pools(settings.pool_tracks, settings.pool_faces, *margins, DIMENSION)
    matcher = Matcher(decisions, pools, settings.max_matches, settings.search_threads)
    removals = Removals(replicas, settings.confirm_seconds)

    async def gallery(store: str) -> Snapshot:
        await follower.settled(await registry.revision())
        await replicas.wait_ready()
        return follower.gallery(store)

    framing = Framing(settings.reference_image_px, settings.reference_image_bytes)
    stub = embedding_pb2_grpc.EmbeddingServiceStub(embed)
    photos = Photos(stub, settings.embed_timeout, least_of(settings), Cutter(framing))
    checks = Checks(Likeness(settings.duplicate_similarity, settings.disagreement_similarity), gallery)
    enrolment = Enrolment(registry, photos, checks, watchlists.retention)
    importer = Importer(enrolment)

    pois = PoiServicer(registry, enrolment, importer, removals, watchlists, server.draining)
    server.add(poi_pb2_grpc.add_PoiServiceServicer_to_server, pois, POI_SERVICE)
    server.add(
        watchlist_pb2_grpc.add_WatchlistServiceServicer_to_server,
        WatchlistServicer(registry, watchlists, removals, rules, follower.gallery),
        WATCHLIST_SERVICE,
    )
    server.add(
        match_pb2_grpc.add_MatchServiceServicer_to_server,
        MatchServicer(registry, follower, replicas, matcher, rules, server.draining),
        MATCH_SERVICE,
    )
    keeper = RegistryTraces(redis, registry, replicas, settings.confirm_seconds)
    server.add(erasure_pb2_grpc.add_TraceServiceServicer_to_server, traces.TraceServicer(keeper, redis), traces.SERVICE)
    grace, confirm = settings.forget_after_days, settings.confirm_seconds
    forgetter = Forgetter(redis, registry, follower, replicas, after_days=grace, confirm_seconds=confirm)
    for service in (POI_SERVICE, WATCHLIST_SERVICE, MATCH_SERVICE):
        server.set_serving(service, False)  # until the registry was loaded
    background = Background()
    background.start("follow", follower.run)
    background.start("heartbeat", replicas.run)
    background.start("confirmations", replicas.listen)
    background.start("write_decisions", decisions.run)
    background.start("forget", forgetter.run)
    if isinstance(box, Vault):
        background.start("reseal", partial(keep_sealed, redis, box, partial(sealed_hashes, redis)))
    for close in (redis.aclose, embed.close, matcher.close, follower.close, replicas.leave, background.close):
        server.on_stop(close)
    return server


def least_of(settings: MatchServerSettings) -> Least:
    """What a face must be like to be a reference."""
    return Least(
        settings.face_confidence,
        settings.face_width_px,
        settings.face_sharpness,
        settings.face_yaw_degrees,
        settings.face_pitch_degrees,
        settings.face_roll_degrees,
    )


async def main() -> None:
    """Serve until told to stop."""
    await assemble(load(MatchServerSettings)).serve()


if __name__ == "__main__":
    # What only a command needs is imported by it: it would be a fifth of a server's time to start.
    if sys.argv[1:2] == ["calibrate"]:
        from match_svc.calibration import command

        sys.exit(command.calibrate(sys.argv[2:]))
    if sys.argv[1:2] == ["reembed"]:
        from match_svc import reembed

        reembed.run(sys.argv[2:])
    else:
        run(main)
