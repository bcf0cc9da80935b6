"""The gateway and its control plane, as a component of an overlay."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mesh.local.control import bootstrap
from mesh.settings import load
from mesh.xds.settings import XdsSettings
from tests.deploy.test_manifests import K8S, OVERLAYS, Resource, documents, kustomization, render

COMPONENT = K8S.parent / "envoy"
RESOURCES = [resource for name in kustomization(COMPONENT)["resources"] for resource in documents(COMPONENT / name)]


def find(kind: str, name: str) -> Resource:
    (found,) = [one for one in RESOURCES if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def container(name: str) -> dict[str, Any]:
    (found,) = find("Deployment", name)["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def port(name: str, of: str) -> int:
    (found,) = [item["containerPort"] for item in container(name)["ports"] if item["name"] == of]
    return int(found)


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_each_resource_is_valid(resource: Resource) -> None:
    kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", ["xds", "gateway"])
def test_pods_are_locked_down_and_found(name: str) -> None:
    spec = find("Deployment", name)["spec"]
    labels = spec["template"]["metadata"]["labels"]

    assert spec["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container(name)["securityContext"]["readOnlyRootFilesystem"] is True
    assert container(name)["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert find("Service", name)["spec"]["selector"].items() <= labels.items()
    assert find("PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_control_plane_may_read_slices_and_nothing_else() -> None:
    (rule,) = find("Role", "xds")["rules"]

    assert rule == {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}
    assert find("Deployment", "gateway")["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_both_agree_on_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in container("xds")["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    settings = load(XdsSettings, [])
    (content,) = documents(COMPONENT / "bootstrap.yaml")
    ads, _admin = content["static_resources"]["clusters"]
    asked = ads["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    (metrics,) = content["static_resources"]["listeners"]

    assert settings.source == "kubernetes"
    assert asked == {"address": find("Service", "xds")["metadata"]["name"], "port_value": port("xds", "grpc")}
    assert settings.listen == f"0.0.0.0:{port('xds', 'grpc')}"
    assert settings.metrics_listen == f"0.0.0.0:{port('xds', 'metrics')}"
    assert settings.gateway_listen == f"0.0.0.0:{port('gateway', 'http')}"
    assert metrics["address"]["socket_address"]["port_value"] == port("gateway", "metrics")
    same = bootstrap("127.0.0.1:1", 1)
    assert content["dynamic_resources"] == same["dynamic_resources"], "the same on one machine"
    assert content["overload_manager"] == same["overload_manager"]


def test_an_overlay_with_it_renders(tmp_path: Path) -> None:
    shutil.copytree(K8S.parent, tmp_path / "deploy")
    overlay = tmp_path / "deploy" / "k8s" / "overlays" / OVERLAYS[0].name
    with (overlay / "kustomization.yaml").open("a") as file:
        file.write("components:\n  - ../../../envoy\n")

    for resource in render(overlay):  # where kustomize or kubectl is
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
    assert yaml.safe_load((overlay / "kustomization.yaml").read_text())["components"] == ["../../../envoy"]
