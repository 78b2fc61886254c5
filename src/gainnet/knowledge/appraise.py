"""How good a model is: loss and perplexity on each domain and on public text, and the notes that it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gainnet.knowledge import score, text
from gainnet.knowledge.example import Example
from gainnet.knowledge.gate import Scores, perplexity
from gainnet.knowledge.setting import Setting
from gainnet.knowledge.text import Encoded
from gainnet.knowledge.tuning import Tuner
from gainnet.models.low_rank import LowRank

NOTE_TOKEN_MAX = 160
PLAIN = "plain"
"""The digest of no adapter."""
APPRAISED_MAX = 64


def own(scores: Scores, name: str) -> dict[str, float]:
    """Perplexity on one domain, on the others (of the mean of their losses), and on public text."""
    others = [loss for other, loss in scores.domain.items() if other != name]
    other = float(np.mean(others)) if others else scores.domain[name]
    return {"own": perplexity(scores.domain[name]), "other": perplexity(other), "public": perplexity(scores.public)}


def overall(scores: Scores) -> dict[str, float]:
    """Perplexity over all domains (of the mean of their losses) and on public text."""
    return {"all": perplexity(float(np.mean(list(scores.domain.values())))), "public": perplexity(scores.public)}


def mean_of_domains(scores: Scores) -> float:
    """Mean loss (nat a token) over the domains; nan where none has held-out notes."""
    return float(np.mean(list(scores.domain.values()))) if scores.domain else float("nan")


def mean_loss(tuner: Tuner, adapter: LowRank | None, texts: Sequence[Encoded]) -> float:
    """Nat a counted token over all the texts; nan where there are none."""
    if not texts:
        return float("nan")
    nat, token = tuner.losses(adapter, texts)
    return float(nat.sum() / max(int(token.sum()), 1))


def appraise(tuner: Tuner, adapter: LowRank | None, setting: Setting) -> Scores:
    """Loss of a model on every domain's validation notes and on held-out public text, in one pass.

    A domain without validation notes is not in it. What was measured of an adapter of the foundation model is known
    from then on: an adapter that comes back unchanged costs nothing.
    """
    if tuner is not setting.tuner:
        return _appraised(tuner, adapter, setting)
    digest = PLAIN if adapter is None else adapter.digest()
    found = setting.appraised.get(digest)
    if found is None:
        if len(setting.appraised) >= APPRAISED_MAX:
            del setting.appraised[next(iter(setting.appraised))]
        found = setting.appraised[digest] = _appraised(tuner, adapter, setting)
    return found


def _appraised(tuner: Tuner, adapter: LowRank | None, setting: Setting) -> Scores:
    groups = {
        domain.name: held for domain, held in zip(setting.corpus.domains, setting.validation, strict=True) if held
    }
    texts = [encoded for group in (*groups.values(), setting.public_held) for encoded in group]
    nat, token = tuner.losses(adapter, texts)
    ends = np.cumsum([len(group) for group in (*groups.values(), setting.public_held)])
    loss = [
        part.sum() / max(int(count.sum()), 1)
        for part, count in zip(np.split(nat, ends)[:-1], np.split(token, ends)[:-1], strict=True)
    ]
    return Scores(dict(zip(groups, map(float, loss[:-1]), strict=True)), float(loss[-1]))


def write(
    tuner: Tuner, adapter: LowRank | None, setting: Setting, examples: Sequence[Example], longest: int = NOTE_TOKEN_MAX
) -> list[str]:
    """The notes that a model writes from the dialogues of examples, by greedy decoding."""
    tokenizer, context = setting.language.tokenizer, tuner.language.context
    prompts = [text.prompt(tokenizer, example, context) for example in examples]
    answers = tuner.answer(adapter, prompts, min(longest, context // text.NOTE_SHARE))
    return [text.decode(tokenizer, answer) for answer in answers]


def quality(tuner: Tuner, adapters: Sequence[LowRank | None], setting: Setting, notes: int) -> float:
    """Mean ROUGE-1 in [0, 1] over the first ``notes`` validation notes of each domain, each written by its adapter."""
    groups: dict[int, tuple[LowRank | None, list[Example]]] = {}
    for domain, adapter in zip(setting.corpus.domains, adapters, strict=True):
        groups.setdefault(id(adapter), (adapter, []))[1].extend(domain.validation[:notes])
    found: list[float] = []
    for adapter, examples in groups.values():
        written = write(tuner, adapter, setting, examples)
        found.extend(score.rouge(written, [example.note for example in examples]).one.tolist())
    return float(np.mean(found)) if found else 0.0


def final(
    setting: Setting,
    answering: Sequence[Sequence[LowRank | None]],
    limit: int,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Scores on the test notes: perplexity and ROUGE, over all of them and over those whose reference stands once.

    ``answering`` has the adapters of each domain that answer its notes, in turn; ``limit`` is how many notes of a domain
    are written at most, 0 for all; ``progress`` is called with the domains done and the domains in all.
    """
    nat, token = 0.0, 0
    written: list[str] = []
    examples: list[Example] = []
    for done, (domain, adapters) in enumerate(zip(setting.corpus.domains, answering, strict=True)):
        progress(done, setting.domains)
        test = domain.test[:limit] if limit else domain.test
        for turn, adapter in enumerate(adapters):
            mine = test[turn :: len(adapters)]
            if mine:
                lost, counted = setting.tuner.losses(adapter, setting.encode(mine))
                nat, token = nat + float(lost.sum()), token + int(counted.sum())
                written.extend(write(setting.tuner, adapter, setting, mine))
                examples.extend(mine)
    return _scores(nat, token, written, examples)


def _scores(nat: float, token: int, written: Sequence[str], examples: Sequence[Example]) -> dict[str, Any]:
    references = [example.note for example in examples]
    found = score.rouge(written, references)
    copied = score.rouge([example.dialogue for example in examples], references)
    once = score.distinct(references) & ~np.array([example.seen for example in examples], dtype=bool)
    tree: dict[str, Any] = {"notes": len(examples), "perplexity": perplexity(nat / max(token, 1))}
    for name, of in (("rouge1", "one"), ("rouge2", "two"), ("rougeL", "longest")):
        column = getattr(found, of)
        tree[name] = float(column.mean())
        tree[f"{name}_distinct"] = float(column[once].mean()) if once.any() else None
        tree[f"{name}_copy"] = float(getattr(copied, of).mean())
    tree["distinct"] = int(once.sum())
    return tree
