"""How good a model is: loss and perplexity on each domain and on public text, and the notes that it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from gainnet.knowledge import score, text, writing
from gainnet.knowledge.example import Example
from gainnet.knowledge.gate import Scores, perplexity
from gainnet.knowledge.setting import Setting
from gainnet.knowledge.text import Encoded
from gainnet.knowledge.tuning import Tuner
from gainnet.models.low_rank import LowRank

NOTE_TOKEN_MAX = 160
PROMPTS_MAX = 1024
"""Prompts that are remembered."""
PUBLIC = -1
"""The group of held-out public text, beside those of the domains."""


def own(scores: Scores, name: str) -> dict[str, float]:
    """Perplexity on one domain, on the others (of the mean of their losses), and on public text."""
    others = [loss for other, loss in scores.domain.items() if other != name]
    other = float(np.mean(others)) if others else scores.domain[name]
    return {"own": perplexity(scores.domain[name]), "other": perplexity(other), "public": perplexity(scores.public)}


def overall(scores: Scores) -> dict[str, Any]:
    """Perplexity over all domains (of the mean of their losses), on public text, and on each domain."""
    return {
        "all": perplexity(float(np.mean(list(scores.domain.values())))),
        "public": perplexity(scores.public),
        "domain": {name: perplexity(loss) for name, loss in scores.domain.items()},
    }


def mean_of_domains(scores: Scores) -> float:
    """Mean loss (nat a token) over the domains; nan where none has held-out notes."""
    return float(np.mean(list(scores.domain.values()))) if scores.domain else float("nan")


def mean_loss(tuner: Tuner, adapter: LowRank | None, texts: Sequence[Encoded]) -> float:
    """Nat a counted token over all the texts; nan where there are none."""
    if not texts:
        return float("nan")
    return _mean(tuner.losses(adapter, texts)[0], texts)


def on_group(setting: Setting, adapter: LowRank | None, group: int) -> Float[np.ndarray, " text"]:
    """Loss (nat) of an adapter of the foundation model on each validation note of a domain, or piece of public text.

    What was measured is known as long as there is the adapter: one that comes back costs nothing. A group's texts always
    go through the model together, so it makes no difference to the bits whether it was known.
    """
    known = setting.plain if adapter is None else setting.measured.setdefault(adapter, {})
    if group not in known:
        known[group] = setting.tuner.losses(adapter, _group(setting, group))[0]
    return known[group]


def on_domain(setting: Setting, adapter: LowRank | None, domain: int) -> float:
    """What `mean_loss` says on a domain's validation notes, where it may be known; nan where it has none."""
    held = setting.validation[domain]
    return _mean(on_group(setting, adapter, domain), held) if held else float("nan")


def on_proof(setting: Setting, adapter: LowRank | None, texts: Sequence[Encoded]) -> Float[np.ndarray, " text"]:
    """Loss (nat) on each of some validation notes of any domains, where it may be known."""
    found: dict[int, float] = {}
    for domain, held in enumerate(setting.validation):
        if held:
            found |= zip(map(id, held), on_group(setting, adapter, domain).tolist(), strict=True)
    return np.array([found[id(encoded)] for encoded in texts])


def appraise(tuner: Tuner, adapter: LowRank | None, setting: Setting) -> Scores:
    """Loss of a model on every domain's validation notes and on held-out public text.

    A domain without validation notes is not in it.
    """
    groups = [index for index, held in enumerate(setting.validation) if held] + [PUBLIC]
    nat = {
        group: on_group(setting, adapter, group)
        if tuner is setting.tuner
        else tuner.losses(adapter, _group(setting, group))[0]
        for group in groups
    }
    loss = {group: _mean(nat[group], _group(setting, group)) for group in groups}
    names = [domain.name for domain in setting.corpus.domains]
    return Scores({names[group]: loss[group] for group in groups[:-1]}, loss[PUBLIC])


def _group(setting: Setting, group: int) -> tuple[Encoded, ...]:
    return setting.public_held if group == PUBLIC else setting.validation[group]


def _mean(nat: Float[np.ndarray, " text"], texts: Sequence[Encoded]) -> float:
    return float(nat.sum() / max(sum(encoded.counted for encoded in texts), 1))


def write(tuner: Tuner, adapter: LowRank | None, setting: Setting, examples: Sequence[Example]) -> list[str]:
    """The notes that a model writes from the dialogues of examples, by greedy decoding."""
    tokenizer, context = setting.language.tokenizer, tuner.language.context
    prompts = [_prompt(tokenizer, example, context) for example in examples]
    answers = tuner.answer(adapter, prompts, _note_max(tuner))
    return [text.decode(tokenizer, answer) for answer in answers]


_prompt = lru_cache(PROMPTS_MAX)(text.prompt)
"""The same notes are written round after round."""


def quality(tuner: Tuner, adapters: Sequence[LowRank | None], setting: Setting, notes: int) -> float:
    """Mean ROUGE-1 in [0, 1] over the first ``notes`` validation notes of each domain, each written by its adapter."""
    groups: dict[int, tuple[LowRank | None, list[Example]]] = {}
    for domain, adapter in zip(setting.corpus.domains, adapters, strict=True):
        groups.setdefault(id(adapter), (adapter, []))[1].extend(domain.validation[:notes])
    found: list[float] = []
    for adapter, examples in groups.values():
        written = write(tuner, adapter, setting, examples)
        found.extend(score.rouge1(written, [example.note for example in examples]).tolist())
    return float(np.mean(found)) if found else 0.0


def final(
    setting: Setting,
    answering: Sequence[Sequence[LowRank | None]],
    limit: int,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Scores on the test notes: perplexity and ROUGE, over all of them and over those whose reference stands once.

    ``answering`` has the adapters of each domain that answer its notes, in turn; ``limit`` is how many notes of a domain
    are written at most, 0 for all; ``progress`` is called with the domains done and the domains in all, several times for each.
    Notes are written as `knowledge.writing` has it (``ways`` says how in each domain); where that is not greedily, ROUGE of
    greedy ones stands beside.
    """
    nat, token = 0.0, 0
    greedy: list[str] = []
    written: list[str] = []
    examples: list[Example] = []
    ways: dict[str, str] = {}
    for done, (domain, adapters) in enumerate(zip(setting.corpus.domains, answering, strict=True)):
        progress(done, setting.domains)
        test = domain.test[:limit] if limit else domain.test
        if not test:
            continue
        way = ways[domain.name] = _way(setting, adapters, done)
        for turn, adapter in enumerate(adapters):
            mine = test[turn :: len(adapters)]
            if mine:
                progress(done, setting.domains)  # between what takes long, so that it can be interrupted there
                lost, counted = setting.tuner.losses(adapter, setting.encode(mine))
                nat, token = nat + float(lost.sum()), token + int(counted.sum())
                greedy.extend(write(setting.tuner, adapter, setting, mine))
                if way != "greedy":
                    progress(done, setting.domains)
                    drawn = _drawn(setting, adapter, mine, setting.stream(f"writing.{done}.{turn}"))
                    written.extend(map(writing.WAYS[way], (example.dialogue for example in mine), drawn))
                examples.extend(mine)
    return _scores(nat, token, written or greedy, greedy, examples) | {"ways": ways}


def _way(setting: Setting, adapters: Sequence[LowRank | None], domain: int) -> str:
    """How a domain's notes are written: what `knowledge.writing` says or, of all ways, what is best on held-out notes."""
    way, held = setting.config.writing.way, setting.corpus.domains[domain].validation[: setting.config.held]
    if way != "best":
        return way
    score_of = dict.fromkeys(writing.WAYS, 0.0)
    for turn, adapter in enumerate(adapters):
        mine = held[turn :: len(adapters)]
        drawn = _drawn(setting, adapter, mine, setting.stream(f"writing.held.{domain}.{turn}")) if mine else []
        for name, make in writing.WAYS.items():
            made = [make(example.dialogue, notes) for example, notes in zip(mine, drawn, strict=True)]
            score_of[name] += float(score.rouge1(made, [example.note for example in mine]).sum())
    return max(score_of, key=score_of.__getitem__)


def _drawn(
    setting: Setting, adapter: LowRank | None, examples: Sequence[Example], rng: np.random.Generator
) -> list[list[str]]:
    """Notes that are drawn for each example, as `knowledge.writing` has it."""
    config, tuner = setting.config.writing, setting.tuner
    prompts = [_prompt(setting.language.tokenizer, example, tuner.language.context) for example in examples]
    made = tuner.sample(adapter, prompts * config.samples, _note_max(tuner), config.temperature, rng)
    notes = [text.decode(setting.language.tokenizer, token) for token in made]
    return [notes[place :: len(examples)] for place in range(len(examples))]


def _note_max(tuner: Tuner) -> int:
    return min(NOTE_TOKEN_MAX, tuner.language.context // text.NOTE_SHARE)


def _scores(
    nat: float, token: int, written: Sequence[str], greedy: Sequence[str], examples: Sequence[Example]
) -> dict[str, Any]:
    references = [example.note for example in examples]
    found = score.rouge(written, references)
    copied = score.rouge([example.dialogue for example in examples], references)
    plain = found if written is greedy else score.rouge(greedy, references)
    once = score.distinct(references) & ~np.array([example.seen for example in examples], dtype=bool)
    tree: dict[str, Any] = {"notes": len(examples), "perplexity": perplexity(nat / max(token, 1))}
    for name, of in (("rouge1", "one"), ("rouge2", "two"), ("rougeL", "longest")):
        column = getattr(found, of)
        tree[name] = float(column.mean())
        tree[f"{name}_distinct"] = float(column[once].mean()) if once.any() else None
        tree[f"{name}_copy"] = float(getattr(copied, of).mean())
        tree[f"{name}_greedy"] = float(getattr(plain, of).mean())
    tree["distinct"] = int(once.sum())
    return tree
