"""`python -m embed_svc`: serves the embedding service until SIGTERM."""

from poi.v1 import embedding_pb2_grpc

from embed_svc.faces import FaceFinder
from embed_svc.models import ModelsError, Task, locate, manifest
from embed_svc.runtime import Network, Runtime
from embed_svc.service import SERVICE, EmbeddingServicer
from embed_svc.settings import EmbedSettings
from embed_svc.work import Workers
from mesh.server import Server, run
from mesh.settings import load, program_name, refuse


def _networks(settings: EmbedSettings) -> tuple[Network, Network, Network]:
    try:
        directory = locate(settings.models_dir)
        runtime = Runtime(settings.cache_dir)
    except ModelsError as error:
        refuse(program_name(EmbedSettings), str(error))
    except OSError as error:
        refuse(program_name(EmbedSettings), f"POI_EMBED_CACHE_DIR: {settings.cache_dir}: {error.strerror or error}")
    detector, landmarker, embedder = (
        runtime.load(directory / manifest().graph(task).file)
        for task in (Task.DETECTION, Task.LANDMARKS, Task.EMBEDDING)
    )
    return detector, landmarker, embedder


async def main() -> None:
    """Builds the parts in order and serves."""
    settings = load(EmbedSettings)
    detector, landmarker, embedder = _networks(settings)
    server = Server(settings)
    # Two more than the CPU infers at a time, so that images are decoded while others are in the networks.
    workers = Workers(settings.threads or detector.parallel + 2, settings.max_waiting)
    server.on_stop(workers.close)
    finder = FaceFinder(detector, landmarker, embedder)
    servicer = EmbeddingServicer(finder, manifest(), workers, settings, server.draining)
    server.add(embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server, servicer, SERVICE)
    await server.serve()


if __name__ == "__main__":
    run(main)
