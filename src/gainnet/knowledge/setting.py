"""What a knowledge loop stands on: the foundation model, the ends' small one, the data, and who holds what."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float, Int

from gainnet.errors import InputError
from gainnet.knowledge import corpus, synthetic, text
from gainnet.knowledge.algebra import WIDER
from gainnet.knowledge.draw import Draw
from gainnet.knowledge.example import Corpus, Example
from gainnet.knowledge.foundation import foundation, small
from gainnet.knowledge.registry import Registry
from gainnet.knowledge.renaming import Renaming
from gainnet.knowledge.text import Encoded
from gainnet.knowledge.tuning import Tuner
from gainnet.models.hub import Language
from gainnet.models.low_rank import LowRank
from gainnet.rng import stream
from gainnet.scenario.knowledge import Knowledge, Synthetic

PUBLIC_SEED = 0  # public text and foundation models are the same whatever the run's seed
Progress = Callable[[str, int, int], None]
Losses = dict[int, Float[np.ndarray, " text"]]  # nat on each text of a group


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything that does not change in the course of a loop.

    Attributes:
        config: what a person wrote.
        seed: of the run.
        corpus: the data, as text.
        language: the foundation model.
        tuner: trains and asks it, with adapters of the ranks in use.
        small: trains and asks the ends' model.
        edge_of: the edge that each end belongs to.
        shards: the private examples of each end.
        examples: the same as text.
        renaming: changes words of examples.
        validation: held-out examples of each domain, for decisions.
        public: public text to learn from; public_held: held out.
        registry: where versions are kept, None to keep none.
        measured: losses of adapters of the foundation model that are known, by group (see `appraise.on_group`).
        plain: the same of the foundation model without one.
    """

    config: Knowledge
    seed: int
    corpus: Corpus
    language: Language
    tuner: Tuner
    small: Tuner
    edge_of: Int[np.ndarray, " end"]
    shards: tuple[tuple[Encoded, ...], ...]
    examples: tuple[tuple[Example, ...], ...]
    renaming: Renaming
    validation: tuple[tuple[Encoded, ...], ...]
    public: tuple[Encoded, ...]
    public_held: tuple[Encoded, ...]
    registry: Registry | None
    measured: WeakKeyDictionary[LowRank, Losses] = field(default_factory=WeakKeyDictionary)
    plain: Losses = field(default_factory=dict)

    @property
    def domains(self) -> int:
        """How many domains (edges) there are."""
        return len(self.corpus.domains)

    @property
    def base(self) -> str:
        """Digest of the foundation model."""
        return self.language.digest

    def stream(self, name: str) -> np.random.Generator:
        """The generator that drives ``name``."""
        return stream(self.seed, f"knowledge.{name}")

    def rank(self, end: int) -> int:
        """The rank of an end's adapter."""
        return self.config.ranks[end % len(self.config.ranks)]

    def held(self, end: int, number: int) -> tuple[Encoded, ...]:
        """The examples that an end has in round ``number``: the first ones, and those that came since."""
        shard, arriving = self.shards[end], self.config.arriving
        share = 1.0 - arriving * (1.0 - min(1.0, number / max(self.config.rounds - 1, 1)))
        return shard[: math.ceil(len(shard) * share)]

    def drawn(self, end: int, number: int, examples: int = 0) -> list[int]:
        """Which of its examples an end goes over in round ``number``: so many, drawn anew; 0 for all."""
        held = len(self.held(end, number))
        if not 0 < examples < held:
            return list(range(held))
        return sorted(self.stream(f"drawn.{number}.{end}").permutation(held)[:examples].tolist())

    def lesson(self, end: int, number: int, examples: int = 0) -> tuple[Encoded, ...]:
        """What an end learns from in round ``number``: the examples that are `drawn`, some with other words."""
        drawn, share = self.drawn(end, number, examples), self.config.renamed
        held = [self.shards[end][index] for index in drawn]
        if not share:
            return tuple(held)
        draw = Draw(self.stream(f"renamed.{number}.{end}"))
        kept = [self.examples[end][index] for index in drawn]
        changed = [self.renaming.of(draw, example) if draw.chance(share) else example for example in kept]
        return tuple(
            plain if new is example else self.encode([new])[0]
            for plain, example, new in zip(held, kept, changed, strict=True)
        )

    def ends_of(self, domain: int) -> Int[np.ndarray, " member"]:
        """The ends that belong to an edge and have data."""
        return np.array([e for e in np.flatnonzero(self.edge_of == domain).tolist() if self.shards[e]], dtype=np.int64)

    def proof(self) -> dict[str, list[Encoded]]:
        """The validation examples by section."""
        found: dict[str, list[Encoded]] = {}
        for domain, held in zip(self.corpus.domains, self.validation, strict=True):
            for example, encoded in zip(domain.validation, held, strict=False):
                found.setdefault(example.section, []).append(encoded)
        return found

    def encode(self, examples: Sequence[Example]) -> tuple[Encoded, ...]:
        """Examples as tokens of the foundation model."""
        return tuple(text.encode(self.language.tokenizer, example, self.language.context) for example in examples)


def build(
    config: Knowledge,
    seed: int,
    edge_of: Int[np.ndarray, " end"],
    edges: int,
    progress: Progress,
    registry: Registry | None = None,
) -> Setting:
    """Read or make the data, load or train the foundation model, and deal the data out.

    Raises:
        InputError: data or model cannot be read, or there is nothing to learn from.
    """
    counts = np.bincount(edge_of, minlength=edges).tolist()
    found = _corpus(config, counts, seed)
    language = foundation(config.foundation, found.public, PUBLIC_SEED, progress, config.device)
    end_language = small(config.end_model, language, found.public, PUBLIC_SEED, progress)
    shards: list[tuple[Encoded, ...]] = [()] * len(edge_of)
    examples: list[tuple[Example, ...]] = [()] * len(edge_of)

    def encode(examples: Sequence[Example]) -> tuple[Encoded, ...]:
        return tuple(text.encode(language.tokenizer, example, language.context) for example in examples)

    for edge, domain in enumerate(found.domains):
        for end, shard in zip(np.flatnonzero(edge_of == edge).tolist(), domain.shards, strict=True):
            shards[end], examples[end] = encode(shard), shard
    if not any(shards):
        raise InputError("knowledge.data: no end has anything to learn from")
    public = tuple(text.public(language.tokenizer, found.public, language.context))
    public_held = tuple(text.public(language.tokenizer, found.public_held, language.context))
    ranks = {*config.ranks, config.edge_rank}
    if config.incentive.budget > 0.0 and config.aggregation != "ffa":
        ranks.add(WIDER * config.edge_rank)  # what coalitions of edges would know is looked at
    if config.aggregation == "flora":
        ranks.add(max(_stack(config, edge_of, edge) for edge in range(edges)))
    return Setting(
        config=config,
        seed=seed,
        corpus=found,
        language=language,
        tuner=Tuner(language, sorted(ranks), config.bf16),
        small=Tuner(end_language, (config.edge_rank,), config.bf16),
        edge_of=edge_of,
        shards=tuple(shards),
        examples=tuple(examples),
        renaming=Renaming(found.public if config.renamed else ()),
        validation=tuple(encode(domain.validation[: config.held]) for domain in found.domains),
        public=public,
        public_held=public_held[: config.public_held],
        registry=registry,
    )


def _corpus(config: Knowledge, counts: list[int], seed: int) -> Corpus:
    """The data; public text does not depend on the seed of the run."""
    rng = stream(seed, "knowledge.data")
    if isinstance(config.data, Synthetic):
        return synthetic.make(config.data, ends_of_edge=counts, rng=rng, public=stream(PUBLIC_SEED, "knowledge.public"))
    return corpus.read(config.data, ends_of_edge=counts, rng=rng)


def _stack(config: Knowledge, edge_of: Int[np.ndarray, " end"], edge: int) -> int:
    """The rank of an edge's exact stack of its ends' adapters."""
    ends = np.flatnonzero(edge_of == edge).tolist()
    return sum(config.ranks[end % len(config.ranks)] for end in ends)
