"""Tenants are told apart by keys that are not stored, held to quotas, and see nothing of each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes import CHAT, network, run

from gainnet.errors import InputError
from gainnet.serving import keys
from gainnet.serving.keys import Bucket, Tenants
from gainnet.serving.settings import KeysSetting

PEPPER = "a pepper of enough length"
ALICE, BOB = "gn-alice", "gn-bob"


def _file(folder: Path, alice: str = "", bob: str = "") -> Path:
    path = folder / "keys.yaml"
    path.write_text(
        "tenants:\n"
        f"  alice: {{keys: [{keys.digest(PEPPER.encode(), ALICE)}], {alice}}}\n"
        f"  bob: {{keys: [{keys.digest(PEPPER.encode(), BOB)}], {bob}}}\n"
    )
    return path


def _as(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def _kept(folder: Path, **of: str) -> dict[str, Any]:
    return {"keys": {"file": str(_file(folder, **of)), "pepper": PEPPER}}


def test_only_known_keys_are_served(tmp_path: Path) -> None:
    async def main() -> None:
        async with network(**_kept(tmp_path, bob="models: [other]")) as place:
            for headers in ({}, _as("wrong"), {"authorization": "Basic x"}, {"authorization": "Bearer"}):
                status, answered, said = await place.post(headers=headers)
                assert (status, said["error"]["code"]) == (401, "invalid_api_key")
                assert answered["www-authenticate"] == "Bearer"
            assert not place.nodes[0].asked
            assert (await place.get("/v1/models"))[0] == 401
            assert (await place.get("/health"))[0] == 200
            assert (await place.post(headers=_as(ALICE)))[0] == 200
            assert (await place.post(headers=_as(BOB)))[0] == 404  # a model that is not its
            assert (await place.get("/v1/models", headers=_as(BOB)))[1] == b'{"object":"list","data":[]}'
            assert (await place.get("/v1/models/m", headers=_as(BOB)))[0] == 404
            assert (await place.get("/v1/models/m"))[0] == 401

    run(main())


def test_tenants_share_neither_caches_nor_sessions_nor_answers(tmp_path: Path) -> None:
    async def main() -> None:
        async with network(**_kept(tmp_path)) as place:
            body = CHAT | {"cache_salt": "of somebody else"}
            more = {"x-gainnet-session": "s", "idempotency-key": "k"}
            for key in (ALICE, BOB, ALICE):
                assert (await place.post(body=body, headers=_as(key) | more))[0] == 200
            alice, bob = place.nodes[0].asked
            assert alice[2]["cache_salt"] != bob[2]["cache_salt"]
            assert "of somebody else" not in (alice[2]["cache_salt"], bob[2]["cache_salt"])
            assert alice[1]["x-gainnet-session"] != bob[1]["x-gainnet-session"]
            assert ALICE not in str(place.nodes[0].asked)

    run(main())


def test_quotas(tmp_path: Path) -> None:
    async def main() -> None:
        kept = _kept(tmp_path, alice="requests_per_min: 2", bob="tokens_per_min: 600")
        async with network(**kept) as place:
            first = await place.post(headers=_as(ALICE))
            assert first[1]["x-ratelimit-limit-requests"] == "2"
            assert first[1]["x-ratelimit-remaining-requests"] == "1"
            assert first[1]["x-ratelimit-reset-requests"].endswith("s")
            assert (await place.post(headers=_as(ALICE)))[0] == 200
            status, headers, said = await place.post(headers=_as(ALICE))
            assert (status, said["error"]["type"], said["error"]["code"]) == (
                429,
                "rate_limit_error",
                "rate_limit_exceeded",
            )
            assert 1 <= int(headers["retry-after"]) <= 30
            assert int(headers["retry-after-ms"]) <= 30_000
            for _ in range(5):  # 10 tokens are used of the 280 or so that each may take
                status, headers, _ = await place.post(headers=_as(BOB))
                assert status == 200
            assert int(headers["x-ratelimit-remaining-tokens"]) > 250
            status, headers, said = await place.post(body=CHAT | {"max_tokens": 700}, headers=_as(BOB))
            assert (status, headers["x-should-retry"]) == (429, "false")
            status, headers, said = await place.post(body=CHAT | {"max_tokens": 570}, headers=_as(BOB))
            assert (status, "retry-after" in headers) == (429, True)

    run(main())


def test_a_bucket_fills_steadily_up_to_a_minutes_amount() -> None:
    bucket = Bucket(60, 0.0)
    bucket.use(60, 0.0)
    assert bucket.wait_s(10, 0.0) == pytest.approx(10.0)
    assert bucket.wait_s(10, 10.0) == 0.0
    assert bucket.headers("tokens", 30.0)["x-ratelimit-remaining-tokens"] == "30"
    bucket.use(-1_000, 30.0)
    assert bucket.headers("tokens", 30.0)["x-ratelimit-remaining-tokens"] == "60"


def test_a_new_key_is_known_by_its_digest_alone() -> None:
    key, digest = keys.issue(b"pepper")
    assert key != keys.issue(b"pepper")[0]
    assert digest == keys.digest(b"pepper", key) != keys.digest(b"another", key)
    assert len(digest) == 64


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tenants: {a: {keys: [short]}}", r"tenants.a.keys.0: String should match"),
        ("tenants: {a: {keys: []}}", r"tenants.a.keys: "),
        ("tenants: {a: {keys: ['%s'], quota: 1}}" % ("0" * 64), r"tenants.a.quota: "),
        ("tenants: {a: {keys: [&k %s]}, b: {keys: [*k]}}" % ("'" + "0" * 64 + "'"), "another tenant has this key"),
        ("[", "line 1"),
    ],
)  # fmt: skip
def test_a_wrong_keys_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=said):
        Tenants(KeysSetting(file=file, pepper=PEPPER), 0.0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot be read"):
        Tenants(KeysSetting(file=tmp_path / "none", pepper=PEPPER), 0.0)  # type: ignore[arg-type]
