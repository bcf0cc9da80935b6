"""Audit and vault as components of an overlay: who records, who seals, and with what."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from match_svc.settings import MatchServerSettings
from mesh.audit.settings import AuditSettings
from mesh.settings import load
from tests.deploy.test_manifests import K8S, OVERLAYS, Resource, container, documents, kustomization, render

AUDIT, VAULT = K8S / "components" / "audit", K8S / "components" / "vault"
RESOURCES = [resource for name in kustomization(AUDIT)["resources"] for resource in documents(AUDIT / name)]
SEALING = ("match", "history", "alert", "audit")


def find(kind: str, resources: list[Resource], name: str) -> Resource:
    (found,) = [one for one in resources if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_each_resource_is_valid(resource: Resource) -> None:
    kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


def test_the_audit_server_is_as_locked_down_as_the_others_and_understands_its_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (ours,) = find("Deployment", RESOURCES, "audit")["spec"]["template"]["spec"]["containers"]
    assert ours["securityContext"] == container("alert")["securityContext"]
    assert ours["args"] == ["mesh.audit"]
    for variable in ours["env"]:
        monkeypatch.setenv(variable["name"], variable.get("value", "redis://:secret@redis:6379/0"))
    monkeypatch.setenv("POI_AUDIT_REDIS_URL", "redis://:secret@redis:6379/0")

    settings = load(AuditSettings, [])

    ports = {port["name"]: port["containerPort"] for port in ours["ports"]}
    assert settings.listen == f"0.0.0.0:{ports['grpc']}"
    assert settings.metrics_listen == f"0.0.0.0:{ports['metrics']}"
    service = find("Service", RESOURCES, "audit")["spec"]
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == ports


def test_what_the_secrets_must_hold_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POI_AUDIT_REDIS_URL", "redis://:secret@audit:6379/0")
    (literal,) = kustomization(VAULT)["configMapGenerator"][0]["literals"]
    name, _, value = literal.partition("=")
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("POI_VAULT_MASTER", "env:POI_VAULT_KEY")

    settings = load(MatchServerSettings, [])

    assert settings.audit_redis_url == "redis://:secret@audit:6379/0"
    assert str(settings.vault_keyring) == "/etc/poi-vault/keyring.json"
    assert settings.vault_master == "env:POI_VAULT_KEY"


def workloads(resources: list[Resource]) -> dict[str, Any]:
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in resources
        if one["kind"] in ("Deployment", "StatefulSet")
    }


def test_an_overlay_with_both_renders(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    overlay = tmp_path / "k8s" / "overlays" / OVERLAYS[0].name
    with (overlay / "kustomization.yaml").open("a") as file:
        file.write("components:\n  - ../../components/audit\n  - ../../components/vault\n")

    rendered = render(overlay)

    if rendered:  # where kustomize or kubectl is
        for resource in rendered:
            kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
        for name, pod in workloads(rendered).items():
            sources = yaml.safe_dump(pod["containers"][0].get("envFrom", []))
            server = name not in ("redis", "mosquitto")
            assert ("name: audit" in sources) == server, name
            assert ("name: vault-master" in sources) == (name in SEALING), name
            assert ("vault-keyring" in yaml.safe_dump(pod["volumes"])) == (name in SEALING), name
    assert kustomization(overlay)["components"] == ["../../components/audit", "../../components/vault"]
