"""The Kubernetes manifests are valid, agree with each other, and say what the services understand."""

from __future__ import annotations

import inspect
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mesh.settings import ServerSettings, load

K8S = Path(__file__).resolve().parents[2] / "deploy" / "k8s"
BASE = K8S / "base"
OVERLAYS = sorted(path.parent for path in K8S.glob("overlays/*/kustomization.yaml"))
SERVICES = ("embed", "match", "history", "region", "alert", "ingest")
STATES = ("redis", "mosquitto")
Resource = dict[str, Any]


def documents(path: Path) -> Iterator[Resource]:
    yield from yaml.safe_load_all(path.read_text(encoding="utf-8"))


def kustomization(folder: Path) -> Resource:
    (content,) = documents(folder / "kustomization.yaml")
    return content


RESOURCES = [
    resource
    for name in kustomization(BASE)["resources"]
    if name.endswith(".yaml")
    for resource in documents(BASE / name)
]


def find(kind: str, name: str) -> Resource:
    (found,) = [item for item in RESOURCES if item["kind"] == kind and item["metadata"]["name"] == name]
    return found


def workload(name: str) -> Resource:
    (found,) = [
        item for item in RESOURCES if item["kind"] in ("Deployment", "StatefulSet") and item["metadata"]["name"] == name
    ]
    return found


def container(name: str) -> Resource:
    (found,) = workload(name)["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def ports(name: str) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(name)["ports"]}


def settings_file() -> dict[str, str]:
    lines = (BASE / "settings.env").read_text().split()
    return dict(line.split("=", 1) for line in lines)


def settings_class(service: str) -> type[ServerSettings]:
    module = import_module(f"{container(service)['args'][0]}.settings")
    (found,) = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, ServerSettings) and value.__module__ == module.__name__
    ]
    return found


def describe(resource: Resource) -> str:
    return f"{resource['kind']}-{resource['metadata']['name']}"


@pytest.mark.parametrize("resource", RESOURCES, ids=describe)
def test_each_resource_is_valid(resource: Resource) -> None:
    kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


def test_the_check_of_resources_finds_a_typing_error() -> None:
    wrong = yaml.safe_load(yaml.safe_dump(workload("embed")))
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_every_file_of_the_base_is_used() -> None:
    content = kustomization(BASE)
    used = {*content["resources"], "kustomization.yaml"}
    for generator in content["configMapGenerator"]:
        used.update(generator.get("envs", []), generator.get("files", []))

    assert {path.name for path in BASE.iterdir()} == used


@pytest.mark.parametrize("name", SERVICES + STATES)
def test_pods_are_locked_down(name: str) -> None:
    pod = workload(name)["spec"]["template"]["spec"]
    limits = container(name)["securityContext"]

    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert limits == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= container(name)["resources"]["requests"].keys()
    assert "memory" in container(name)["resources"]["limits"]


def test_redis_says_that_it_is_full_before_its_pod_is_ended() -> None:
    settings = dict(line.split(maxsplit=1) for line in (BASE / "redis.conf").read_text().splitlines() if line[0] != "#")
    units = {"gb": 1 << 30, "Gi": 1 << 30}
    most, limit = settings["maxmemory"], container("redis")["resources"]["limits"]["memory"]

    assert settings["maxmemory-policy"] == "noeviction"
    assert 2 * int(most[:-2]) * units[most[-2:]] <= int(limit[:-2]) * units[limit[-2:]]


@pytest.mark.parametrize("name", ["history", *STATES])
def test_a_bad_version_of_what_has_a_volume_can_be_taken_back_at_once(name: str) -> None:
    spec = workload(name)["spec"]

    assert spec["podManagementPolicy"] == "Parallel", "OrderedReady waits for the pod that never gets ready"
    assert spec["template"]["spec"]["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


@pytest.mark.parametrize("name", SERVICES + STATES)
def test_a_pod_neither_fills_its_node_nor_holds_it_back(name: str) -> None:
    volumes = workload(name)["spec"]["template"]["spec"]["volumes"]

    assert all("sizeLimit" in volume["emptyDir"] for volume in volumes if "emptyDir" in volume)
    assert find("PodDisruptionBudget", name)["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize("name", SERVICES + STATES)
def test_selectors_ports_and_budgets_fit(name: str) -> None:
    spec = workload(name)["spec"]
    labels = spec["template"]["metadata"]["labels"]
    service = find("Service", name)["spec"]

    assert labels["app.kubernetes.io/name"] == name
    assert labels["app.kubernetes.io/part-of"] == "poi-mesh"
    for selector in (
        spec["selector"]["matchLabels"],
        service["selector"],
        find("PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == ports(name)
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container(name).keys()


@pytest.mark.parametrize("service", SERVICES)
def test_health_decides_whether_a_server_gets_calls(service: str) -> None:
    for probe in ("startupProbe", "readinessProbe"):
        assert container(service)[probe]["grpc"] == {"port": ports(service)["grpc"]}


@pytest.mark.parametrize("service", SERVICES)
def test_a_pod_has_time_to_drain(service: str) -> None:
    settings = settings_file()
    needed = float(settings["POI_DRAIN_SECONDS"]) + float(settings["POI_GRACE_SECONDS"])

    assert workload(service)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > needed


@pytest.mark.parametrize("service", SERVICES)
def test_servers_understand_their_environment(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from_secrets = {
        "POI_REDIS_URL": "redis://:secret@redis:6379/0",
        "POI_MQTT_URL": "mqtt://ingest:secret@mosquitto:1883",
    }
    environment = settings_file()
    for variable in container(service).get("env", []):
        environment[variable["name"]] = from_secrets[variable["name"]]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    settings = load(settings_class(service), [])

    assert settings.listen == f"0.0.0.0:{ports(service)['grpc']}"
    assert settings.metrics_listen == f"0.0.0.0:{ports(service)['metrics']}"
    fields = type(settings).model_fields
    assert ("redis_url" in fields, "mqtt_url" in fields) == (
        "POI_REDIS_URL" in environment,
        "POI_MQTT_URL" in environment,
    )
    for field in fields:
        if field.endswith("_target"):
            other = field.removesuffix("_target")
            assert getattr(settings, field) == f"dns:///{other}:{ports(other)['grpc']}"


def test_every_setting_is_one_that_some_service_reads() -> None:
    known = {"POI_DRAIN_SECONDS", "POI_GRACE_SECONDS", "POI_LOG_FORMAT", "POI_LOG_LEVEL"}
    for service in SERVICES:
        for field in settings_class(service).model_fields:
            known.add(f"POI_{service}_{field}".upper())
            if field.endswith("_target"):
                known.add(f"POI_{field}".upper())

    assert settings_file().keys() <= known


def test_callers_may_reach_what_they_are_told_to_call() -> None:
    def allowed(to: str, port: str) -> set[str]:
        rules = find("NetworkPolicy", f"to-{to}")["spec"]
        assert rules["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": to}
        (rule,) = rules["ingress"]
        assert rule["ports"] == [{"protocol": "TCP", "port": port}]
        return {peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for peer in rule["from"]}

    callers: dict[str, set[str]] = {}
    for service in SERVICES:
        for field in settings_class(service).model_fields:
            if field.endswith("_target"):
                callers.setdefault(field.removesuffix("_target"), set()).add(service)

    assert {to: allowed(to, "grpc") for to in callers} == callers
    assert allowed("redis", "redis") == {name for name in SERVICES if "redis_url" in settings_class(name).model_fields}
    assert allowed("mosquitto", "mqtt") == {
        name for name in SERVICES if "mqtt_url" in settings_class(name).model_fields
    }


def test_alerts_leave_the_mesh_for_nowhere_until_an_overlay_says_where() -> None:
    leaving = [
        (item["metadata"]["name"], peer["ipBlock"]["cidr"])
        for item in RESOURCES
        if item["kind"] == "NetworkPolicy"
        for rule in item["spec"].get("egress", [])
        for peer in rule["to"]
        if "ipBlock" in peer
    ]

    assert leaving == [("alert-to-targets", "192.0.2.0/24")]
    assert find("NetworkPolicy", "alert-to-targets")["spec"]["podSelector"]["matchLabels"] == {
        "app.kubernetes.io/name": "alert"
    }


def test_websocket_clients_reach_the_port_that_is_listened_on() -> None:
    assert settings_file()["POI_ALERT_WEBSOCKET_LISTEN"] == f"0.0.0.0:{ports('alert')['websocket']}"
    (rule,) = find("NetworkPolicy", "alert-websocket")["spec"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": "websocket"}]


def test_what_is_not_allowed_is_refused() -> None:
    everything = find("NetworkPolicy", "nothing-by-default")["spec"]

    assert everything == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("name", [item["metadata"]["name"] for item in RESOURCES if item["kind"].startswith("Horiz")])
def test_what_scales_leaves_the_count_to_the_autoscaler(name: str) -> None:
    target = find("HorizontalPodAutoscaler", name)["spec"]["scaleTargetRef"]

    assert (target["kind"], target["name"]) == (workload(name)["kind"], name)
    assert "replicas" not in workload(name)["spec"]
    assert find("Service", name)["spec"]["clusterIP"] == "None", "callers must see every replica"


@pytest.mark.parametrize("name", ["history", "region", "ingest", "redis", "mosquitto"])
def test_what_must_be_alone_never_runs_twice(name: str) -> None:
    found = workload(name)

    assert found["spec"]["replicas"] == 1
    assert found["kind"] == "StatefulSet" or found["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_an_overlay_names_its_store_and_its_cameras(overlay: Path) -> None:
    content = kustomization(overlay)
    (namespace,) = documents(overlay / "namespace.yaml")
    (generator,) = [one for one in content["configMapGenerator"] if one["name"] == "settings"]
    (patch,) = [one for one in content["patches"] if one["target"]["name"] == "from-cameras"]
    (operation,) = yaml.safe_load(patch["patch"])

    kubernetes_validate.validate(namespace, kubernetes_validate.latest_version(), strict=True)
    assert namespace["metadata"]["name"] == content["namespace"] == f"poi-{overlay.name}"
    assert generator["behavior"] == "merge"
    assert f"POI_STORE={overlay.name}" in generator["literals"]
    place: Any = find(patch["target"]["kind"], patch["target"]["name"])
    for key in operation["path"].strip("/").split("/"):
        place = place[int(key)] if isinstance(place, list) else place[key]
    assert ip_network(place) == ip_network("192.0.2.0/24"), "the base opens the broker to nobody"
    assert ip_network(operation["value"]) != ip_network(place)
    for rendered in render(overlay):
        if rendered["apiVersion"].startswith("cert-manager.io/"):
            continue  # no schema of theirs
        kubernetes_validate.validate(rendered, kubernetes_validate.latest_version(), strict=True)
        assert rendered["metadata"].get("namespace", content["namespace"]) == content["namespace"]


def render(overlay: Path) -> list[Resource]:
    """The overlay as kustomize makes it; nothing where neither kustomize nor kubectl is installed."""
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            rendered = subprocess.run([*command, str(overlay)], check=True, capture_output=True, text=True).stdout
            return list(yaml.safe_load_all(rendered))
    return []
