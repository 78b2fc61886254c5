"""What learning costs beside its arithmetic: a step over the same step written directly in PEFT and transformers, in one
process; and a round of 20 ends that share one frozen base, in memory and in time outside training and evaluation.

Steps have the same texts, batches, lengths, weights and optimiser; they take turns, so that a busy machine slows all,
and the ratio is that of the CPU time of all turns' medians.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from threadpoolctl import threadpool_limits

from gainnet.knowledge import aggregate, score
from gainnet.knowledge import setting as settings
from gainnet.knowledge.arm import Links
from gainnet.knowledge.arms import build
from gainnet.knowledge.batch import collate
from gainnet.knowledge.compress import Encoder, decode
from gainnet.knowledge.split import SplitTuner
from gainnet.knowledge.text import Encoded
from gainnet.knowledge.tuning import Tuner
from gainnet.models import hub
from gainnet.models.adapter import SCALE, Adapters
from gainnet.models.low_rank import LowRank
from gainnet.scenario.knowledge import Compression, SmallModel
from gainnet.scenario.load import load

MEANING = {
    "local_step_ratio": "CPU time of a tuning step through Tuner over the same written in PEFT and transformers",
    "local_step_s": "CPU time of a tuning step through Tuner",
    "split_step_ratio": "CPU time of a split tuning step (cut after layers 2 and 4, nothing compressed) over the direct one",
    "split_step_s": "CPU time of a split tuning step",
    "direct_step_s": "CPU time of the same step written in PEFT and transformers",
    "loss_difference": "largest difference of the trainings' losses: they do the same",
    "round.ends": "ends of a federated round of a model of round.parameters numbers",
    "round.overhead_s": "CPU time of a round outside training, evaluation, sampling: median after the first; at most 0.2",
    "round.first_overhead_s": "the same of a run's first round, with what is done before it (models judged)",
    "round.inside_s": "CPU time of these, median of the same rounds",
    "round.base_byte": "the frozen base",
    "round.growth_byte": "by how much peak memory grew in these rounds: far below 20 bases",
    "round.peak_byte": "peak memory of the process",
    "recorded_round.overhead_s": "the same of a model of the shape that learns from MTS-Dialog (`gainnet bench medical`)",
    "recorded_round.first_overhead_s": "the same of its first round",
    "recorded_round.inside_s": "CPU time inside, median of the same rounds",
    "recorded_round.parameters": "numbers of that model; the text here has fewer words, layers are the same",
    "model_round.overhead_s": "the same of the foundation model in --model, if there is one",
    "model_round.first_overhead_s": "the same of its first round",
    "model_round.inside_s": "CPU time inside, median of the same rounds",
    "model_round.parameters": "numbers of that model",
    "small_round.overhead_s": "the same of the medical scenario's own small model",
    "small_round.first_overhead_s": "the same of its first round",
    "small_round.inside_s": "CPU time inside, median of the same rounds",
}
SHAPE = SmallModel(layers=6, width=384, heads=6, kv_heads=2, vocabulary=4096, context=512)
RANK, BATCH, STEPS, RATE = 8, 8, 4, 1e-3
CUT = (2, 4)
ENDS, EDGES = 20, 4
ROUNDS = 5
MODEL = "knowledge.foundation={kind: small, layers: 10, width: 384, heads: 6, kv_heads: 2, context: 128, steps: 0}"
RECORDED_MODEL = (
    "knowledge.foundation={kind: small, layers: 6, width: 384, heads: 6, kv_heads: 2, vocabulary: 4096, context: 128, "
    "steps: 0}"
)
SMALL_MODEL = "knowledge.foundation={kind: small, context: 128, steps: 0}"
ROUND = (
    "knowledge.end_model={kind: small, layers: 2, width: 64, heads: 2, kv_heads: 1, context: 128, steps: 0}",
    "knowledge.data={kind: synthetic, train: 84, held: 8, public: 64}",  # dealt unevenly: of 40, two ends have none
    "knowledge.held=2",
    "knowledge.public_held=2",
    "knowledge.distillation={samples: 4, steps: 1}",
    "knowledge.rehearsal.texts=2",
    "knowledge.split=never",
)
TIMES = ("round.overhead_s", "round.first_overhead_s", "round.inside_s")
NOTE = 48
"""Tokens of a note; a text has 64 to 256 of them in all."""


def figures(model: Path | None = None, quick: bool = False) -> dict[str, float]:
    """The figures of MEANING.

    Args:
        model: a foundation model made by `gainnet pretrain`, whose rounds are timed too.
        quick: fewer turns.
    """
    torch.set_num_threads(1)
    texts = _texts(BATCH * STEPS)
    words = hub.tokenizer(("".join(map(chr, range(32, 127))),), 300, SHAPE.context)
    tuner = Tuner(_language(words), [RANK])
    start = tuner.adapters.fresh(RANK, np.random.default_rng(0))
    plain = _Direct(_language(words), tuner.adapters, start)
    split = SplitTuner(tuner)
    through, cut, direct, differences = [], [], [], []
    turns = 3 if quick else 7
    for turn in range(turns):
        sys.stderr.write(f"tuning: steps, turn {turn + 1} of {turns}\n")
        begun = time.process_time()
        tuned = tuner.tune(start, texts, epochs=1, batch=BATCH, learning_rate=RATE, rng=np.random.default_rng(turn))
        between = time.process_time()
        apart = split.tune(
            start, texts, epochs=1, batch=BATCH, learning_rate=RATE, rng=np.random.default_rng(turn), factors="ab",
            cut=CUT, compression=Compression(activation_bits=32),
        )  # fmt: skip
        middle = time.process_time()
        loss = plain.train(texts, np.random.default_rng(turn))
        ended = time.process_time()
        if turn:  # the first warms up
            through.append((between - begun) / STEPS)
            cut.append((middle - between) / STEPS)
            direct.append((ended - middle) / STEPS)
        differences.append(max(abs(tuned.loss - loss), abs(apart.tuned.loss - loss)))
    local, halves, written = (float(np.median(found)) for found in (through, cut, direct))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as alone:  # peak memory is a process's
        found = alone.submit(_round, MODEL, 2 if quick else ROUNDS).result()
        recorded = alone.submit(_round, RECORDED_MODEL, 2 if quick else ROUNDS).result()
        given = {} if model is None else alone.submit(_round, _pretrained(model), 2 if quick else ROUNDS).result()
        little = alone.submit(_round, SMALL_MODEL, 3 if quick else 8).result()
    return {
        "local_step_ratio": local / written,
        "local_step_s": local,
        "split_step_ratio": halves / written,
        "split_step_s": halves,
        "direct_step_s": written,
        "loss_difference": max(differences),
        **found,
        **{f"recorded_{name}": recorded[name] for name in (*TIMES, "round.parameters")},
        **{f"model_{name}": given[name] for name in (*TIMES, "round.parameters") if given},
        **{f"small_{name}": little[name] for name in TIMES},
    }


def _pretrained(folder: Path) -> str:
    return f"knowledge.foundation={{kind: pretrained, name: {folder.resolve()}, context: 128}}"


def _round(model: str, count: int) -> dict[str, float]:
    """Some whole rounds, on one thread as a loop's are."""
    torch.set_num_threads(1)
    with threadpool_limits(limits=1, user_api="blas"):
        return _rounds(model, count)


def _rounds(model: str, count: int) -> dict[str, float]:
    """Ends train and send, edges and the cloud join, judge, distil and hand down."""
    config = load("medical", (model, *ROUND)).knowledge
    assert config is not None
    setting = settings.build(config, 0, np.arange(ENDS) % EDGES, EDGES, lambda *_: None)
    _compiled(setting.tuner.adapters)
    arm, watch = build(setting), _Stopwatch()
    for tuner in (setting.tuner, setting.small):
        for name in ("tune", "losses", "answer", "sample", "top"):
            setattr(tuner, name, watch.around(getattr(tuner, name)))
    base = [weight for name, weight in setting.language.model.named_parameters() if "lora_" not in name]
    parameters = float(sum(weight.numel() for weight in base))
    plenty = np.full(ENDS, 1e12)
    before, outside, inside = _peak_byte(), [], []
    with patch.object(score, "rouge1", watch.around(score.rouge1)):
        for number in range(count):
            sys.stderr.write(f"tuning: {parameters / 1e6:.1f} M parameters, round {number + 1} of {count}\n")
            begun, watched = time.process_time(), watch.total_s
            if not number:
                arm.start()  # as a loop does before its first round
            asks = arm.ask(number, Links(*[plenty] * 6))
            assert len(asks) == ENDS, "some ends have nothing to learn from"
            for ask in asks:
                arm.arrived(number, ask, 0)
            arm.close(number)
            inside.append(watch.total_s - watched)
            outside.append(time.process_time() - begun - inside[-1])
    after = _peak_byte()
    return {
        "round.ends": float(len(asks)),
        "round.parameters": parameters,
        "round.overhead_s": float(np.median(outside[1:])),
        "round.first_overhead_s": outside[0],
        "round.inside_s": float(np.median(inside[1:])),
        "round.base_byte": float(sum(weight.numel() * weight.element_size() for weight in base)),
        "round.growth_byte": after - before,
        "round.peak_byte": after,
    }


def _compiled(adapters: Adapters) -> None:
    """Have what is compiled at its first call compiled, or read from the disk."""
    drawn = [adapters.fresh(16, np.random.default_rng(seed)) for seed in range(4)]
    decode(Encoder(4).encode(drawn[0], drawn[1], np.random.default_rng(0)).data, drawn[0])
    aggregate.total(drawn[0], [(1.0, other) for other in drawn[1:]], 16).halved()


def _peak_byte() -> float:
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class _Stopwatch:
    """CPU time inside some functions, none of which calls another."""

    def __init__(self) -> None:
        self.total_s = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, watched."""

        def watched(*given: Any, **named: Any) -> Any:
            begun = time.process_time()
            try:
                return function(*given, **named)
            finally:
                self.total_s += time.process_time() - begun

        return watched


class _Direct:
    """The training as one writes it without gainnet."""

    def __init__(self, language: hub.Language, adapters: Adapters, start: LowRank) -> None:
        kinds = sorted({name.rpartition(".")[2] for name in adapters.layers})
        config = LoraConfig(r=RANK, lora_alpha=int(SCALE * RANK), target_modules=kinds, task_type="CAUSAL_LM")
        with warnings.catch_warnings():  # PEFT still asks transformers by a name that was changed
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            self._model: Any = get_peft_model(language.model, config).eval()
        self._start = start
        self._weights = {name: p for name, p in self._model.named_parameters() if p.requires_grad}

    def train(self, texts: list[Encoded], rng: np.random.Generator) -> float:
        """Mean loss of an epoch from the start's weights."""
        for name, weight in self._weights.items():
            factors = self._start.layers[name.removeprefix("base_model.model.").rpartition(".lora_")[0]]
            weight.data.copy_(torch.from_numpy(factors.a if "lora_A" in name else factors.b))
        optimiser = torch.optim.AdamW(self._weights.values(), RATE, weight_decay=0.0, fused=True)
        order, total, counted = rng.permutation(len(texts)), 0.0, 0
        for first in range(0, len(order), BATCH):
            side = collate([texts[index] for index in order[first : first + BATCH]])
            token, mask = side.rectangle(0)
            labels = torch.full_like(token, -100)
            labels[side.row, side.position[side.at] + 1] = side.target
            loss = self._model(input_ids=token, attention_mask=mask, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._weights.values(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            total += float(loss.detach()) * len(side.target)
            counted += len(side.target)
        return total / counted


def _language(words: Any) -> hub.Language:
    """The same random weights each time, of the vocabulary's whole size."""
    made = hub.build(SHAPE, words, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made.model.resize_token_embeddings(SHAPE.vocabulary, mean_resizing=False)
    return hub.as_language(made.model, words, SHAPE.context)


def _texts(count: int) -> list[Encoded]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(64, 257, count)
    return [Encoded(rng.integers(3, SHAPE.vocabulary, length), int(length) - NOTE) for length in lengths]
