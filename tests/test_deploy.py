"""What lies under deploy/ is what the readers, the commands, systemd and Kubernetes take, and agrees with itself."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from gainnet.apps import cli
from gainnet.errors import InputError
from gainnet.serving import keys, settings
from gainnet.serving.node_settings import NodeSettings
from gainnet.serving.reading import read
from gainnet.serving.router import Refused
from gainnet.serving.settings import GatewaySettings, KeysSetting

ROOT = Path(__file__).parents[1]
DEPLOY, EXAMPLES, MANIFESTS = ROOT / "deploy", ROOT / "deploy" / "examples", ROOT / "deploy" / "kubernetes"
DOCUMENT = (ROOT / "docs" / "deployment.md").read_text("utf-8")
UNITS = ("gainnet-gateway.service", "gainnet-node@.service")
PEPPER = "a pepper of at least sixteen"
KUBERNETES = "1.32"

Tree = dict[str, Any]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("GAINNET_GATEWAY_", "GAINNET_NODE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GAINNET_GATEWAY_KEYS__PEPPER", PEPPER)


def unit(name: str) -> dict[str, list[str]]:
    """The settings of a unit by name, each with its values in order."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / name).read_text("utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


@cache
def manifests() -> tuple[Tree, ...]:
    """All objects that kustomization.yaml lists."""
    names = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text("utf-8"))["resources"]
    return tuple(tree for name in names for tree in yaml.safe_load_all((MANIFESTS / name).read_text("utf-8")))


def manifest(kind: str, name: str) -> Tree:
    (found,) = [tree for tree in manifests() if (tree["kind"], tree["metadata"]["name"]) == (kind, name)]
    return found


def pod(tree: Tree) -> Tree:
    found: Tree = tree["spec"]["template"]["spec"]
    return found


def workloads() -> list[Tree]:
    return [tree for tree in manifests() if tree["kind"] in ("Deployment", "StatefulSet")]


def secrets() -> dict[str, Tree]:
    listed = yaml.safe_load_all((MANIFESTS / "secrets.example.yaml").read_text("utf-8"))
    return {tree["metadata"]["name"]: tree["stringData"] for tree in listed}


def waits_s(found: GatewaySettings | NodeSettings) -> float:
    return found.timeouts.notice_s + found.timeouts.drain_s


def paths(found: GatewaySettings | NodeSettings) -> set[str]:
    """Names of the files that settings want beside them."""
    tls = found.listen.tls
    files = {tls.cert, tls.key, tls.client_ca} if tls else set()
    if isinstance(found, GatewaySettings):
        files |= {file for node in found.nodes for file in (node.tls.ca, node.tls.cert, node.tls.key)}
        files |= {found.keys.file} if found.keys else set()
    return {file.name for file in files if file is not None}


# Settings.


def test_every_file_is_yaml() -> None:
    files = [*DEPLOY.rglob("*.yaml")]
    assert len(files) >= 12
    for file in files:
        for tree in yaml.safe_load_all(file.read_text("utf-8")):
            assert isinstance(tree, dict), file


@pytest.mark.parametrize("file", [EXAMPLES / "gateway.yaml", MANIFESTS / "settings" / "gateway.yaml"])
def test_the_reader_takes_a_gateway(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAINNET_GATEWAY_ADMIN__TOKEN", "a token")
    found = read(GatewaySettings, file)
    assert found.listen.tls is not None
    assert found.admin.token is not None
    assert found.keys is not None
    assert found.keys.pepper.get_secret_value() == PEPPER
    assert found.keys.file == file.parent / "keys.yaml"
    for node in found.nodes:
        assert node.url.startswith("https://")
        assert {node.tls.ca, node.tls.cert, node.tls.key} == {
            file.parent / name for name in ("tiers-ca.crt", "gateway.crt", "gateway.key")
        }
        assert set(node.models) <= set(found.models)
    monkeypatch.delenv("GAINNET_GATEWAY_KEYS__PEPPER")
    with pytest.raises(InputError, match=r"keys\.pepper"):
        read(GatewaySettings, file)


@pytest.mark.parametrize("file", [EXAMPLES / "node.yaml", *sorted((MANIFESTS / "settings").glob("[ce]*.yaml"))])
def test_the_reader_takes_a_node(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAINNET_NODE_NAME", "gainnet-edge-0")
    found = read(NodeSettings, file)
    assert found.name == "gainnet-edge-0"
    assert found.listen.tls is not None
    assert found.listen.tls.client_ca == file.parent / "tiers-ca.crt"
    assert found.adapters is not None


def test_gateways_and_nodes_of_the_settings_agree() -> None:
    for front, nodes in (
        (EXAMPLES / "gateway.yaml", {"edge-1": EXAMPLES / "node.yaml"}),
        (
            MANIFESTS / "settings" / "gateway.yaml",
            {name: MANIFESTS / "settings" / f"{name[:-2]}.yaml" for name in ("edge-0", "edge-1", "cloud-0")},
        ),
    ):
        found = read(GatewaySettings, front)
        places = {place.name: place for place in found.nodes}
        for name, file in nodes.items():
            node, place = read(NodeSettings, file), places[name]
            assert place.tier == node.tier
            assert place.url.endswith(f":{node.listen.port}")
            assert set(place.models.values()) <= set(node.ids)
            assert node.adapters is not None
            assert found.adapters is not None
            assert node.adapters.root == found.adapters.root


def test_the_placeholders_let_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text(secrets()["gainnet-gateway-files"]["keys.yaml"])
    for file in (EXAMPLES / "keys.yaml", tmp_path / "keys.yaml"):
        tenants = keys.Tenants(KeysSetting(file=file, pepper=PEPPER), 0.0)  # type: ignore[arg-type]
        for header in (None, "Bearer 0", f"Bearer {'0' * 64}"):
            with pytest.raises(Refused):
                tenants.who(header)
    for name, data in secrets().items():
        for key, value in data.items():
            assert value.startswith("REPLACE") or key == "keys.yaml", (name, key)
    environment = dict(re.findall(r"^([A-Z_]+)=(.*)$", (EXAMPLES / "gateway.env").read_text("utf-8"), re.M))
    assert environment == secrets()["gainnet-gateway-environment"]
    assert all("REPLACE" in value for value in environment.values())


# systemd.


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_starts_what_the_command_line_has(name: str) -> None:
    (start,) = unit(name)["ExecStart"]
    program, command, *options = start.split()
    assert program.endswith("/gainnet")
    known = get_command(cli.app).commands[command]  # type: ignore[attr-defined]
    names = {option for parameter in known.params for option in parameter.opts}
    assert {option for option in options if option.startswith("--")} <= names
    assert options == ["--config", f"%d/{command}.yaml"]


@pytest.mark.parametrize(("name", "example"), list(zip(UNITS, ("gateway", "node"), strict=True)))
def test_a_unit_fits_its_settings(name: str, example: str) -> None:
    found = read(GatewaySettings if example == "gateway" else NodeSettings, EXAMPLES / f"{example}.yaml")
    section = unit(name)
    given = {item.partition(":")[0] for item in section["LoadCredential"]}
    assert given == paths(found) | {f"{example}.yaml"}
    assert float(section["TimeoutStopSec"][0]) > waits_s(found)
    assert section["KillSignal"] == ["SIGTERM"]
    assert int(section["LimitNOFILE"][0]) >= 2 * found.limits.connections
    for key in ("DynamicUser", "NoNewPrivileges", "ProtectHome", "PrivateTmp", "RestrictNamespaces"):
        assert section[key] == ["yes"]
    assert (section["ProtectSystem"], section["CapabilityBoundingSet"]) == (["strict"], [""])


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    for name in UNITS:
        text = (DEPLOY / "systemd" / name).read_text("utf-8")
        (tmp_path / name.replace("@.", "@edge-1.")).write_text(
            re.sub(r"^ExecStart=\S+", f"ExecStart={shutil.which('true')}", text, flags=re.M)
        )
    for file in sorted(tmp_path.iterdir()):
        verified = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", file], capture_output=True, text=True, check=False
        )
        assert (verified.returncode, verified.stderr) == (0, "")
        scored = subprocess.run(
            ["systemd-analyze", "security", "--offline=yes", "--threshold=20", "--no-pager", file],
            capture_output=True, text=True, check=False, env=os.environ | {"SYSTEMD_EMOJI": "0"},
        )  # fmt: skip
        if "unrecognized option" not in scored.stderr:  # before systemd 250
            assert scored.returncode == 0, scored.stdout.splitlines()[-1]


# The image.


def test_the_image_has_what_the_project_needs() -> None:
    text = (DEPLOY / "container" / "Containerfile").read_text("utf-8")
    stages = re.findall(r"^FROM (\S+)", text, re.M)
    assert stages == ["docker.io/library/python:3.11-slim"] * 2
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.M))
    assert f"torch=={pins['torch']}" in text
    assert text.count("-c constraints.txt") == 2
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = re.search(r"'\.\[(.+)\]'", text)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
    ignored = (DEPLOY / "container" / "Containerfile.dockerignore").read_text("utf-8").splitlines()
    copied = [name for line in re.findall(r"^COPY (?!--)(.+) \S+$", text, re.M) for name in line.split()]
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignored
    users = re.findall(r"^USER (\d+):(\d+)$", text, re.M)
    assert len(users) == 1
    for tree in workloads():
        context = pod(tree)["securityContext"]
        assert users == [(str(context["runAsUser"]), str(context["runAsGroup"]))]
    assert yaml.safe_load(text.rsplit("ENTRYPOINT ", 1)[1].splitlines()[0]) == ["gainnet"]
    cache = re.search(r"HOME=(\S+)", text)
    assert cache is not None
    for tree in workloads():
        assert cache[1] in {mount["mountPath"] for mount in pod(tree)["containers"][0]["volumeMounts"]}


# Kubernetes.


@pytest.mark.parametrize("tier", ["gateway", "edge", "cloud"])
def test_manifests_fit_their_settings(tier: str) -> None:
    command = "gateway" if tier == "gateway" else "node"
    file = MANIFESTS / "settings" / f"{tier}.yaml"
    found = read(GatewaySettings if tier == "gateway" else NodeSettings, file)
    (tree,) = [tree for tree in workloads() if tree["metadata"]["name"] == f"gainnet-{tier}"]
    spec = pod(tree)
    (container,) = spec["containers"]
    assert spec["terminationGracePeriodSeconds"] > waits_s(found)
    assert container["args"] == [command, "--config", f"/etc/gainnet/{command}.yaml"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    expected = {"https": found.listen.port}
    if isinstance(found, GatewaySettings):
        expected["admin"] = found.admin.port
        assert found.admin.host == "0.0.0.0"
    assert (ports, found.listen.host) == (expected, "0.0.0.0")
    for name, path in (("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")):
        probe = container[name]
        if tier == "gateway":
            assert probe["httpGet"] == {"path": path, "port": "https", "scheme": "HTTPS"}
        else:
            url = f"https://127.0.0.1:{found.listen.port}{path}"
            assert probe["exec"]["command"] == ["python", "/opt/gainnet/probe.py", url, "/etc/gainnet"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == set(volumes)
    assert found.adapters is not None
    assert str(found.adapters.root) in mounts
    if isinstance(found, NodeSettings):
        assert Path(found.model.name).parent.as_posix() in mounts  # type: ignore[union-attr]
    settled, secret = volumes[mounts["/etc/gainnet"]]["projected"]["sources"]
    assert settled["configMap"]["name"] == f"gainnet-{tier}-settings"
    assert set(secrets()[secret["secret"]["name"]]) == paths(found)
    for source in container.get("envFrom", ()):
        assert source["secretRef"]["name"] in secrets()


def test_manifests_name_each_other() -> None:
    kustomization = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text("utf-8"))
    generated = {entry["name"]: entry["files"] for entry in kustomization["configMapGenerator"]}
    claims = {tree["metadata"]["name"] for tree in manifests() if tree["kind"] == "PersistentVolumeClaim"}
    front = read(GatewaySettings, MANIFESTS / "settings" / "gateway.yaml")
    hosts = set()
    for tree in workloads():
        name, spec = tree["metadata"]["name"], pod(tree)
        (file,) = generated[f"{name}-settings"]
        assert (MANIFESTS / file.partition("=")[2]).is_file()
        labels = tree["spec"]["template"]["metadata"]["labels"]
        assert tree["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert spec["containers"][0]["image"] in {image["name"] for image in kustomization["images"]}
        used = {v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "persistentVolumeClaim" in v}
        assert used <= claims
        service, budget = manifest("Service", name), manifest("PodDisruptionBudget", name)
        assert service["spec"]["selector"].items() <= labels.items()
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} == {"https"}  # never the admin port
        if tree["kind"] == "StatefulSet":
            assert tree["spec"]["serviceName"] == name
            assert service["spec"]["clusterIP"] == "None"
            numbers = range(tree["spec"]["replicas"])
            domain = f"{name}.{kustomization['namespace']}.svc.cluster.local"
            hosts |= {f"https://{name}-{number}.{domain}:8000" for number in numbers}
    assert hosts == {node.url for node in front.nodes}


def test_pods_may_do_little() -> None:
    for tree in workloads():
        spec = pod(tree)
        (container,) = spec["containers"]
        assert spec["automountServiceAccountToken"] is spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        may = container["securityContext"]
        assert (may["allowPrivilegeEscalation"], may["readOnlyRootFilesystem"]) == (False, True)
        assert may["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]


def test_only_monitoring_reaches_the_admin_port() -> None:
    policies = [tree["spec"] for tree in manifests() if tree["kind"] == "NetworkPolicy"]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies
    front, nodes = (manifest("NetworkPolicy", name)["spec"] for name in ("gainnet-gateway", "gainnet-nodes"))
    found = read(GatewaySettings, MANIFESTS / "settings" / "gateway.yaml")
    opened = {port["port"]: rule.get("from") for rule in front["ingress"] for port in rule["ports"]}
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert opened == {found.listen.port: None, found.admin.port: [monitoring]}
    (rule,) = nodes["ingress"]
    assert rule["from"] == [{"podSelector": front["podSelector"]}, monitoring]
    assert "egress" not in nodes
    sent = {port["port"] for rule in front["egress"] for port in rule["ports"]}
    assert sent == {53, 8000}


def test_kubernetes_schemas_take_the_manifests() -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="the package kubernetes-validate is not here")
    listed = [*yaml.safe_load_all((MANIFESTS / "secrets.example.yaml").read_text("utf-8")), *manifests()]
    for tree in listed:
        validator.validate(tree, KUBERNETES, strict=True)


def test_kustomize_builds_them() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not here")
    built = subprocess.run(["kubectl", "kustomize", MANIFESTS], capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    trees = list(yaml.safe_load_all(built.stdout))
    generated = [tree for tree in trees if tree["kind"] == "ConfigMap"]
    assert len(trees) == len(manifests()) + len(generated)
    names = {tree["metadata"]["name"] for tree in generated}
    for tree in trees:
        assert tree["kind"] == "Namespace" or tree["metadata"]["namespace"] == "gainnet"
        if tree["kind"] in ("Deployment", "StatefulSet"):
            (settled, _) = next(v for v in pod(tree)["volumes"] if "projected" in v)["projected"]["sources"]
            assert settled["configMap"]["name"] in names


# The document.


def block(beginning: str) -> str:
    """The commands of the document that begin so."""
    (found,) = [text for text in re.findall(r"^```sh\n(.*?)^```", DOCUMENT, re.M | re.S) if text.startswith(beginning)]
    return str(found)


def test_the_documents_certificates(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here")
    made = subprocess.run(
        ["bash", "-euc", block("openssl req -x509")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=30.0,
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.split() == ["gateway.crt:", "OK", "edge-1.crt:", "OK", "cloud.crt:", "OK"]
    shown = {"cert": tmp_path / "gateway.crt", "key": tmp_path / "gateway.key"}
    client = ssl.create_default_context(cafile=tmp_path / "tiers-ca.crt")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.load_cert_chain(shown["cert"], shown["key"])
    listener = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tmp_path / "tiers-ca.crt")
    listener.verify_mode = ssl.CERT_REQUIRED
    listener.load_cert_chain(tmp_path / "edge-1.crt", tmp_path / "edge-1.key")
    shake(client, listener, "edge-1.example")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(client, listener, "cloud.example")


def shake(client: ssl.SSLContext, listener: ssl.SSLContext, name: str) -> None:
    """A handshake in memory."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(down, up, server_hostname=name), listener.wrap_bio(up, down, server_side=True)]
    left = list(sides)
    for _ in range(10):
        for side in list(left):
            try:
                side.do_handshake()
                left.remove(side)
            except ssl.SSLWantReadError:
                pass
    assert not left
    assert sides[1].getpeercert()


def test_the_documents_keys(tmp_path: Path) -> None:
    (code,) = re.findall(r"<<'EOF'\n(.*?)EOF\n", block("export GAINNET_GATEWAY_KEYS__PEPPER"), re.S)
    said: list[tuple[object, ...]] = []
    exec(code, {"print": lambda *words: said.append(words)})
    (_, key), (_, digest) = said
    (tmp_path / "keys.yaml").write_text(f"tenants: {{hospital: {{keys: [{digest}]}}}}\n")
    tenants = keys.Tenants(KeysSetting(file=tmp_path / "keys.yaml", pepper=PEPPER), 0.0)  # type: ignore[arg-type]
    assert tenants.who(f"Bearer {key}").name == "hospital"


def test_the_document_names_what_there_is() -> None:
    for name in re.findall(r"`((?:deploy|tests)/[\w./@-]+)`", DOCUMENT):
        assert (ROOT / name).exists(), name
    known = set(settings.Limits.model_fields) | set(settings.Timeouts.model_fields) | set(NodeSettings.model_fields)
    for name in ("body_byte", "queued_prompt_token", "connections", "notice_s", "drain_s", "first_byte_s", "queue"):
        assert f"{name}`" in DOCUMENT
        assert name in known
    source = "".join(path.read_text("utf-8") for path in (ROOT / "src" / "gainnet" / "serving").glob("*.py"))
    metrics = re.findall(r"`((?:gainnet|vllm):\w+)`", DOCUMENT)
    assert len(metrics) >= 6
    for name in [*metrics, "/v1/load_lora_adapter", "/v1/aliases", "/v1/nodes", "/node/state"]:
        assert f'"{name}"' in source, name
