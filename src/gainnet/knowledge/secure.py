"""Sums of vectors whose single vectors nobody sees: secure aggregation from ends to their edge.

The protocol of Bonawitz et al. (CCS 2017, double masking), for a collector that keeps to it and is curious:

1. `Member.keys`: each member makes two X25519 key pairs, and the collector passes the public keys on.
2. `Member.share`: each draws the seed of a mask of its own, and shares that seed and its masking key among all by Shamir's
   scheme, each share encrypted for its receiver. The collector passes them on.
3. `Member.mask`: each sends its vector in fixed point plus its own mask plus, for each other member, a mask that only
   the two can make, which one adds and the other subtracts.
4. `Member.reveal`: the collector names the survivors. Each of them sends, of every survivor, its share of the own mask's seed,
   and of everyone who was lost after step 2 its share of the masking key: never both of one member.
5. `Collector.total` removes the survivors' own masks and what the lost ones would have cancelled.

Numbers are integers modulo ``2^bits``, so masks cancel exactly and the sum is that of the rounded numbers. Who has fewer than
`threshold` shares learns nothing of a secret; below `threshold` survivors there is no sum. Not covered: a collector that names
different survivors to different members (that takes signatures).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jaxtyping import Float, UInt

from gainnet.errors import InputError

PRIME = 2**521 - 1
"""Shamir's field; secrets have 256 bits."""
SHARE_BYTES = 66
KEY_BYTES = 32
TAG_BYTES = 16
PAIR = struct.Struct("<II")
RING: dict[int, type[np.unsignedinteger]] = {16: np.uint16, 32: np.uint32, 64: np.uint64}

Entropy = Callable[[int], bytes]
"""So many random bytes: `secrets.token_bytes`, or ``rng.bytes`` where a run must repeat."""


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Numbers as integers modulo ``2^bits``, in units of ``2^-fraction``."""

    bits: int = 32
    fraction: int = 20

    def __post_init__(self) -> None:
        if self.bits not in RING or not 0 <= self.fraction < self.bits:
            raise InputError("secure: bits must be 16, 32 or 64, and fraction below them")

    @property
    def grain(self) -> float:
        """The unit."""
        return 2.0**-self.fraction

    def encode(self, vector: Float[np.ndarray, " number"], members: int) -> UInt[np.ndarray, " number"]:
        """A vector to be added to those of other members, none of whose sums may leave the ring."""
        scaled = np.rint(vector.astype(np.float64) * 2.0**self.fraction)
        largest = float(np.abs(scaled).max(initial=0.0))
        if not largest * members < 2.0 ** (self.bits - 1):
            raise InputError(
                f"secure: a number of {members} members' vectors is too large for {self.bits} bits, or NaN"
            )
        return scaled.astype(np.int64).astype(RING[self.bits])

    def decode(self, whole: UInt[np.ndarray, " number"]) -> Float[np.ndarray, " number"]:
        """The sum that the integers stand for, float64."""
        signed = whole.view(np.dtype(f"i{whole.dtype.itemsize}"))
        return np.asarray(signed.astype(np.float64) * 2.0**-self.fraction)


@dataclass(slots=True)
class _Secrets:
    """What a member must keep to itself."""

    channel: X25519PrivateKey
    masking: X25519PrivateKey
    seed: bytes


@dataclass(slots=True)
class Member:
    """One whose vector is added.

    Attributes:
        number: its identity, unique among members, at least 0.
        threshold: shares that make a secret.
        fixed: how numbers are written.
        entropy: where its secrets come from.
    """

    number: int
    threshold: int
    fixed: FixedPoint
    entropy: Entropy
    _secrets: _Secrets | None = None
    _keys: dict[int, bytes] = field(default_factory=dict)
    _shares: dict[int, bytes] = field(default_factory=dict)
    _masked: bool = False
    _revealed: bool = False

    def keys(self) -> bytes:
        """Its public keys: channel, then masking."""
        pairs = [X25519PrivateKey.from_private_bytes(self.entropy(KEY_BYTES)) for _ in range(2)]
        self._secrets = _Secrets(pairs[0], pairs[1], self.entropy(KEY_BYTES))
        return b"".join(key.public_key().public_bytes_raw() for key in pairs)

    def share(self, keys: Mapping[int, bytes]) -> dict[int, bytes]:
        """Encrypted shares of its secrets, by whom they are for; `keys` are all members', its own included."""
        secrets = self._known()
        if len(keys) < self.threshold or self.number not in keys:
            raise InputError(f"secure: {len(keys)} members sent keys, {self.threshold} are needed")
        if self.threshold <= len(keys) // 2:
            raise InputError(f"secure: threshold is {self.threshold}: it must be more than half of {len(keys)} members")
        if any(len(key) != 2 * KEY_BYTES for key in keys.values()) or len(set(keys.values())) < len(keys):
            raise InputError("secure: public keys must have 64 bytes each, and no two be equal")
        self._keys = dict(keys)
        holders = sorted(keys)
        seeds = _split(int.from_bytes(secrets.seed, "little"), holders, self.threshold, self.entropy)
        masking = int.from_bytes(secrets.masking.private_bytes_raw(), "little")
        maskings = _split(masking, holders, self.threshold, self.entropy)
        sent = {}
        for holder in holders:
            plain = seeds[holder] + maskings[holder]
            if holder == self.number:
                self._shares[holder] = plain
                continue
            cipher = ChaCha20Poly1305(_agreed(secrets.channel, keys[holder][:KEY_BYTES], b"channel"))
            sent[holder] = cipher.encrypt(_nonce(self.number, holder), plain, PAIR.pack(self.number, holder))
        return sent

    def mask(self, shares: Mapping[int, bytes], vector: Float[np.ndarray, " number"]) -> bytes:
        """Its masked vector; `shares` are what others encrypted for it, by sender. Only they count as members from here on."""
        secrets = self._known()
        if self._masked:
            raise InputError(f"secure: member {self.number} has sent its masked vector already")
        for sender, sealed in shares.items():
            cipher = ChaCha20Poly1305(_agreed(secrets.channel, self._keys[sender][:KEY_BYTES], b"channel"))
            try:
                plain = cipher.decrypt(_nonce(sender, self.number), sealed, PAIR.pack(sender, self.number))
            except InvalidTag as error:
                raise InputError(f"secure: the shares from member {sender} were changed on the way") from error
            self._shares[sender] = plain
        if len(self._shares) < self.threshold:
            raise InputError(f"secure: {len(self._shares)} members shared their secrets, {self.threshold} are needed")
        found = self.fixed.encode(vector, len(self._shares))
        self._masked = True
        found += _stream(secrets.seed, len(found), self.fixed)
        for other in self._shares:
            if other != self.number:
                pair = _agreed(secrets.masking, self._keys[other][KEY_BYTES:], b"mask")
                found += _signed(_stream(pair, len(found), self.fixed), self.number < other)
        return found.tobytes()

    def reveal(self, survivors: Collection[int]) -> dict[int, bytes]:
        """A share of one secret of each member: of survivors the seed, of others the masking key. Once only."""
        if self._revealed:
            raise InputError(f"secure: member {self.number} has revealed its shares already")
        if len(set(survivors) & self._shares.keys()) < self.threshold or not set(survivors) <= self._shares.keys():
            raise InputError(
                f"secure: {len(survivors)} survivors, {self.threshold} who shared their secrets are needed"
            )
        self._revealed = True
        half = {True: slice(0, SHARE_BYTES), False: slice(SHARE_BYTES, 2 * SHARE_BYTES)}
        return {member: plain[half[member in survivors]] for member, plain in self._shares.items()}

    def _known(self) -> _Secrets:
        if self._secrets is None:
            raise InputError(f"secure: member {self.number} has made no keys yet")
        return self._secrets


@dataclass(frozen=True, slots=True)
class Collector:
    """Who adds the vectors up.

    Attributes:
        threshold: survivors that are needed.
        fixed: how numbers are written.
        keys: of all members.
        shared: members who shared their secrets.
    """

    threshold: int
    fixed: FixedPoint
    keys: Mapping[int, bytes]
    shared: Collection[int]

    def total(
        self, masked: Mapping[int, bytes], revealed: Mapping[int, Mapping[int, bytes]]
    ) -> Float[np.ndarray, " number"]:
        """The sum of survivors' vectors, from what each of them masked and then revealed.

        Raises:
            InputError: fewer survivors, or members who revealed, than the threshold; vectors of different lengths; shares
                that make no key.
        """
        if len(masked) < self.threshold or len(revealed) < self.threshold:
            few = min(len(masked), len(revealed))
            raise InputError(
                f"secure: {few} of {len(self.shared)} members are left, {self.threshold} are needed for a sum"
            )
        if len({len(data) for data in masked.values()}) != 1:
            raise InputError("secure: members sent vectors of different lengths")
        parts = [np.frombuffer(data, RING[self.fixed.bits]) for data in masked.values()]
        found = np.sum(parts, axis=0, dtype=RING[self.fixed.bits])
        for member in sorted(self.shared):
            secret = self._secret(member, revealed)
            if member in masked:
                found -= _stream(secret, len(found), self.fixed)
                continue
            key = X25519PrivateKey.from_private_bytes(secret)
            if key.public_key().public_bytes_raw() != self.keys[member][KEY_BYTES:]:
                raise InputError(f"secure: the shares of member {member} do not make its key")
            for other in masked:
                pair = _agreed(key, self.keys[other][KEY_BYTES:], b"mask")
                # What `other` added for the lost member is taken away.
                found -= _signed(_stream(pair, len(found), self.fixed), other < member)
        return self.fixed.decode(found)

    def _secret(self, member: int, revealed: Mapping[int, Mapping[int, bytes]]) -> bytes:
        shares = {holder: known[member] for holder, known in revealed.items() if member in known}
        if len(shares) < self.threshold:
            raise InputError(f"secure: {len(shares)} shares of member {member}, {self.threshold} are needed")
        found = _joined(dict(list(shares.items())[: self.threshold]))
        if found >= 2**256:
            raise InputError(f"secure: the shares of member {member} do not make its key")
        return found.to_bytes(KEY_BYTES, "little")


@dataclass(frozen=True, slots=True)
class MaskedSum:
    """What came of a whole round.

    Attributes:
        total: the survivors' sum.
        survivors: whose vectors are in it.
        up_bit: what each member sent, by member.
        down_bit: what each received.
    """

    total: Float[np.ndarray, " number"]
    survivors: tuple[int, ...]
    up_bit: dict[int, int]
    down_bit: dict[int, int]


def uplink_bit(numbers: int, members: int, fixed: FixedPoint = FixedPoint()) -> int:
    """What each member sends in a round in which nobody drops out."""
    keys = 2 * KEY_BYTES
    shares = (members - 1) * (4 + 2 * SHARE_BYTES + TAG_BYTES)
    return 8 * (keys + shares + numbers * fixed.bits // 8 + members * (4 + SHARE_BYTES))


def masked_sum(
    vectors: Mapping[int, Float[np.ndarray, " number"]],
    threshold: int,
    entropy: Entropy,
    fixed: FixedPoint = FixedPoint(),
    lost: Collection[int] = (),
    silent: Collection[int] = (),
) -> MaskedSum:
    """A whole round among members: those `lost` drop out after they shared their secrets, those `silent` after they sent
    their masked vector (which then counts).

    Raises:
        InputError: too few members are left; see `Member` and `Collector`.
    """
    members = {number: Member(number, threshold, fixed, entropy) for number in sorted(vectors)}
    keys = {number: member.keys() for number, member in members.items()}
    up = {number: 8 * len(key) for number, key in keys.items()}
    down = dict.fromkeys(members, 8 * sum(4 + len(key) for key in keys.values()))
    sealed = {number: member.share(keys) for number, member in members.items()}
    masked: dict[int, bytes] = {}
    for number, member in members.items():
        up[number] += 8 * sum(4 + len(data) for data in sealed[number].values())
        inbox = {sender: sealed[sender][number] for sender in members if sender != number}
        down[number] += 8 * sum(4 + len(data) for data in inbox.values())
        if number not in lost:
            masked[number] = member.mask(inbox, vectors[number])
            up[number] += 8 * len(masked[number])
    collector = Collector(threshold, fixed, keys, tuple(members))
    revealed: dict[int, dict[int, bytes]] = {}
    if len(masked) >= threshold:
        for number in masked.keys() - set(silent):
            revealed[number] = members[number].reveal(masked.keys())
            down[number] += 8 * 4 * len(masked)
            up[number] += 8 * sum(4 + len(data) for data in revealed[number].values())
    total = collector.total(masked, revealed)
    return MaskedSum(total, tuple(masked), up, down)


def _agreed(own: X25519PrivateKey, other: bytes, purpose: bytes) -> bytes:
    """The key that two members, and nobody else, can make."""
    try:
        secret = own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:
        raise InputError("secure: a public key is none of X25519") from error
    return HKDF(SHA256(), KEY_BYTES, None, b"gainnet secure " + purpose).derive(secret)


def _nonce(sender: int, receiver: int) -> bytes:
    """Distinct in both directions of a channel, whose keys serve one round."""
    return b"\0" * 4 + PAIR.pack(sender, receiver)


def _stream(key: bytes, count: int, fixed: FixedPoint) -> UInt[np.ndarray, " number"]:
    """So many numbers of the ring that only who has the key can tell from random: ChaCha20 (RFC 8439)."""
    cipher = Cipher(ChaCha20(key, b"\0" * 16), None).encryptor()
    return np.frombuffer(cipher.update(bytes(count * fixed.bits // 8)), RING[fixed.bits])


def _signed(mask: UInt[np.ndarray, " number"], plus: bool) -> UInt[np.ndarray, " number"]:
    return mask if plus else np.negative(mask)


def _split(secret: int, holders: Collection[int], threshold: int, entropy: Entropy) -> dict[int, bytes]:
    """Shamir's shares: a random polynomial of degree ``threshold - 1`` that is the secret at 0, at each holder's number + 1."""
    # 16 bytes more than the field has, so that what the remainder favours cannot be seen.
    coefficients = [
        secret,
        *(int.from_bytes(entropy(SHARE_BYTES + 16), "little") % PRIME for _ in range(threshold - 1)),
    ]
    shares = {}
    for holder in holders:
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * (holder + 1) + coefficient) % PRIME
        shares[holder] = value.to_bytes(SHARE_BYTES, "little")
    return shares


def _joined(shares: Mapping[int, bytes]) -> int:
    """The secret, from as many shares as the threshold: Lagrange's polynomial at 0."""
    found = 0
    for holder, share in shares.items():
        over, under = 1, 1
        for other in shares:
            if other != holder:
                over = over * (other + 1) % PRIME
                under = under * (other - holder) % PRIME
        found += int.from_bytes(share, "little") * over * pow(under, -1, PRIME)
    return found % PRIME
