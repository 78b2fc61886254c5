"""How a domain's examples are dealt to the ends of its edge: unevenly, and not alike in their sections."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from gainnet.knowledge.example import Example

CONCENTRATION = 0.7  # of the Dirichlet distribution: the smaller, the more each end has of few sections


def deal(examples: Sequence[Example], ends: int, rng: np.random.Generator) -> tuple[tuple[Example, ...], ...]:
    """Each section's examples, shuffled, go to ends in parts that are drawn from a symmetric Dirichlet distribution.

    The usual label-skewed split of federated learning (arXiv 1909.06335) with sections for labels. Every example goes
    to one end; an end may get none. No end gets nothing: without ends the answer is empty.
    """
    shards: list[list[Example]] = [[] for _ in range(ends)]
    sections: defaultdict[str, list[Example]] = defaultdict(list)
    for example in examples:
        sections[example.section].append(example)
    for section in sorted(sections) if ends else ():
        members = sections[section]
        parts = rng.dirichlet(np.full(ends, CONCENTRATION))
        cuts = np.rint(np.cumsum(parts)[:-1] * len(members)).astype(int)
        for shard, picked in zip(shards, np.split(rng.permutation(len(members)), cuts), strict=True):
            shard.extend(members[int(index)] for index in picked)
    return tuple(tuple(shard) for shard in shards)
