"""Redis and the broker as components/zero-trust deploys them: TLS, for those who may, with certificates that change."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from mesh import brokers
from mesh import redis as connections
from mesh.pki import Authority
from mesh.settings import TlsFiles
from tests.deploy.states import SECONDS, ZERO_TRUST, Broker, Connection, Redis, environment
from tests.support.waiting import until

Secrets = dict[str, dict[str, str]]
CAMERA = "scenescape/data/camera/camera-1"


class Store:
    """The authority of a store, in place of cert-manager."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.authority.create("poi-mesh")

    def issue(self, name: str, directory: Path | None = None) -> TlsFiles:
        return self.authority.issue(name, "mesh", timedelta(hours=1), directory=directory).files

    def mount(self, state: Redis | Broker, name: str) -> None:
        """Its certificate where its pod has it, as a Secret has: renewed there too."""
        state.mounts["tls"].rmdir()
        state.mounts["tls"].symlink_to(self.issue(name).certificate.parent)

    def replace_everything(self) -> None:
        """Another root, certificates of it for all, and nobody trusts the first one any more."""
        self.authority.roll()
        self.authority.renew(everything=True)
        self.authority.retire()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "pki")


def deployed(variable: str, files: TlsFiles) -> str:
    """An address that the component gives the servers, with the files of one of them."""
    address = environment(ZERO_TRUST, variable)
    for mounted, here in (("tls.crt", files.certificate), ("tls.key", files.key), ("ca.crt", files.ca)):
        assert f"=/tls/{mounted}" in address
        address = address.replace(f"/tls/{mounted}", str(here))
    return address


@pytest.fixture
def server(tmp_path: Path, store: Store, secrets: Secrets) -> Iterator[Redis]:
    state = Redis(tmp_path, secrets["redis"]["password"], ZERO_TRUST)
    store.mount(state, "redis")
    with state:
        yield state


@pytest.fixture
def address(server: Redis) -> Callable[[TlsFiles], str]:
    """Of the running Redis, for somebody."""

    def of(files: TlsFiles) -> str:
        url = deployed("POI_REDIS_URL", files)
        assert url.startswith("rediss://:$(REDIS_PASSWORD)@redis:6379/0?")
        return url.replace("$(REDIS_PASSWORD)", server.password).replace("redis:6379", f"127.0.0.1:{server.port}")

    return of


def test_redis_takes_servers_of_the_mesh_and_nobody_else(
    server: Redis, store: Store, address: Callable[[TlsFiles], str]
) -> None:
    match = store.issue("match")
    url = address(match)
    with redis.Redis.from_url(url) as client:
        assert client.ping()
    with redis.Redis.from_url(url.replace(server.password, "wrong")) as guess, pytest.raises(redis.AuthenticationError):
        guess.ping()
    plain = f"redis://:{server.password}@127.0.0.1:{server.port}/0"
    nameless = f"{plain.replace('redis:', 'rediss:')}?ssl_ca_certs={match.ca}"
    for refused in (plain, nameless):
        with redis.Redis.from_url(refused) as stranger, pytest.raises(redis.ConnectionError):
            stranger.ping()


async def test_redis_takes_new_certificates_and_keeps_who_is_connected(
    server: Redis, store: Store, address: Callable[[TlsFiles], str]
) -> None:
    url = address(store.issue("match"))
    client = connections.connect(url)
    before = await client.client_id()
    store.replace_everything()

    async def renewed() -> bool:
        fresh = connections.connect(url)
        try:
            return bool(await fresh.ping())
        except redis.ConnectionError:
            return False
        finally:
            await fresh.aclose()

    await until(renewed, "Redis shows the new certificate")

    assert await client.client_id() == before, "it has been connected all the time"
    with redis.Redis.from_url(url) as other:
        other.client_kill_filter(_id=before)
    assert await client.client_id() != before, "connected again, by the certificate of now"
    await client.aclose()


@pytest.fixture
def broker(tmp_path: Path, store: Store, secrets: Secrets) -> Iterator[Broker]:
    state = Broker(tmp_path, secrets["broker"]["passwords"], ZERO_TRUST)
    store.mount(state, "broker")
    with state:
        yield state


class People:
    """Connections to the broker, all closed at the end."""

    def __init__(self, broker: Broker, store: Store, secrets: Secrets) -> None:
        self._broker, self._store = broker, store
        self._passwords = {
            "camera": secrets["broker"]["camera-password"],
            "ingest": secrets["broker"]["url"].removeprefix("mqtt://ingest:").partition("@")[0],
        }
        self.opened: list[Connection] = []

    def server(self, name: str) -> Connection:
        """A server of the mesh with its certificate, by the address that it is given."""
        url = deployed("POI_MQTT_URL", self._store.issue(name))
        assert url.startswith("mqtts://mosquitto:8883?")
        return self._opened(Connection(self._broker.ports[8883], None, name=name, tls=brokers.tls_context(url)))

    def camera(self, user: str = "camera", password: str = "") -> Connection:
        """Somebody with a password, who knows the store's root."""
        tls = brokers.tls_context(f"mqtts://x?ssl_ca_certs={self._store.issue('cli').ca}")
        password = password or self._passwords[user]
        return self._opened(Connection(self._broker.ports[8884], user, password, name=f"{user}-1", tls=tls))

    def _opened(self, connection: Connection) -> Connection:
        connection.open()
        self.opened.append(connection)
        return connection


@pytest.fixture
def people(broker: Broker, store: Store, secrets: Secrets) -> Iterator[People]:
    found = People(broker, store, secrets)
    yield found
    for connection in found.opened:
        connection.close()


def test_cameras_and_servers_meet_at_the_broker(people: People) -> None:
    ingest, alert, camera = people.server("ingest"), people.server("alert"), people.camera()
    assert not ingest.subscribe("$share/store/scenescape/data/camera/+").is_failure
    assert not camera.subscribe("scenescape/cmd/camera/+").is_failure

    assert not camera.publish(CAMERA, b"seen").is_failure
    assert not ingest.publish("scenescape/cmd/camera/camera-1", b"getimage").is_failure
    assert not alert.publish("poi-mesh/alerts/s1").is_failure

    assert ingest.messages.get(timeout=SECONDS) == (CAMERA, b"seen")
    assert camera.messages.get(timeout=SECONDS) == ("scenescape/cmd/camera/camera-1", b"getimage")


def test_nobody_gets_into_the_broker_who_may_not(
    broker: Broker, people: People, store: Store, secrets: Secrets
) -> None:
    nameless = brokers.tls_context(f"mqtts://x?ssl_ca_certs={store.issue('cli').ca}")
    assert Connection(broker.ports[8883], "camera", secrets["broker"]["camera-password"]).turned_away(), "in the clear"
    assert Connection(broker.ports[8884], "camera", secrets["broker"]["camera-password"]).turned_away(), "in the clear"
    assert Connection(broker.ports[8883], "camera", "x", tls=nameless).turned_away(), "without a certificate"
    assert people.camera(password="wrong").code.getName() == "Not authorized"
    # Another server of the mesh, and a server's password of base: they may come in, and do nothing.
    for other in (people.server("embed"), people.camera("ingest")):
        assert other.publish(CAMERA, b"forged").getName() == "Not authorized"


async def test_the_broker_takes_a_new_certificate_and_keeps_who_is_connected(
    broker: Broker, people: People, store: Store
) -> None:
    def shown() -> str:
        return ssl.get_server_certificate(("127.0.0.1", broker.ports[8884]))

    ingest, before = people.server("ingest"), shown()
    ingest.subscribe("scenescape/data/camera/+")
    store.authority.renew(everything=True)

    await until(lambda: shown() != before, "the broker shows the new certificate")

    people.camera().publish(CAMERA, b"seen")
    assert ingest.messages.get(timeout=SECONDS) == (CAMERA, b"seen")
    assert ingest.lost.empty()


async def test_the_broker_starts_again_for_another_root(broker: Broker, people: People, store: Store) -> None:
    ingest = people.server("ingest")
    ingest.subscribe("scenescape/data/camera/+")
    ingest.close()
    people.camera().publish(CAMERA, b"kept")
    store.replace_everything()

    await until(lambda: not broker.running, "the broker ends in good order, for its pod to start it again")
    broker.restart()

    assert people.server("ingest").messages.get(timeout=SECONDS) == (CAMERA, b"kept")


async def test_the_broker_takes_a_new_password(broker: Broker, people: People, secrets: Secrets) -> None:
    file = broker.mounts["credentials"] / "passwords"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith("camera:")))

    await until(lambda: people.camera().code.is_failure, "the camera's password is no longer good")
