"""The whole mesh on this machine, wired together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from mesh import brokers, channels
from mesh.local.broker import Broker
from mesh.local.control import Envoy
from mesh.local.ports import free_port
from mesh.local.program import Program
from mesh.local.redis import Redis
from mesh.local.service import Service

if TYPE_CHECKING:
    from mesh.auth import Role
    from mesh.local.secured import Secured

MODULES: Mapping[str, str] = {
    "embed": "embed_svc",
    "match": "match_svc",
    "history": "history_svc",
    "region": "history_svc.region",
    "alert": "alert_svc",
    "audit": "mesh.audit",
    "ingest": "ingest_svc",
}
"""Service name -> the module that `python -m` runs, in the order of starting; stopped in reverse, so ingest first."""
USUAL_PORTS: Mapping[str, int] = {
    "embed": 7001,
    "match": 7002,
    "history": 7003,
    "region": 7004,
    "alert": 7005,
    "ingest": 7006,
    "audit": 7008,
}
"""Where each is unless told otherwise, and where `poi` looks for it."""
AUDIT, GATEWAY = "audit", "gateway"
USUAL: tuple[str, ...] = tuple(name for name in MODULES if name != AUDIT)
"""Those that a store cannot do without."""


def _receipts(directory: Path) -> dict[str, str]:
    """The key of receipts of erasures, made where there is none."""
    from mesh.erasure.receipts import Signer  # with a library that takes its time to import

    path = (directory / "receipts" / "key.pem").resolve()
    if not path.exists():
        Signer.create(path)
    return {"POI_AUDIT_RECEIPT_KEY": str(path)}


Progress = Callable[[str, str], None]


class Mesh:
    """Redis, an MQTT broker and the services, each knowing where the others are; a gateway where wanted.

    Args:
        data_dir: of this run: one directory a program, and history's log.
        redis_url: of a Redis to use; None starts one (`redis`).
        mqtt_url: of a broker to use; None starts one (`broker`).
        env: settings for all services, over those of this process (POI_STORE, POI_MODELS_DIR, ...). With a keyring and
            "audit" a second person can be asked to approve, in stores that are set so.
        services: which of `MODULES` to run; the others are neither started nor waited for. With "audit" among them
            all of them record who reads or changes what is kept of people.
        progress: called with (program, "starting" | "ready" | "stopped").
        autosave_changes: of the broker, see `Broker`.
        ports: of the services' gRPC servers, by name; free ones where not given.
        secure: mutual TLS between all, and authorisation: clients need certificate and token (`connect`). Redis and the
            broker, where they are its own, speak TLS to those who may.
        gateway: host:port where clients come in through Envoy, in front of all services; "" for no gateway.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        redis_url: str | None = None,
        mqtt_url: str | None = None,
        env: Mapping[str, str] | None = None,
        services: Iterable[str] = USUAL,
        progress: Progress | None = None,
        autosave_changes: int = 20,
        ports: Mapping[str, int] | None = None,
        secure: bool = False,
        gateway: str = "",
    ) -> None:
        self.data_dir = data_dir
        told = {**os.environ, **(env or {})}
        self.secured: Secured | None = None
        """Certificates and accounts, where it is `secure`."""
        if secure:
            from mesh.local.secured import Secured  # with libraries that take their time to import

            self.secured = Secured(data_dir, told.get("POI_STORE", "store-1"), MODULES)
        self._reader = self.secured.reader if self.secured else None
        self.redis: Redis | None = None
        self.broker: Broker | None = None
        on_the_broker: Mapping[str, str] = {}
        if not redis_url:
            self.redis = Redis(data_dir / "redis", tls=self.secured.files("redis") if self.secured else None)
            redis_url = self.redis.url
        if not mqtt_url:
            self.broker = Broker(
                data_dir / "broker",
                autosave_changes=autosave_changes,
                tls=self.secured.files("broker") if self.secured else None,
                users=self.secured.broker_users if self.secured else (),
            )
            mqtt_url = self.broker.url
            if self.secured and self.broker.tls:
                on_the_broker = self.secured.broker_env(mqtt_url)
                mqtt_url = brokers.with_files(mqtt_url, self.secured.files("camera"))
        self.redis_url, self.mqtt_url = redis_url, mqtt_url
        """Of the broker, for cameras."""
        self._progress = progress or (lambda program, state: None)
        self._running = ExitStack()
        wanted = set(services)
        if unknown := wanted - MODULES.keys():
            raise ValueError(f"no such service: {', '.join(sorted(unknown))}; there are {', '.join(MODULES)}")
        ports = {name: (ports or {}).get(name) or free_port() for name in MODULES}
        self.env: dict[str, str] = {
            "POI_REDIS_URL": self.redis_url,
            "POI_MQTT_URL": self.mqtt_url,
            **on_the_broker,
            "POI_HISTORY_DATA_DIR": str((data_dir / "history-data").resolve()),
            **{f"POI_{name.upper()}_TARGET": f"127.0.0.1:{port}" for name, port in ports.items()},
            **(self.secured.env if self.secured else {}),
            **({"POI_AUDIT_REDIS_URL": self.redis_url, **_receipts(data_dir)} if AUDIT in wanted else {}),
            # What waits for a second person is sealed.
            **({"POI_APPROVALS_REDIS_URL": self.redis_url} if AUDIT in wanted and "POI_VAULT_KEYRING" in told else {}),
            **(env or {}),
        }
        """The settings that every service is given."""
        self.control_plane: Service | None = None
        self.gateway: Envoy | None = None
        if gateway:
            secrets = data_dir / "secrets"
            edge = self.secured.gateway(secrets) if self.secured else {}
            self.control_plane = Service(
                "mesh.xds",
                data_dir / "xds",
                # Started with everybody else: there is nobody yet whose word could be missed for long.
                {"POI_XDS_SETTLE_SECONDS": "0.5", **edge, **self.env, "POI_XDS_GATEWAY_LISTEN": gateway},
                reader=self._reader,
            )
            self.env["POI_CONTROL_PLANE"] = self.control_plane.target
            self.gateway = (
                Envoy(
                    data_dir / "envoy",
                    self.control_plane.target,
                    gateway,
                    secrets=secrets.resolve(),
                    expected=self.secured.ids["xds"],
                )
                if self.secured
                else Envoy(data_dir / "envoy", self.control_plane.target, gateway)
            )
        self.services: dict[str, Service] = {
            name: Service(module, data_dir / name, self.env, port=ports[name], reader=self._reader)
            for name, module in MODULES.items()
            if name in wanted
        }

    def target(self, service: str) -> str:
        """host:port of a service's gRPC server."""
        return self.services[service].target

    def connect(self, service: str, *roles: Role, subject: str = "demo", purpose: str = "") -> grpc.aio.Channel:
        """A channel of somebody with these roles; where nothing is secured, of anybody. The caller closes it.

        Args:
            service: one of `services`, or "gateway", which leads to all of them.
            roles: of the caller; without any there is no token.
            subject: who it is.
            purpose: why they ask, said with every call.
        """
        metadata = {"actor": subject, **({"purpose": purpose} if purpose else {})}
        target = self.gateway.gateway if service == GATEWAY and self.gateway else self.target(service)
        if self.secured is None:
            return channels.connect(target, metadata=metadata)
        from mesh.local.secured import TOOL

        token = self.secured.token(roles, subject) if roles else ""
        return channels.connect(target, service=service, tls=self.secured.files(TOOL), token=token, metadata=metadata)

    def client_env(self, *roles: Role, subject: str = "demo") -> dict[str, str]:
        """The environment of a `poi` command of somebody with these roles, who stands beside the servers."""
        env = {f"POI_{name.upper()}_TARGET": service.target for name, service in self.services.items()}
        if self.secured is not None:
            from mesh.local.secured import TOOL, tls_env

            env |= tls_env(self.secured.files(TOOL)) | {"POI_TOKEN": self.secured.token(roles, subject)}
        return env

    def outside_env(self, *roles: Role, subject: str = "demo") -> dict[str, str]:
        """The same of somebody who reaches nothing but the gateway, and has no certificate."""
        assert self.gateway is not None
        if self.secured is None:
            return {"POI_GATEWAY": f"http://{self.gateway.gateway}"}
        from mesh.local.secured import TOOL

        return {
            "POI_GATEWAY": f"https://{self.gateway.gateway}",
            "POI_TLS_CA": str(self.secured.files(TOOL).ca.resolve()),
            "POI_TOKEN": self.secured.token(roles, subject),
        }

    def replica(self, service: str, name: str, **env: str) -> Service:
        """Another server of the same kind on its own port, not started; the caller starts and stops it."""
        directory = self.data_dir / name
        return Service(MODULES[service], directory, {**self.env, **env}, name=name, reader=self._reader)

    @property
    def programs(self) -> list[Program]:
        """Everything that this mesh itself runs, in the order of starting."""
        parts = (self.redis, self.broker, self.control_plane, *self.services.values(), self.gateway)
        return [program for program in parts if program is not None]

    def start(self) -> Self:
        """Starts everything, the services side by side, and waits until all serve.

        Raises:
            LaunchError: a program did not start; everything is stopped again.
        """
        with ExitStack() as undo:
            for group in ([self.redis, self.broker, self.control_plane], [*self.services.values(), self.gateway]):
                started = [program for program in group if program is not None]
                for program in started:
                    self._progress(program.name, "starting")
                    program.spawn()
                    undo.callback(self._stop, program)
                for program in started:
                    program.wait_ready()
                    self._progress(program.name, "ready")
            if self.broker is not None:
                self._await_subscriptions()
                self.broker.save()  # what has been subscribed to survives a SIGKILL from here on
            self._running = undo.pop_all()
        return self

    def _await_subscriptions(self) -> None:
        ingest = self.services.get("ingest")
        if ingest is not None and ingest.metrics_url:
            ingest.wait_for_metric("poi_ingest_connected", 1.0)

    def stop(self) -> None:
        """Stops everything in reverse order. Idempotent; programs that were killed meanwhile are no error."""
        self._running.close()

    def _stop(self, program: Program) -> None:
        program.stop()
        self._progress(program.name, "stopped")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
