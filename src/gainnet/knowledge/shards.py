"""How domains' examples are dealt to the ends of their edges: unevenly, and not alike in their sections."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gainnet.errors import InputError
from gainnet.knowledge.example import Domain, Example, folded

CONCENTRATION = 0.7  # of the Dirichlet distribution: the smaller, the more each end has of few sections


@dataclass(frozen=True, slots=True)
class Parts:
    """The examples of a domain, before they are dealt to ends: to learn from, to decide by, to report on."""

    name: str
    sections: tuple[str, ...]
    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]


def refuse_endless(ends_of_edge: Sequence[int]) -> None:
    """InputError where there is no edge, or one without an end for its domain's examples to lie on."""
    if not ends_of_edge:
        raise InputError("knowledge: the network has no edge; each edge has a domain, so there must be at least one")
    for edge, ends in enumerate(ends_of_edge):
        if ends < 1:
            raise InputError(f"knowledge: edge {edge} has {ends} ends; each needs at least one, which has its data")


def deal(examples: Sequence[Example], ends: int, rng: np.random.Generator) -> tuple[tuple[Example, ...], ...]:
    """Each section's examples, shuffled, go to ends in parts that are drawn from a symmetric Dirichlet distribution.

    The usual label-skewed split of federated learning (arXiv 1909.06335) with sections for labels. Every example goes
    to one end; an end may get none.
    """
    shards: list[list[Example]] = [[] for _ in range(ends)]
    sections: defaultdict[str, list[Example]] = defaultdict(list)
    for example in examples:
        sections[example.section].append(example)
    for section in sorted(sections):
        members = sections[section]
        parts = rng.dirichlet(np.full(ends, CONCENTRATION))
        cuts = np.rint(np.cumsum(parts)[:-1] * len(members)).astype(int)
        for shard, picked in zip(shards, np.split(rng.permutation(len(members)), cuts), strict=True):
            shard.extend(members[int(index)] for index in picked)
    return tuple(tuple(shard) for shard in shards)


def domains(parts: Sequence[Parts], ends_of_edge: Sequence[int], rng: np.random.Generator) -> tuple[Domain, ...]:
    """A domain for each edge, its training examples dealt to that many ends.

    Held-out examples whose note or dialogue stands in the training data of any domain are marked as seen.
    """
    notes = {folded(example.note) for part in parts for example in part.train}
    dialogues = {folded(example.dialogue) for part in parts for example in part.train}

    def marked(held: Sequence[Example]) -> tuple[Example, ...]:
        return tuple(replace(e, seen=folded(e.note) in notes or folded(e.dialogue) in dialogues) for e in held)

    return tuple(
        Domain(part.name, part.sections, deal(part.train, ends, rng), marked(part.validation), marked(part.test))
        for part, ends in zip(parts, ends_of_edge, strict=True)
    )
