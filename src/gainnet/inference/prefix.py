"""Keys and values of texts that were computed before, for others that begin alike.

A tree for each adapter version and tenant; each of its branches stands for one block of tokens, compared token by
token. So what begins alike is kept once, and nothing is ever shared between tenants or versions. All blocks lie in two
tensors as large as the budget: small ones that live long, between what each step allocates, would scatter the heap and
keep several times the budget from the system.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from gainnet.inference.batch import Rows

BLOCK = 16
"""Tokens that are kept or dropped together."""

Owner = tuple[str, str]
"""Digest of the adapter ("" for none), and the tenant."""
_Tokens = tuple[int, ...]


@dataclass(slots=True, eq=False)
class _Node:
    parent: _Node | None
    token: _Tokens
    place: int
    children: dict[_Tokens, _Node] = field(default_factory=dict)


class Prefixes:
    """What is kept, the longest unused dropped first, within a budget.

    Attributes:
        byte: what is kept now.
        queries: texts that were looked up.
        hits: those of them that began like one that is kept.
        hit_tokens: how many tokens were taken from here.
    """

    def __init__(self, rows: Rows, byte_max: int) -> None:
        self._rows = rows
        self._block_byte = BLOCK * rows.byte_token
        self._count = byte_max // self._block_byte
        layers, _, _, *rest = rows.key.shape
        self._key, self._value = (rows.key.new_empty((self._count, layers, BLOCK, *rest)) for _ in range(2))
        self._begun, self._free = 0, list[int]()
        self._roots: dict[Owner, _Node] = {}
        self._used: OrderedDict[_Node, None] = OrderedDict()
        self.queries = self.hits = self.hit_tokens = 0

    @property
    def byte(self) -> int:
        """What is kept, in byte."""
        return len(self._used) * self._block_byte

    def take(self, owner: Owner, token: Sequence[int], row: int) -> int:
        """Put what is kept of a text's beginning into a row; how many tokens that is, less than the text has."""
        self.queries += 1
        found = self._walk(owner, token[:-1])
        for index, node in enumerate(found):
            place = slice(index * BLOCK, (index + 1) * BLOCK)
            self._rows.key[:, row, place] = self._key[node.place]
            self._rows.value[:, row, place] = self._value[node.place]
        self._touch(found)
        self.hits += bool(found)
        self.hit_tokens += len(found) * BLOCK
        return len(found) * BLOCK

    def keep(self, owner: Owner, token: Sequence[int], row: int) -> None:
        """Keep a row's keys and values, which belong to these tokens; whole blocks only, the first ones where not all fit."""
        blocks = len(token) // BLOCK
        if not blocks or not self._count:
            return
        found = self._walk(owner, token)
        self._touch(found)
        node = found[-1] if found else self._roots.setdefault(owner, _Node(None, (), -1))
        own = set(found)
        for index in range(len(found), blocks):
            kept = self._room(own)
            if kept is None:
                break
            place = slice(index * BLOCK, (index + 1) * BLOCK)
            self._key[kept], self._value[kept] = self._rows.key[:, row, place], self._rows.value[:, row, place]
            child = _Node(node, tuple(token[place]), kept)
            node.children[child.token] = node = child
            self._used[child] = None
            own.add(child)
            found.append(child)
        self._touch(found)
        if len(self._roots) > len(self._used):  # of tenants of whom nothing is kept any more
            self._roots = {owner: root for owner, root in self._roots.items() if root.children}

    def _room(self, own: set[_Node]) -> int | None:
        """Where another block can be kept, if need be instead of the longest unused; None where only ``own`` are left."""
        if not self._free:
            if self._begun < self._count:
                self._begun += 1
                return self._begun - 1
            oldest = next(iter(self._used))
            if oldest in own:
                return None
            self._drop(oldest)
        return self._free.pop()

    def forget(self, digest: str) -> None:
        """Drop all that was computed with an adapter version."""
        for owner in [owner for owner in self._roots if owner[0] == digest]:
            for child in list(self._roots.pop(owner).children.values()):
                self._drop(child)

    def _walk(self, owner: Owner, token: Sequence[int]) -> list[_Node]:
        found: list[_Node] = []
        node = self._roots.get(owner)
        for start in range(0, len(token) - BLOCK + 1, BLOCK):
            node = node.children.get(tuple(token[start : start + BLOCK])) if node is not None else None
            if node is None:
                break
            found.append(node)
        return found

    def _touch(self, path: Sequence[_Node]) -> None:
        """A block counts as used after those that follow it, so that ends of texts are dropped before beginnings."""
        for node in reversed(path):
            self._used[node] = None
            self._used.move_to_end(node)

    def _drop(self, node: _Node) -> None:
        """Drop a block and whatever follows it."""
        if node.parent is not None:
            node.parent.children.pop(node.token, None)
        left = [node]
        while left:
            one = left.pop()
            left.extend(one.children.values())
            del self._used[one]
            self._free.append(one.place)
