"""The adapter versions that an engine holds: by name for new requests, and as long as anything that began with one runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gainnet.errors import InputError
from gainnet.inference.lora import Resident, Site, resident
from gainnet.models import adapter as storing
from gainnet.models.low_rank import LowRank


class Versions:
    """Adapter versions, each once however many names it has. Not thread-safe: the engine has a lock.

    Attributes:
        dropped: digests of versions that nothing holds any more and whose traces are to be forgotten.
    """

    def __init__(self, sites: Mapping[str, Site], base: str) -> None:
        self._sites, self._base = sites, base
        self._names: dict[str, Resident] = {}
        self._held: dict[str, Resident] = {}
        self.dropped: list[str] = []

    def prepare(self, name: str, given: LowRank | Path) -> Resident:
        """A version that is not there yet; it takes a while and changes nothing. InputError where it does not fit."""
        if not name:
            raise InputError("adapter: its name is empty")
        found = storing.load(given, self._base) if isinstance(given, Path) else given
        return resident(name, found, self._sites, self._base)

    def add(self, made: Resident, replace: bool) -> None:
        """Give a version its name. InputError where the name is taken and it is not to be replaced."""
        name = made.name
        old = self._names.get(name)
        if old is not None and not replace:
            raise InputError(f"adapter {name}: is loaded already; unload it first")
        if made.digest in self.dropped:
            self.dropped.remove(made.digest)
        self._names[name] = self._held.setdefault(made.digest, made)
        if old is not None:
            self._sweep(old)

    def remove(self, name: str) -> None:
        """Take a name away; what runs with the version goes on with it. InputError where there is none."""
        old = self._names.pop(name, None)
        if old is None:
            raise self._unknown(name)
        self._sweep(old)

    def pin(self, name: str | None) -> Resident | None:
        """The version that a name means now, held until `unpin`. InputError where there is none."""
        if name is None:
            return None
        found = self._names.get(name)
        if found is None:
            raise self._unknown(name)
        found.pins += 1
        return found

    def unpin(self, held: Resident | None) -> None:
        """Let go of a version."""
        if held is not None:
            held.pins -= 1
            self._sweep(held)

    @property
    def names(self) -> tuple[str, ...]:
        """What may be asked for."""
        return tuple(sorted(self._names))

    @property
    def pins(self) -> dict[str, int]:
        """What holds each version, by its digest."""
        return {digest: held.pins for digest, held in self._held.items()}

    def _sweep(self, version: Resident) -> None:
        if version.pins == 0 and version not in self._names.values():
            del self._held[version.digest]
            self.dropped.append(version.digest)

    def _unknown(self, name: str) -> InputError:
        return InputError(f"adapter {name}: is not loaded; there are {', '.join(self.names) or 'none'}")
