"""Mutual TLS: only who shows a certificate of the tiers' authority is heard, and only such nodes are asked."""

from __future__ import annotations

import asyncio
import datetime
import importlib.util
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from fakes import CHAT, answer
from nodes import run, served

from gainnet.serving.gateway import Gateway
from gainnet.serving.settings import GatewaySettings, PeerTls
from gainnet.serving.upstream import context

PROBE = Path(__file__).parents[2] / "deploy" / "container" / "probe.py"
REFUSED = (aiohttp.ClientError, ssl.SSLError, ConnectionError)


class Authority:
    """Signs certificates, and writes them to a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = self._written(f"{name}.crt", self._signed(self._name, self._key.public_key(), None))

    def issue(self, name: str, *others: x509.GeneralName, days: int = 1) -> dict[str, Path]:
        """A certificate and its key, for a server and a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._signed(subject, key.public_key(), others, days)
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self._folder / f"{name}.key").write_bytes(text)
        return {"cert": self._written(f"{name}.crt", made), "key": self._folder / f"{name}.key"}

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        names: tuple[x509.GeneralName, ...] | None,
        days: int = 1,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=9))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=names is None, path_length=None), critical=True)
        )
        if names is not None:
            usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _written(self, name: str, certificate: x509.Certificate) -> Path:
        file = self._folder / name
        file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return file


LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


class World:
    """Certificates: the tiers' authority, another one, and what each has signed."""

    def __init__(self, folder: Path) -> None:
        self.tiers, self.others = Authority(folder, "tiers"), Authority(folder, "others")
        self.node = self.tiers.issue("node", LOOPBACK)
        self.misnamed = self.tiers.issue("misnamed", x509.DNSName("edge-9.example"))
        self.gateway = self.tiers.issue("gateway", LOOPBACK)
        self.expired = self.tiers.issue("expired", days=-1)
        self.stranger = self.others.issue("stranger", LOOPBACK)

    def listen(self, **certificate: Path) -> dict[str, Any]:
        """A node's listener, which wants the tiers' certificates."""
        return {"port": 0, "tls": {**certificate, "client_ca": self.tiers.file}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("certificates"))


@asynccontextmanager
async def gateway(url: str, tls: dict[str, Any], **sections: Any) -> AsyncIterator[Gateway]:
    """A gateway before one node."""
    node = {"name": "edge-1", "tier": "edge", "url": url, "models": ["m"], "tls": tls}
    given: dict[str, Any] = {"listen": {"port": 0}, "admin": {"port": 0}, "nodes": [node]} | sections
    made = Gateway(GatewaySettings(**given))
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def asked(url: str, tls: ssl.SSLContext | bool = True) -> tuple[int, Any]:
    """Status and body of a chat."""
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{url}/v1/chat/completions", json=CHAT | {"max_tokens": 4}, ssl=tls) as response,
    ):
        return response.status, await response.json()


def test_gateway_and_node_know_each_other(world: World) -> None:
    async def main() -> None:
        listen = {"port": 0, "tls": world.gateway}
        async with served(listen=world.listen(**world.node)) as at:
            assert at.node.url.startswith("https:")
            tls = {"ca": world.tiers.file, **world.gateway}
            async with gateway(at.node.url, tls, listen=listen) as front:
                client = ssl.create_default_context(cafile=world.tiers.file)
                for _ in range(2):  # the second on the connection that is kept
                    status, said = await asked(front.url, client)
                    assert status == 200, said
                    assert said["usage"]["completion_tokens"] == 4
                with pytest.raises(REFUSED):  # a client that does not know the authority
                    await asked(front.url)
            async with aiohttp.ClientSession() as http:  # what a priced router asks, as it asks it
                ours = context(PeerTls(**tls))
                async with http.get(f"{at.node.url}/node/state", ssl=ours) as response:
                    assert (response.status, (await response.json())["tier"]) == (200, "edge")

    run(main())


def test_who_shows_no_certificate_is_refused(world: World) -> None:
    async def main() -> None:
        async with served(listen=world.listen(**world.node)) as at:
            before = at.node.engine.stats().counters.prompt_tokens
            for shown in ({}, world.stranger, world.expired):
                client = context(PeerTls(ca=world.tiers.file, **shown))
                with pytest.raises(REFUSED):
                    await asked(at.node.url, client)
            with pytest.raises(REFUSED):
                await asked(at.node.url.replace("https:", "http:"))
            assert at.node.engine.stats().counters.prompt_tokens == before
            status, _ = await asked(at.node.url, context(PeerTls(ca=world.tiers.file, **world.gateway)))
            assert status == 200  # and the node goes on

    run(main())


@pytest.mark.parametrize(
    ("node", "ca", "shown"),
    [
        ("stranger", "tiers", "gateway"),  # the node is of another authority
        ("misnamed", "tiers", "gateway"),  # of the right one, but another node
        ("expired", "tiers", "gateway"),
        ("node", "others", "gateway"),
        ("node", None, "gateway"),  # only what the system trusts
        ("node", "tiers", None),  # the gateway shows nothing
        ("node", "tiers", "stranger"),  # or what the node does not trust
    ],
)
def test_a_node_or_a_gateway_that_is_another(
    world: World, node: str, ca: str | None, shown: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async def answered(request: web.BaseRequest) -> web.Response:
            heard.append(request.path)
            return web.json_response(answer(request.path, await request.json()))

        heard: list[str] = []
        listener = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=world.tiers.file)
        listener.verify_mode = ssl.CERT_REQUIRED
        listener.load_cert_chain(*getattr(world, node).values())
        runner = web.ServerRunner(web.Server(answered, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=listener).start()
        tls = {} if ca is None else {"ca": getattr(world, ca).file}
        tls |= {} if shown is None else getattr(world, shown)
        try:
            async with gateway(f"https://127.0.0.1:{runner.addresses[0][1]}", tls, probes=None) as front:
                status, said = await asked(front.url)
            assert status in (502, 503)
            assert set(said["error"]) == {"message", "type", "param", "code"}
            assert "\n" not in said["error"]["message"]
            assert not heard  # nothing of the request got there
        finally:
            await runner.cleanup()

    run(main())
    tries = [record for record in caplog.records if record.message == "a try failed"]
    assert len(tries) == 1
    assert "\n" not in vars(tries[0])["reason"]


def test_clients_too_may_have_to_show_one(world: World) -> None:
    async def main() -> None:
        async with served() as at, gateway(at.node.url, {}, listen=world.listen(**world.gateway)) as front:
            status, _ = await asked(front.url, context(PeerTls(ca=world.tiers.file, **world.node)))
            assert status == 200
            with pytest.raises(REFUSED):
                await asked(front.url, context(PeerTls(ca=world.tiers.file)))

    run(main())


def test_the_probe_of_the_container(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("probe", PROBE)
    assert spec is not None
    assert spec.loader is not None
    probe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(probe)
    (tmp_path / "tiers-ca.crt").write_bytes(world.tiers.file.read_bytes())

    async def main() -> None:
        async with served(listen=world.listen(**world.misnamed), timeouts={"notice_s": 30.0}) as at:
            ask = lambda path: asyncio.to_thread(probe.main, at.node.url + path, tmp_path)  # noqa: E731
            assert await ask("/ready") == 1  # there is no certificate yet
            for name, file in zip(("node.crt", "node.key"), world.misnamed.values(), strict=True):
                (tmp_path / name).write_bytes(file.read_bytes())
            assert await ask("/ready") == await ask("/health") == 0
            leaving = asyncio.create_task(at.node.drain())
            await asyncio.sleep(0)
            assert (await ask("/ready"), await ask("/health")) == (1, 0)
            leaving.cancel()
            for name, file in zip(("node.crt", "node.key"), world.stranger.values(), strict=True):
                (tmp_path / name).write_bytes(file.read_bytes())
            assert await ask("/health") == 1

    run(main())
    assert len(capsys.readouterr().err.splitlines()) == 3
