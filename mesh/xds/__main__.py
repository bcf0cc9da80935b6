"""`python -m mesh.xds`: settings, parts, server."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from poi.v1 import registry_pb2_grpc

from mesh.aio import Background
from mesh.auth.tokens import LOCAL_ISSUER
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
    keys = keys_of(settings)
    edge = edge_of(settings, keys)
    follower = plane.Plane(board, plane.Builder(SERVICES.values(), edge), lambda: server.set_serving(ads.SERVICE, True))
    background = Background()
    for issuer, told in keys.items():
        server.on_stop(told.close)
        server.on_start(partial(_follow_keys, background, follower, issuer, told))
    server.on_start(lambda: background.start("follow", lambda: follower.follow(source)))
    server.on_stop(background.close)
    return server


def _follow_keys(background: Background, follower: plane.Plane, issuer: str, told: jwks.IssuerKeys) -> None:
    background.start(f"keys of {issuer}", lambda: follower.follow_keys(issuer, told.watch()))


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


def keys_of(settings: XdsSettings) -> dict[str, jwks.IssuerKeys]:
    """Whose tokens the gateway takes; ends the process with one line when keys cannot be."""
    local = {LOCAL_ISSUER: settings.gateway_jwks} if settings.gateway_jwks else {}
    found: dict[str, jwks.IssuerKeys] = {}
    for issuer, location in {**local, **settings.gateway_jwt_issuers}.items():
        try:
            found[issuer] = jwks.keys_of(issuer, location, settings.gateway_jwks_seconds)
        except (OSError, ValueError) as error:
            name = "JWT_ISSUERS" if issuer in settings.gateway_jwt_issuers else "JWKS"
            why = getattr(error, "strerror", None) or error
            refuse("mesh.xds", f"POI_XDS_GATEWAY_{name}: {location or repr(issuer)}: {why}")
    return found


def edge_of(settings: XdsSettings, issuers: Iterable[str]) -> Edge:
    """The gateway that is configured."""
    asked = tuple(issuers)
    return Edge(
        listen=settings.gateway_listen,
        descriptors=descriptor_set(),
        openapi=document(secured=bool(asked)),
        cors_origins=settings.gateway_cors_origins,
        calls_per_second=settings.gateway_calls_per_second,
        burst=settings.gateway_burst,
        max_body_bytes=settings.gateway_max_body_bytes,
        stall_seconds=settings.gateway_stall_seconds,
        trusted_hops=settings.gateway_trusted_hops,
        tls=settings.gateway_tls,
        upstream_tls=settings.gateway_upstream_tls,
        trust=settings.gateway_trust,
        issuers=asked,
        jwt_audience=settings.gateway_jwt_audience,
    )


async def main() -> None:
    """Serve until told to stop."""
    await assemble(load(XdsSettings)).serve()


if __name__ == "__main__":
    run(main)
