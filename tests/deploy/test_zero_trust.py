"""Certificates of cert-manager's for every server, as a component of an overlay, with the names that clients check."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mesh.settings import TlsFiles, load
from mesh.tls import SpiffeId
from tests.deploy.test_manifests import (
    K8S,
    OVERLAYS,
    SERVICES,
    Resource,
    documents,
    kustomization,
    render,
    settings_class,
    workload,
)

COMPONENT = K8S / "components" / "zero-trust"
SECURED = (*SERVICES, "audit")
CERTIFICATES: dict[str, Resource] = {
    one["metadata"]["name"]: one["spec"]
    for one in documents(COMPONENT / "certificates.yaml")
    if one["kind"] == "Certificate"
}


@pytest.mark.parametrize("service", SECURED)
def test_each_server_gets_the_identity_that_its_clients_look_for(service: str) -> None:
    spec, identity = CERTIFICATES[service], SpiffeId("poi-mesh", "mesh", service)

    assert spec["uris"] == [str(identity)]
    assert spec["dnsNames"] == [identity.server_name]
    assert {"client auth", "server auth"} <= set(spec["usages"])
    assert spec["privateKey"]["rotationPolicy"] == "Always"


def test_a_persons_tool_is_no_server() -> None:
    assert "server auth" not in CERTIFICATES["cli"]["usages"]
    assert "dnsNames" not in CERTIFICATES["cli"]


def test_each_server_has_its_own_secret_and_no_other() -> None:
    found: dict[str, Any] = {}
    for patch in kustomization(COMPONENT)["patches"]:
        if "name" in patch["target"]:
            if patch["target"]["name"] in SERVICES:
                assert workload(patch["target"]["name"])["kind"] == patch["target"]["kind"]
            values = [step["value"] for step in yaml.safe_load(patch["patch"])]
            found[patch["target"]["name"]] = [value["secret"]["secretName"] for value in values if "secret" in value]

    assert found == {service: [f"{service}-tls"] for service in SECURED}
    assert {CERTIFICATES[service]["secretName"] for service in SECURED} == {f"{service}-tls" for service in SECURED}


@pytest.mark.parametrize("service", SERVICES)
def test_the_settings_are_understood(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for literal in kustomization(COMPONENT)["configMapGenerator"][0]["literals"]:
        monkeypatch.setenv(*literal.split("=", 1))

    settings = load(settings_class(service), [])

    assert settings.auth == "required"
    assert settings.tls == TlsFiles(Path("/tls/tls.crt"), Path("/tls/tls.key"), Path("/tls/ca.crt"))


def test_an_overlay_with_it_renders(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    overlay = tmp_path / "k8s" / "overlays" / OVERLAYS[0].name
    with (overlay / "kustomization.yaml").open("a") as file:
        file.write("components:\n  - ../../components/zero-trust\n")

    rendered = render(overlay)

    for resource in rendered:  # where kustomize or kubectl is
        if resource["apiVersion"].startswith("cert-manager.io/"):
            continue  # no schema of theirs
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
        if resource["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "server" and (
            resource["kind"] in ("Deployment", "StatefulSet")
        ):
            (container,) = resource["spec"]["template"]["spec"]["containers"]
            assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": "metrics"}
            assert {"name": "tls", "mountPath": "/tls", "readOnly": True} in container["volumeMounts"]
    assert kustomization(overlay)["components"] == ["../../components/zero-trust"]
