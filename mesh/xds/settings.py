"""Settings of the control plane, and of the gateway that it configures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mesh.settings import HostPort, OptionalPath, ServerSettings


class XdsSettings(ServerSettings):
    """What the control plane can be told; `gateway_*` end up in Envoy, and paths among them are paths there."""

    service: ClassVar[str] = "xds"
    registers: ClassVar[bool] = False

    listen: HostPort = "127.0.0.1:7000"
    """Address of the discovery services, for Envoy and gRPC clients."""
    metrics_listen: str = "127.0.0.1:9000"
    """Address of the Prometheus endpoint (`/metrics`); empty switches it off."""
    source: Literal["registration", "file", "kubernetes"] = "registration"
    """Who says where replicas are: servers themselves, a file that is watched, or EndpointSlices of Kubernetes."""
    endpoints_file: Path = Path("endpoints.json")
    """The file, of source `file`."""
    lease_seconds: Annotated[float, Field(ge=0, le=600)] = 10.0
    """How long a registered server stays known after its connection broke without a word."""
    settle_seconds: Annotated[float, Field(ge=0, le=60)] = 3.0
    """After a start, how long registrations are collected before anybody is told."""
    kubernetes_namespace: str = ""
    """Where the services are, of source `kubernetes`; empty is the control plane's own namespace."""
    kubernetes_url: str = ""
    """The API server; empty is what the pod, or the user's kubeconfig, says."""

    gateway_listen: HostPort = "127.0.0.1:8080"
    """Where Envoy listens for clients."""
    gateway_cors_origins: tuple[str, ...] = ()
    """Origins (scheme://host:port) whose pages may call, as JSON; "*" for any. None by default."""
    gateway_calls_per_second: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    """Calls that one client address may make in a second; more get RESOURCE_EXHAUSTED (REST: 429). A stream is one."""
    gateway_burst: Annotated[int, Field(ge=1, le=1_000_000)] = 400
    """Calls that a client may make at once after a pause."""
    gateway_max_body_bytes: Annotated[int, Field(ge=1024, le=256 << 20)] = 12 << 20
    """Largest body of a REST call: a photo of 8 MiB in base64. Larger ones get 413."""
    gateway_stall_seconds: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """How long a request may come no further before it is given up (REST: 408). Streams may be silent."""
    gateway_trusted_hops: Annotated[int, Field(ge=0, le=10)] = 0
    """Proxies in front of the gateway whose X-Forwarded-For tells the client's address."""
    gateway_tls: OptionalPath = None
    """SDS file for Envoy that names the gateway's certificate (deploy/envoy/tls/tls.yaml); nothing: plaintext."""
    gateway_upstream_tls: OptionalPath = None
    """Directory of SDS files for Envoy, identity.yaml and authority.yaml: who it is to services, whom it believes."""
    gateway_trust: str = "spiffe://poi-mesh/mesh"
    """With upstream TLS: what services' SPIFFE ids begin with; "/match" follows."""
    gateway_jwks: str = ""
    """Keys of local accounts (`python -m mesh.token`): a JWKS file, read again when it changes, or an https:// URL.
    With these, or with identity providers, Envoy lets no call through without a valid token."""
    gateway_jwt_issuers: dict[str, str] = Field(default={})
    """Identity providers, as JSON: issuer to the file or https:// URL of its JWKS, "" to ask the provider (OIDC)."""
    gateway_jwt_audience: Annotated[str, Field(min_length=1)] = "poi-mesh"
    """Audience that a token must name."""
    gateway_jwks_seconds: Annotated[float, Field(ge=1, le=3600)] = 30.0
    """How often keys at URLs are asked for. Files are watched."""
