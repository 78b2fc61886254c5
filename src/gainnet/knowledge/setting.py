"""What a knowledge loop stands on: the foundation model, the ends' small one, the data, and who holds what."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float, Int

from gainnet.errors import InputError
from gainnet.knowledge import corpus, split, synthetic, text
from gainnet.knowledge.algebra import WIDER
from gainnet.knowledge.draw import Draw
from gainnet.knowledge.example import Corpus, Example
from gainnet.knowledge.foundation import foundation, small
from gainnet.knowledge.registry import Registry
from gainnet.knowledge.renaming import Renaming
from gainnet.knowledge.text import Encoded
from gainnet.knowledge.tuning import Tuner
from gainnet.models import hub
from gainnet.models.hub import Language
from gainnet.models.low_rank import LowRank
from gainnet.rng import stream
from gainnet.scenario.knowledge import Knowledge, Pretrained, Recorded, Synthetic

ENDS_TOLD = 20  # ends that a line names
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
        lines: what a person should know of the data: what was shortened, who holds nothing.
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
    lines: tuple[str, ...] = ()
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


def check(config: Knowledge, edges: int) -> None:
    """Refuse data that can't be read, a model and a device that are not there, before an earlier run gives way to this one.

    Raises:
        InputError: that is so.
    """
    hub.device(config.device)
    if isinstance(config.foundation, Pretrained):
        hub.check(config.foundation.name, config.foundation.context)
    if isinstance(config.data, Recorded):
        corpus.read(config.data, ends_of_edge=[1] * edges, rng=stream(PUBLIC_SEED, "knowledge.data"))


def build(
    config: Knowledge,
    seed: int,
    edge_of: Int[np.ndarray, " end"],
    edges: int,
    progress: Progress,
    registry: Registry | None = None,
) -> Setting:
    """Read or make the data, load or train the foundation model, and deal the data out.

    Rows whose section does not fit the models' context are refused as all others that cannot be used.

    Raises:
        InputError: data or model cannot be read, or there is nothing to learn from.
    """
    counts = np.bincount(edge_of, minlength=edges).tolist()
    found = _corpus(config, counts, seed)
    language = foundation(config.foundation, found.public, PUBLIC_SEED, progress, config.device)
    split.check(config, language)
    end_language = small(config.end_model, language, found.public, PUBLIC_SEED, progress)
    context = min(language.context, end_language.context)
    unfit = text.unfit(language.tokenizer, (s for domain in found.domains for s in domain.sections), context)
    if unfit:
        found = _corpus(config, counts, seed, unfit)
    shards: list[tuple[Encoded, ...]] = [()] * len(edge_of)
    examples: list[tuple[Example, ...]] = [()] * len(edge_of)

    def encode(examples: Sequence[Example]) -> tuple[Encoded, ...]:
        return tuple(text.encode(language.tokenizer, example, language.context) for example in examples)

    for edge, domain in enumerate(found.domains):
        for end, shard in zip(np.flatnonzero(edge_of == edge).tolist(), domain.shards, strict=True):
            shards[end], examples[end] = encode(shard), shard
    if not any(shards):
        raise InputError("knowledge.data: no end has anything to learn from")
    validation = tuple(encode(domain.validation[: config.held]) for domain in found.domains)
    test = [encode(domain.test[: config.test or None]) for domain in found.domains]
    used = [[*decided, *reported] for decided, reported in zip(validation, test, strict=True)]
    for edge, learnt in zip(edge_of.tolist(), shards, strict=True):
        used[edge] += learnt
    public = tuple(text.public(language.tokenizer, found.public, language.context))
    public_held = tuple(text.public(language.tokenizer, found.public_held, language.context))
    return Setting(
        config=config,
        seed=seed,
        corpus=found,
        language=language,
        tuner=Tuner(language, _ranks(config, edge_of, edges), config.bf16),
        small=Tuner(end_language, (config.edge_rank,), config.bf16),
        edge_of=edge_of,
        shards=tuple(shards),
        examples=tuple(examples),
        renaming=Renaming(found.public if config.renamed else ()),
        validation=validation,
        public=public,
        public_held=public_held[: config.public_held],
        registry=registry,
        lines=_lines([domain.name for domain in found.domains], used, shards, language.context),
    )


def _corpus(config: Knowledge, counts: list[int], seed: int, unfit: Mapping[str, str] | None = None) -> Corpus:
    """The data; public text does not depend on the seed of the run. ``unfit`` is of `gainnet.knowledge.corpus.read`."""
    rng = stream(seed, "knowledge.data")
    if isinstance(config.data, Synthetic):
        return synthetic.make(config.data, ends_of_edge=counts, rng=rng, public=stream(PUBLIC_SEED, "knowledge.public"))
    return corpus.read(config.data, ends_of_edge=counts, rng=rng, unfit=unfit)


def _ranks(config: Knowledge, edge_of: Int[np.ndarray, " end"], edges: int) -> list[int]:
    """The ranks of the foundation model's adapters."""
    ranks = {*config.ranks, config.edge_rank}
    if config.incentive.budget > 0.0 and config.aggregation != "ffa":
        ranks.add(WIDER * config.edge_rank)  # what coalitions of edges would know is looked at
    if config.aggregation == "flora":
        ranks.add(config.edge_rank + max(_stack(config, edge_of, edge) for edge in range(edges)))
    return sorted(ranks)


def _stack(config: Knowledge, edge_of: Int[np.ndarray, " end"], edge: int) -> int:
    """The rank of an edge's exact stack of its ends' adapters."""
    ends = np.flatnonzero(edge_of == edge).tolist()
    return sum(config.ranks[end % len(config.ranks)] for end in ends)


def _lines(
    names: Sequence[str], used: Sequence[Sequence[Encoded]], shards: Sequence[Sequence[Encoded]], context: int
) -> tuple[str, ...]:
    """`Setting.lines`, of all that each domain uses and what each end has."""
    shortened = [_shortened(name, encoded, context) for name, encoded in zip(names, used, strict=True)]
    return tuple(filter(None, [*shortened, _empty(shards)]))


def _shortened(domain: str, used: Sequence[Encoded], context: int) -> str:
    """How many of a domain's dialogues and notes do not fit the context, empty where all do."""
    number = {"dialogue": sum(one.dialogue_cut for one in used), "note": sum(one.note_cut for one in used)}
    cut = [(what, count) for what, count in number.items() if count]
    if not cut:
        return ""
    first, *more = cut
    told = [f"{first[1]} of {len(used)} {first[0]}s", *(f"{n} {what}{'s' if n > 1 else ''}" for what, n in more)]
    verb = "was" if sum(number.values()) == 1 else "were"
    return f"domain {domain!r}: {' and '.join(told)} {verb} shortened to the context of {context} tokens"


def _empty(shards: Sequence[Sequence[Encoded]]) -> str:
    """Which ends have no example, empty where all have."""
    ends = [end for end, shard in enumerate(shards) if not shard]
    if not ends:
        return ""
    if len(ends) == 1:
        return f"end {ends[0]}: holds nothing to learn from"
    more = f" and {len(ends) - ENDS_TOLD} more" if len(ends) > ENDS_TOLD else ""
    return f"ends {', '.join(map(str, ends[:ENDS_TOLD]))}{more}: hold nothing to learn from"
