"""`python -m mesh.xds`: settings, parts, server."""

from __future__ import annotations

from poi.v1 import registry_pb2_grpc

from mesh.aio import Background
from mesh.server import Server, run
from mesh.settings import load, refuse
from mesh.xds import ads, jwks, plane
from mesh.xds.descriptors import descriptor_set
from mesh.xds.gateway import Edge
from mesh.xds.openapi import document
from mesh.xds.policy import SERVICES
from mesh.xds.settings import XdsSettings
from mesh.xds.snapshot import Board
from mesh.xds.sources import Source
from mesh.xds.sources.file import FileSource
from mesh.xds.sources.registration import SERVICE as REGISTRY
from mesh.xds.sources.registration import Registry


def assemble(settings: XdsSettings) -> Server:
    """The server with all its parts, to be started inside the running event loop."""
    server = Server(settings)
    board = Board()
    source = source_of(settings, server)
    server.add(ads.add_to_server, ads.AdsServicer(board, server.draining), ads.SERVICE)
    server.set_serving(ads.SERVICE, False)  # until the source has said everything once
    edge = edge_of(settings)
    follower = plane.Plane(board, plane.Builder(SERVICES.values(), edge), lambda: server.set_serving(ads.SERVICE, True))
    background = Background()
    keys = settings.gateway_jwks
    if keys is not None:
        server.on_start(
            lambda: background.start("keys", lambda: follower.exchange_keys(edge, jwks.changes(keys, edge.jwks)))
        )
    server.on_start(lambda: background.start("follow", lambda: follower.follow(source)))
    server.on_stop(background.close)
    return server


def source_of(settings: XdsSettings, server: Server) -> Source:
    """Where replicas are read from."""
    if settings.source == "file":
        return FileSource(settings.endpoints_file)
    if settings.source == "kubernetes":
        from mesh.xds.sources.kubernetes import KubernetesSource  # with its client, a second's work for who needs none

        return KubernetesSource(settings.kubernetes_namespace, settings.kubernetes_url)
    registry = Registry(settings.lease_seconds, settings.settle_seconds, server.draining)
    server.add(registry_pb2_grpc.add_RegistryServiceServicer_to_server, registry, REGISTRY)
    return registry


def edge_of(settings: XdsSettings) -> Edge:
    """The gateway that is configured."""
    keys = ""
    if settings.gateway_jwks is not None:
        try:
            keys = jwks.read(settings.gateway_jwks)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            refuse("mesh.xds", f"POI_XDS_GATEWAY_JWKS: {settings.gateway_jwks}: {why}")
        if not settings.gateway_jwt_issuers:
            refuse("mesh.xds", "POI_XDS_GATEWAY_JWT_ISSUERS: keys are given but no issuer")
    return Edge(
        listen=settings.gateway_listen,
        descriptors=descriptor_set(),
        openapi=document(secured=bool(keys)),
        cors_origins=settings.gateway_cors_origins,
        calls_per_second=settings.gateway_calls_per_second,
        burst=settings.gateway_burst,
        max_body_bytes=settings.gateway_max_body_bytes,
        trusted_hops=settings.gateway_trusted_hops,
        tls=settings.gateway_tls,
        upstream_tls=settings.gateway_upstream_tls,
        trust=settings.gateway_trust,
        jwks=keys,
        jwt_issuers=settings.gateway_jwt_issuers,
        jwt_audience=settings.gateway_jwt_audience,
    )


async def main() -> None:
    """Serve until told to stop."""
    await assemble(load(XdsSettings)).serve()


if __name__ == "__main__":
    run(main)
