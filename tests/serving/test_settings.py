"""Settings come from a file and the environment; what is wrong in them is one line that names the field."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from fakes import network, run

from gainnet.errors import InputError
from gainnet.serving import log
from gainnet.serving.gateway import Gateway
from gainnet.serving.reading import read
from gainnet.serving.settings import GatewaySettings
from gainnet.serving.upstream import context

FILE = """\
listen: {port: 8443, tls: {cert: tls/cert.pem, key: tls/key.pem, client_ca: tls/ca.pem}}
router: cloud
nodes:
  - {name: edge-1, tier: edge, url: 'http://127.0.0.1:8001', models: [domain], headers: {Authorization: Bearer x}}
  - {name: cloud, tier: cloud, url: 'https://cloud.example:443/llm', models: {domain: general-8b}}
aliases: {chat: domain}
"""


def test_a_file_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FILE)
    monkeypatch.setenv("GAINNET_GATEWAY_LISTEN__PORT", "9443")
    monkeypatch.setenv("GAINNET_GATEWAY_LIMITS__IN_FLIGHT", "7")
    found = read(GatewaySettings, file)
    assert (found.listen.port, found.limits.in_flight, found.router) == (9443, 7, "cloud")
    assert found.listen.tls is not None
    assert found.listen.tls.client_ca == tmp_path / "tls" / "ca.pem"
    assert found.nodes[0].models == {"domain": "domain"}
    assert found.nodes[0].headers == {"authorization": "Bearer x"}
    assert found.nodes[1].models == {"domain": "general-8b"}
    assert read(GatewaySettings, file, router="nearest").router == "nearest"
    (tmp_path / "town.yaml").write_text("")
    assert read(GatewaySettings, file, scenario="town.yaml").scenario == str(tmp_path / "town.yaml")
    assert read(GatewaySettings, file, scenario="lab").scenario == "lab"
    monkeypatch.setenv("GAINNET_GATEWAY_ROUTER", "round_robin")
    assert read(GatewaySettings).router == "round_robin"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lisen: {}", "lisen is not a field (did you mean 'listen'?)"),
        ("listen: {prot: 1}", "listen.prot is not a field (did you mean 'port'?)"),
        ("nodes: [{name: a, tier: edge, url: 'http://a', modls: []}]", "nodes.0.modls is not a field (did you mean"),
        ("listen: {port: x}", "listen.port: Input should be a valid integer"),
        ("nodes: [{name: a, tier: roof, url: 'http://a'}]", "nodes.0.tier: Input should be 'end', 'edge' or 'cloud'"),
        ("nodes: [{name: a, tier: edge, url: 'ftp://a'}]", "nodes.0.url: String should match pattern"),
        ("nodes: [{name: a, tier: edge, url: 'http://a', end: 1}]", "nodes.0: end: only a node of tier end is one"),
        ("nodes: [&n {name: a, tier: edge, url: 'http://a'}, *n]", "nodes: two are named 'a'"),
        ("aliases: {a: b}", "aliases.a: no node serves 'b'"),
        ("nodes: [{name: a, tier: edge, url: 'http://a', models: [b]}]\naliases: {b: b}", "aliases.b: a node serves"),
        ("keys: {file: k, pepper: secret}", "keys.pepper: "),
        ("3", "is 3: settings are a section"),
        ("a: [", "line 1"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as wrong:
        read(GatewaySettings, file)
    assert said in str(wrong.value)
    assert "\n" not in str(wrong.value)
    assert "secret" not in str(wrong.value)


def test_other_complaints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read(GatewaySettings, tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"\xff")
    with pytest.raises(InputError, match="is not UTF-8"):
        read(GatewaySettings, tmp_path / "latin.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert read(GatewaySettings, tmp_path / "empty.yaml") == GatewaySettings()
    with pytest.raises(InputError, match=r"router: unknown 'clout': one of .* \(did you mean 'cloud'\?\)"):
        Gateway(GatewaySettings(router="clout"))
    monkeypatch.setenv("GAINNET_GATEWAY_NODES", "{")
    with pytest.raises(InputError, match="environment: "):
        read(GatewaySettings)


@pytest.mark.parametrize("field", ["listen", "admin"])
def test_certificates_that_cannot_be_used(field: str, tmp_path: Path) -> None:
    async def main() -> None:
        tls = {"cert": str(tmp_path / "none"), "key": str(tmp_path / "none")}
        with pytest.raises(InputError, match=rf"{field}.tls: a certificate cannot be used"):
            async with network(**{field: {"port": 0, "tls": tls}}):
                pass

    run(main())
    tls = GatewaySettings(nodes=[{"name": "a", "tier": "edge", "url": "https://a", "tls": {"ca": "none"}}]).nodes[0].tls  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"nodes.tls: "):
        context(tls)


def test_the_log_is_json() -> None:
    record = logging.makeLogRecord(
        {"name": "gainnet", "levelname": "INFO", "msg": "a %s", "args": ("b",), "node": "edge-1"}
    )
    tree = json.loads(log.JsonLines().format(record))
    assert (tree["message"], tree["node"], tree["level"]) == ("a b", "edge-1", "info")
    assert tree["time"].endswith("Z")
    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        log.begin("warning")
        assert logging.getLogger().level == logging.WARNING
    finally:
        logging.getLogger().handlers[:], _ = before
        logging.getLogger().setLevel(before[1])
