"""Who asks: tenants by key, and how much each may ask for.

A key is never stored: the file holds HMAC-SHA256 of it under a pepper that lies elsewhere::

    tenants:
      hospital:
        keys: [8f1c...]           # `digest(pepper, key)`, 64 hexadecimal digits
        requests_per_min: 600
        tokens_per_min: 100000
        models: [domain]          # all where absent
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from gainnet.errors import InputError
from gainnet.scenario import document
from gainnet.serving.router import Refused
from gainnet.serving.settings import KeysSetting, Name


class TenantSetting(BaseModel):
    """A tenant in the keys file; None: no quota, or all models."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    keys: Annotated[tuple[Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")], ...], Field(min_length=1)]
    requests_per_min: Annotated[int, Field(gt=0)] | None = None
    tokens_per_min: Annotated[int, Field(gt=0)] | None = None
    models: tuple[Name, ...] | None = None


class _KeysFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    tenants: dict[Name, TenantSetting]


class Bucket:
    """What may be used in a minute: filled steadily, never above the minute's amount.

    Attributes:
        per_min: the amount.
    """

    def __init__(self, per_min: int, now: float) -> None:
        self.per_min = per_min
        self._level = float(per_min)
        self._at = now

    def _fill(self, now: float) -> None:
        self._level = min(float(self.per_min), self._level + max(now - self._at, 0.0) * self.per_min / 60.0)
        self._at = now

    def wait_s(self, amount: int, now: float) -> float:
        """Until this amount may be used: 0 now."""
        self._fill(now)
        return max(amount - self._level, 0.0) * 60.0 / self.per_min

    def use(self, amount: int, now: float) -> None:
        """Use it; a negative amount gives back."""
        self._fill(now)
        self._level = min(self._level - amount, float(self.per_min))

    def headers(self, what: str, now: float) -> dict[str, str]:
        """The x-ratelimit headers of this quota."""
        self._fill(now)
        full_s = (self.per_min - self._level) * 60.0 / self.per_min
        return {
            f"x-ratelimit-limit-{what}": str(self.per_min),
            f"x-ratelimit-remaining-{what}": str(max(int(self._level), 0)),
            f"x-ratelimit-reset-{what}": f"{full_s:.3f}s",
        }


class Tenant:
    """Who asks.

    Attributes:
        name: of the tenant; empty where no keys are configured.
        salt: of its prefix caches, None where there are no tenants to keep apart.
        models: that it may ask, None: all.
    """

    def __init__(self, name: str, salt: str | None, setting: TenantSetting | None, now: float) -> None:
        self.name, self.salt = name, salt
        self.models = None if setting is None or setting.models is None else frozenset(setting.models)
        self._requests = self._tokens = None
        if setting is not None and setting.requests_per_min is not None:
            self._requests = Bucket(setting.requests_per_min, now)
        if setting is not None and setting.tokens_per_min is not None:
            self._tokens = Bucket(setting.tokens_per_min, now)

    def charge(self, token: int, now: float) -> None:
        """Count a request with this many estimated tokens.

        Raises:
            Refused: 429, with the time to wait where waiting helps.
        """
        if self._tokens is not None and token > self._tokens.per_min:
            raise Refused(
                429, f"{token} tokens asked for at once; the quota is {self._tokens.per_min} a minute",
                code="rate_limit_exceeded",
            )  # fmt: skip
        for bucket, amount, what in ((self._requests, 1, "requests"), (self._tokens, token, "tokens")):
            if bucket is not None and (wait_s := bucket.wait_s(amount, now)) > 0.0:
                raise Refused(
                    429, f"the quota of {bucket.per_min} {what} a minute is used up", wait_s, code="rate_limit_exceeded"
                )
        if self._requests is not None:
            self._requests.use(1, now)
        if self._tokens is not None:
            self._tokens.use(token, now)

    def settle(self, charged: int, used: int, now: float) -> None:
        """Put what was used in place of what was charged."""
        if self._tokens is not None:
            self._tokens.use(used - charged, now)

    def headers(self, now: float) -> dict[str, str]:
        """The x-ratelimit headers."""
        made: dict[str, str] = {}
        if self._requests is not None:
            made |= self._requests.headers("requests", now)
        if self._tokens is not None:
            made |= self._tokens.headers("tokens", now)
        return made


class Tenants:
    """All tenants, by the digest of their keys; without any, everyone is the same nameless one."""

    def __init__(self, setting: KeysSetting | None, now: float) -> None:
        self._anyone = None if setting is not None else Tenant("", None, None, now)
        self._pepper = b"" if setting is None else setting.pepper.get_secret_value().encode()
        self._by_digest: dict[str, Tenant] = {}
        if setting is None:
            return
        for name, tenant in _tenants(setting.file).items():
            made = Tenant(name, digest(self._pepper, f"salt of {name}")[:32], tenant, now)
            for key in tenant.keys:
                if key in self._by_digest:
                    raise InputError(f"{setting.file}: tenants.{name}.keys: another tenant has this key")
                self._by_digest[key] = made

    def who(self, authorization: str | None) -> Tenant:
        """The tenant of an Authorization header. Refused: 401."""
        if self._anyone is not None:
            return self._anyone
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and key:
            shown = digest(self._pepper, key.strip())
            for known, tenant in self._by_digest.items():
                if hmac.compare_digest(known, shown):
                    return tenant
            raise Refused(401, "the API key is not known", code="invalid_api_key")
        raise Refused(401, "an API key is needed: Authorization: Bearer KEY", code="invalid_api_key")


def digest(pepper: bytes, key: str) -> str:
    """What is stored of a key."""
    return hmac.new(pepper, key.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def issue(pepper: bytes) -> tuple[str, str]:
    """A new key of 256 random bits, and its digest for the file."""
    key = f"gn-{secrets.token_urlsafe(32)}"
    return key, digest(pepper, key)


def _tenants(file: Path) -> dict[str, TenantSetting]:
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else "is not UTF-8 text"
        raise InputError(f"keys.file: {file}: cannot be read: {reason}") from None
    try:
        return _KeysFile.model_validate(document.read(text, str(file))).tenants
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, detail["loc"]))
        raise InputError(f"{file}: {where}: {detail['msg']}") from None
