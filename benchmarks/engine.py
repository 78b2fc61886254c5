"""The embedded engine beside transformers' own continuous batching, in one process, on one torch thread each.

Both answer the same prompts with the same numbers of tokens, greedily, with as many at once; they take turns, so that a
busy machine slows both, and figures are of all turns' medians. The peer's cache is bounded (`num_blocks`): it would
otherwise take more than half of the machine's memory, and be slower for it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from gainnet.inference.engine import Engine
from gainnet.inference.request import Answer, Sampling
from gainnet.models import hub
from gainnet.models.low_rank import Factors, LowRank
from gainnet.scenario.knowledge import SmallModel

MEANING = {
    "tokens_per_cpu_s": "new tokens per second of CPU time, the engine",
    "peer_tokens_per_cpu_s": "the same of transformers' continuous batching",
    "ratio": "the first over the second",
    "mismatched_tokens": "of the engine's greedy tokens, those that are not the ones of generate",
    "peer_mismatched_tokens": "of the peer's, the same",
    "mixed_adapters_mismatched": "tokens that differ when four adapters share a batch from each adapter alone",
    "mixed_tokens_per_cpu_s": "new tokens per second of CPU time with four adapters in each batch",
    "swap_answers": "answers while an adapter was swapped again and again",
    "swap_unmatched": "of those, answers that match no version, or another than was current when they were asked for",
    "swap_prefix_hits": "of those, answers whose prompt began with what was computed before",
    "parameters": "of the model",
}
SHAPE = SmallModel(layers=8, width=384, heads=6, kv_heads=2, vocabulary=8192, context=512)
REQUESTS, SLOTS, PROMPT, LENGTHS = 16, 8, 32, (16, 112)
RANK, SWAP_ANSWERS, SWAP_VERSIONS = 8, 1000, 5


def figures(quick: bool = False) -> dict[str, float]:
    """The figures of MEANING; ``quick`` takes fewer turns and answers."""
    torch.set_num_threads(1)
    language = _language(SHAPE)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, SHAPE.vocabulary, PROMPT).tolist() for _ in range(REQUESTS)]
    lengths = rng.integers(*LENGTHS, REQUESTS, endpoint=True).tolist()
    expected = [_generated(language, prompt, length) for prompt, length in zip(prompts, lengths, strict=True)]
    ours, peers, wrong, wrong_peer = [], [], 0, 0
    with (
        Engine(language, slots=SLOTS, queue=REQUESTS, prefix_byte=0, threads=1) as engine,
        warnings.catch_warnings(action="ignore"),
        _peer(language) as manager,
    ):
        for turn in range(3 if quick else 6):
            answers, spent = _timed(lambda: _answered(engine, prompts, lengths))
            others, spent_peer = _timed(lambda: _answered_by_peer(manager, prompts, lengths))
            wrong, wrong_peer = wrong + _differing(answers, expected), wrong_peer + _differing(others, expected)
            if turn:  # the first warms up
                ours.append(sum(lengths) / spent)
                peers.append(sum(lengths) / spent_peer)
    mine, theirs = float(np.median(ours)), float(np.median(peers))
    mixed, spent = _mixed(language, prompts, lengths)
    return {
        "tokens_per_cpu_s": mine,
        "peer_tokens_per_cpu_s": theirs,
        "ratio": mine / theirs,
        "mismatched_tokens": float(wrong),
        "peer_mismatched_tokens": float(wrong_peer),
        "mixed_adapters_mismatched": float(mixed),
        "mixed_tokens_per_cpu_s": sum(lengths) / spent,
        **_swapped(SWAP_ANSWERS // 10 if quick else SWAP_ANSWERS),
        "parameters": float(sum(tensor.numel() for tensor in language.model.parameters())),
    }


def _timed(work: Callable[[], list[list[int]]]) -> tuple[list[list[int]], float]:
    """What it gives, and the CPU time that the whole process took for it, in s."""
    begun = time.process_time()
    found = work()
    return found, time.process_time() - begun


def _differing(found: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> int:
    """Tokens that differ, place by place; those after the first that does in an answer count too."""
    return sum(
        sum(a != b for a, b in zip(one, other, strict=False)) + abs(len(one) - len(other))
        for one, other in zip(found, expected, strict=True)
    )


def _generated(language: hub.Language, prompt: list[int], length: int) -> list[int]:
    model: Any = language.model
    found = model.generate(torch.tensor([prompt]), max_new_tokens=length, min_new_tokens=length, do_sample=False)
    return [int(token) for token in found[0, len(prompt) :]]


def _read(answers: Sequence[Answer]) -> list[list[int]]:
    return [[piece.token for piece in answer.wait() if piece.token is not None] for answer in answers]


def _answered(engine: Engine, prompts: Sequence[list[int]], lengths: Sequence[int]) -> list[list[int]]:
    pairs = zip(prompts, lengths, strict=True)
    return _read([engine.submit(p, Sampling(temperature=0.0, max_tokens=n, ignore_eos=True)) for p, n in pairs])


def _peer(language: hub.Language) -> Any:
    """transformers' manager of continuous batching, which a ``with`` starts: its start is not part of any figure."""
    model: Any = language.model
    how = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=LENGTHS[1])
    bounded = ContinuousBatchingConfig(
        page_size=32, num_blocks=64, max_batch_tokens=256, max_requests_per_batch=SLOTS, allow_block_sharing=False
    )
    return model.continuous_batching_context_manager(generation_config=how, continuous_batching_config=bounded)


def _answered_by_peer(manager: Any, prompts: Sequence[list[int]], lengths: Sequence[int]) -> list[list[int]]:
    pairs = zip(prompts, lengths, strict=True)
    names = [manager.add_request(prompt, max_new_tokens=length) for prompt, length in pairs]
    found: dict[str, list[int]] = {}
    while len(found) < len(names):
        result = manager.get_result(timeout=1.0)
        if result is not None and result.is_finished():
            found[result.request_id] = list(result.generated_tokens)
        elif result is None and not manager.is_running():
            raise RuntimeError("transformers' continuous batching stopped")
    return [found[name] for name in names]


def _mixed(language: hub.Language, prompts: Sequence[list[int]], lengths: Sequence[int]) -> tuple[int, float]:
    """Four adapters in turn over the prompts, together and each alone."""
    alone: list[list[int]] = [[] for _ in prompts]
    with Engine(language, slots=SLOTS, queue=REQUESTS, prefix_byte=0, threads=1) as engine:
        names = [f"domain@v{number}" for number in range(4)]
        for number, name in enumerate(names):
            engine.load_adapter(name, _adapter(language, number))

        def ask(index: int) -> Answer:
            how = Sampling(temperature=0.0, max_tokens=lengths[index], ignore_eos=True)
            return engine.submit(prompts[index], how, adapter=names[index % 4])

        together, spent = _timed(lambda: _read([ask(index) for index in range(len(prompts))]))
        for index in range(len(prompts)):
            alone[index] = _read([ask(index)])[0]
    return _differing(together, alone), spent


def _swapped(count: int) -> dict[str, float]:
    """Answers under load while the name of an adapter moves on from version to version."""
    language = _language(SHAPE.model_copy(update={"layers": 2, "width": 64, "heads": 2, "kv_heads": 1}))
    versions = [_adapter(language, number) for number in range(SWAP_VERSIONS)]
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, SHAPE.vocabulary, 48).tolist() for _ in range(4)]
    how = Sampling(temperature=0.0, max_tokens=12, ignore_eos=True)
    expected: dict[tuple[int, int], list[int]] = {}
    with Engine(language, slots=SLOTS, prefix_byte=0, threads=1) as engine:
        for number, version in enumerate(versions):
            engine.load_adapter(f"v{number}", version)
            for index, answer in enumerate([engine.submit(p, how, adapter=f"v{number}") for p in prompts]):
                expected[number, index] = _read([answer])[0]
    unmatched, asked = 0, []
    with Engine(language, slots=SLOTS, queue=64, threads=1) as engine:
        for number in range(count):
            current = number * 2 * SWAP_VERSIONS // count % SWAP_VERSIONS
            if number * 2 * SWAP_VERSIONS // count != (number - 1) * 2 * SWAP_VERSIONS // count or not number:
                engine.load_adapter("domain", versions[current], replace=number > 0)
            index = number % len(prompts)
            asked.append((current, index, engine.submit(prompts[index], how, adapter="domain")))
            if len(asked) >= 32:  # under load: 32 are under way when the next is asked for
                unmatched += _unmatched(asked.pop(0), expected)
        unmatched += sum(_unmatched(one, expected) for one in asked)
        hits = engine.stats().prefix_hits
    distinct = len({tuple(answer) for answer in expected.values()})
    if distinct < len(expected):
        raise RuntimeError("two versions answer alike: the figure would prove nothing")
    return {"swap_answers": float(count), "swap_unmatched": float(unmatched), "swap_prefix_hits": float(hits)}


def _unmatched(asked: tuple[int, int, Answer], expected: dict[tuple[int, int], list[int]]) -> bool:
    version, index, answer = asked
    return _read([answer])[0] != expected[version, index]


def _adapter(language: hub.Language, seed: int) -> LowRank:
    """Random factors on every linear layer but the head, large enough to change every answer."""
    rng = np.random.default_rng(100 + seed)
    layers = {
        name.removesuffix(".weight"): Factors(
            rng.standard_normal((RANK, tensor.shape[1]), np.float32) / np.float32(tensor.shape[1] ** 0.5),
            0.1 * rng.standard_normal((tensor.shape[0], RANK), np.float32),
        )
        for name, tensor in hub.weights(language.model)
        if name.endswith("_proj.weight")
    }
    return LowRank(layers, 2.0, language.digest)


def _language(shape: SmallModel) -> hub.Language:
    """Random weights, wide enough apart that no two tokens are nearly as likely; the vocabulary's whole size."""
    words = hub.tokenizer(("".join(map(chr, range(32, 127))),), 300, shape.context)
    made = hub.build(shape, words, seed=0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        made.model.resize_token_embeddings(shape.vocabulary, mean_resizing=False)
        for tensor in made.model.parameters():
            if tensor.ndim == 2:
                tensor.mul_(2.0)
    return hub.as_language(made.model, words, shape.context)
