"""Certificates of cert-manager's for every server, as a component of an overlay, with the names that clients check."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from mesh.settings import TlsFiles, load
from mesh.tls import SpiffeId
from tests.deploy.states import config_map, environment, patched
from tests.deploy.test_manifests import (
    K8S,
    OVERLAYS,
    SERVICES,
    STATES,
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
    assert spec["dnsNames"] == [identity.server_name, "metrics.mesh.poi-mesh"]
    assert {"client auth", "server auth"} <= set(spec["usages"])
    assert spec["privateKey"]["rotationPolicy"] == "Always"


def test_a_persons_tool_is_no_server() -> None:
    assert "server auth" not in CERTIFICATES["cli"]["usages"]
    assert "dnsNames" not in CERTIFICATES["cli"]


def test_each_server_has_its_own_secret_and_no_other() -> None:
    found: dict[str, Any] = {}
    for patch in kustomization(COMPONENT)["patches"]:
        steps = yaml.safe_load(patch.get("patch", "[]"))
        values = [step["value"] for step in steps if isinstance(steps, list) and isinstance(step["value"], dict)]
        if secrets := [value["secret"]["secretName"] for value in values if "secret" in value]:
            if patch["target"]["name"] in SERVICES:
                assert workload(patch["target"]["name"])["kind"] in patch["target"]["kind"].split("|")
            found[patch["target"]["name"]] = secrets

    assert found == {service: [f"{service}-tls"] for service in SECURED}
    assert {CERTIFICATES[service]["secretName"] for service in SECURED} == {f"{service}-tls" for service in SECURED}


@pytest.mark.parametrize("state", STATES)
def test_redis_and_the_broker_are_who_the_servers_call(state: str) -> None:
    variable = {"redis": "POI_REDIS_URL", "mosquitto": "POI_MQTT_URL"}[state]
    address = urlsplit(environment(COMPONENT, variable))
    spec = CERTIFICATES[state]

    assert address.scheme in ("rediss", "mqtts")
    assert address.hostname in spec["dnsNames"]
    assert "client auth" not in spec["usages"], "they call nobody"
    assert address.port in {port["containerPort"] for port in patched(state, COMPONENT)["ports"]}
    (pod,) = [
        each["spec"]["template"]["spec"]
        for each in documents(COMPONENT / f"{state}.yaml")
        if "template" in each["spec"]
    ]
    assert [volume["secret"]["secretName"] for volume in pod["volumes"]] == [spec["secretName"]]


def test_the_broker_allows_the_same_as_without_certificates() -> None:
    def rules(text: str) -> list[str]:
        return [line for line in text.splitlines() if line and not line.startswith("#")]

    plain = rules(config_map("mosquitto")["mosquitto.acl"])
    named = {f"user {name}": f"user {CERTIFICATES[name]['commonName']}" for name in ("ingest", "alert")}

    assert rules(config_map("mosquitto", COMPONENT)["mosquitto.acl"]) == [named.get(line, line) for line in plain]


@pytest.mark.parametrize("service", SERVICES)
def test_the_settings_are_understood(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for literal in kustomization(COMPONENT)["configMapGenerator"][0]["literals"]:
        monkeypatch.setenv(*literal.split("=", 1))
    for variable in ("POI_REDIS_URL", "POI_MQTT_URL"):
        monkeypatch.setenv(variable, environment(COMPONENT, variable))

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
            assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": "metrics", "scheme": "HTTPS"}
            assert {"name": "tls", "mountPath": "/tls", "readOnly": True} in container["volumeMounts"]
            told = [variable["name"] for variable in container.get("env", [])]
            for variable in container.get("env", []):
                if variable["name"] in ("POI_REDIS_URL", "POI_MQTT_URL"):
                    assert variable["value"].startswith(("rediss://", "mqtts://"))
                    assert "valueFrom" not in variable
                if variable["name"] == "POI_REDIS_URL":
                    assert told.index("REDIS_PASSWORD") < told.index("POI_REDIS_URL"), "else it is not filled in"
        if (resource["kind"], resource["metadata"]["name"]) == ("Service", "cameras"):
            assert resource["spec"]["ports"] == [{"name": "cameras", "port": 8883, "targetPort": "cameras"}]
        if (resource["kind"], resource["metadata"]["name"]) == ("NetworkPolicy", "from-cameras"):
            assert resource["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": "cameras"}]
    assert kustomization(overlay)["components"] == ["../../components/zero-trust"]
