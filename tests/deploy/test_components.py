"""History in Qdrant, as a component of an overlay: replicas without a volume, and the way out to what they need."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from history_svc.settings import Settings
from mesh.settings import load
from tests.deploy.test_manifests import BASE, K8S, OVERLAYS, Resource, documents, kustomization, render

COMPONENT = K8S / "components" / "history-in-qdrant"
RESOURCES = [resource for name in kustomization(COMPONENT)["resources"] for resource in documents(COMPONENT / name)]


def find(kind: str, resources: list[Resource], name: str = "history") -> Resource:
    (found,) = [one for one in resources if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pod(workload: Resource) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_each_resource_is_valid(resource: Resource) -> None:
    kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


def test_the_replicas_differ_from_the_pod_of_the_base_in_what_they_keep_only() -> None:
    ours = find("Deployment", RESOURCES)
    base = find("StatefulSet", list(documents(BASE / "history.yaml")))
    one, other = pod(ours), pod(base)
    (container,), (other_container,) = one["containers"], other["containers"]

    assert "replicas" not in ours["spec"], "the autoscaler says how many"
    assert find("HorizontalPodAutoscaler", RESOURCES)["spec"]["minReplicas"] == 2, "one may be replaced or fail"
    assert [volume["name"] for volume in one["volumes"]] == ["tmp"], "nothing is kept"
    assert [mount["name"] for mount in container["volumeMounts"]] == ["tmp"]
    assert {"secretRef": {"name": "history-store"}} in container["envFrom"]
    for key in ("image", "args", "ports", "startupProbe", "readinessProbe", "livenessProbe", "securityContext"):
        assert container[key] == other_container[key]
    assert one["securityContext"] | {"fsGroupChangePolicy": "OnRootMismatch"} == other["securityContext"]
    assert ours["spec"]["selector"] == base["spec"]["selector"], "service, budget and policies find them"


def test_the_base_gives_way_to_it() -> None:
    removed, changed = kustomization(COMPONENT)["patches"]

    assert removed["target"] == {"kind": "StatefulSet", "name": "history"}
    assert yaml.safe_load(removed["patch"])["$patch"] == "delete"
    assert changed["target"] == {"kind": "Service", "name": "history"}
    assert yaml.safe_load(changed["patch"]) == [{"op": "add", "path": "/spec/clusterIP", "value": "None"}]


def test_only_history_gets_out_and_to_two_places_only() -> None:
    for name, port in (("history-to-qdrant", 6334), ("history-to-object-store", 443)):
        spec = find("NetworkPolicy", RESOURCES, name)["spec"]
        assert spec["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "history"}
        assert spec["policyTypes"] == ["Egress"]
        (rule,) = spec["egress"]
        assert rule["ports"] == [{"protocol": "TCP", "port": port}]
        assert len(rule["to"]) == 1


def test_what_the_secret_must_hold_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POI_HISTORY_QDRANT_URL", "https://:key@qdrant.qdrant:6334")
    monkeypatch.setenv("POI_HISTORY_FRAMES_URL", "s3://evidence/store-1")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")

    settings = load(Settings, [])

    assert settings.qdrant_url
    assert settings.frames_url


def test_an_overlay_with_it_renders(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    overlay = tmp_path / "k8s" / "overlays" / OVERLAYS[0].name
    with (overlay / "kustomization.yaml").open("a") as file:
        file.write("components:\n  - ../../components/history-in-qdrant\n")

    rendered = render(overlay)

    if rendered:  # where kustomize or kubectl is
        for resource in rendered:
            kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
        assert not [one for one in rendered if one["kind"] == "StatefulSet" and one["metadata"]["name"] == "history"]
        assert find("Service", rendered)["spec"]["clusterIP"] == "None"
        assert find("Deployment", rendered)["metadata"]["namespace"] == kustomization(overlay)["namespace"]
    assert kustomization(overlay)["components"] == ["../../components/history-in-qdrant"]
