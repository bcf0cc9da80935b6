"""`python -m history_svc`: keeps every detection for the retention time and finds where a face appeared."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from functools import partial

# Searches share their work over threads of their own; a BLAS that does so too is 2 to 4 times slower. Read at import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from poi.v1 import erasure_pb2_grpc, history_pb2_grpc

from history_svc.history import HistoryStore
from history_svc.log import DirectoryInUse
from history_svc.queries import Queries
from history_svc.replay import OtherData
from history_svc.search import Searches
from history_svc.service import SERVICE, STORAGE, HistoryServicer
from history_svc.settings import Settings
from history_svc.store import History
from history_svc.traces import HistoryTraces
from history_svc.vaulted import seam_of
from history_svc.visits import Visits
from mesh import channels, traces
from mesh.aio import Background
from mesh.approvals import interceptor as approvals
from mesh.errors import MeshError
from mesh.server import Server, run
from mesh.settings import load, program_name, refuse
from mesh.vault import Unopenable


async def main() -> None:
    """Reads settings, opens the history, serves."""
    settings = load(Settings)
    waiting, closers = approvals.added(settings)
    server = Server(settings, interceptors=waiting)
    for close in closers:
        server.on_stop(close)
    history = await asyncio.to_thread(_open, settings)
    # What is kept in memory has no cycles; looking for some in it stopped everything for 0.2 s at a time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    embed, match, region = (channels.to_service(settings, name) for name in ("embed", "match", "region"))
    for channel in (embed, match, region):
        server.on_stop(channel.close)
    background = Background()
    server.on_stop(history.close)
    server.on_stop(background.close)
    for name, work in history.work().items():
        told = {"healthy": partial(server.set_serving, SERVICE)} if name == "write" else {}
        background.start(name, work, **told)
    loop = asyncio.get_running_loop()
    history.watch(lambda sound: loop.call_soon_threadsafe(server.set_serving, STORAGE, sound))
    searches, queries = Searches(history, settings.max_searches), Queries(history, embed, match)
    servicer = HistoryServicer(
        history,
        searches,
        queries,
        Visits(region, settings.store, settings.region_timeout),
        server.draining,
        stream_window=settings.stream_window,
        min_similarity=settings.min_similarity,
        gap_ns=int(settings.gap_seconds * 1e9),
    )
    server.add(history_pb2_grpc.add_HistoryServiceServicer_to_server, servicer, SERVICE)
    keeper = HistoryTraces(history, searches, queries, settings.min_similarity)
    server.add(erasure_pb2_grpc.add_TraceServiceServicer_to_server, traces.TraceServicer(keeper), traces.SERVICE)
    await server.serve()


def _open(settings: Settings) -> HistoryStore:
    """The history that the settings ask for; ends the process with one line when it cannot be opened."""
    program = program_name(Settings)
    try:
        if not settings.qdrant_url:
            return History.open(settings, seam_of(settings))
        if not settings.frames_url:
            refuse(program, "POI_HISTORY_FRAMES_URL: is needed with POI_HISTORY_QDRANT_URL, and is empty")
        # Its client takes a second and 40 MB to import: for those who use it.
        from history_svc.qdrant.store import QdrantHistory

        return QdrantHistory.open(settings, seam_of(settings))
    except Unopenable as error:
        refuse(program, f"POI_VAULT_KEYRING={settings.vault_keyring or ''}: {settings.data_dir}: {error}")
    except (DirectoryInUse, OtherData, OSError) as error:
        refuse(program, f"POI_HISTORY_DATA_DIR={settings.data_dir}: {error}")
    except MeshError as error:
        refuse(program, f"POI_HISTORY_QDRANT_URL: {error}")


if sys.argv[1:2] == ["migrate"]:
    from history_svc import migrate  # with the client of Qdrant, which the service may not need

    migrate.run(sys.argv[2:])
else:
    run(main)
