"""What a person writes about the knowledge loop: the models, their data, how they learn, and what they are judged by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gainnet.scenario.quantity import Count, Fraction, ModelName, NonNegative, Positive, PositiveFraction, Section


class SmallModel(Section):
    """A Llama-shaped model built here, with a byte-level BPE tokenizer trained on the public text.

    ``steps`` batches of ``batch`` texts of ``context`` tokens pre-train it on that text.
    """

    kind: Literal["small"] = "small"
    layers: Count = 3
    width: Count = 128
    heads: Count = 4
    kv_heads: Count = 2
    vocabulary: Annotated[int, Field(ge=300, le=65_536)] = 1024
    context: Annotated[int, Field(ge=32)] = 256
    steps: Annotated[int, Field(ge=0)] = 250
    batch: Count = 8
    learning_rate: Positive = 3e-3

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads or self.heads % self.kv_heads:
            raise ValueError("width must be a multiple of heads, and heads of kv_heads")
        return self


class Pretrained(Section):
    """A causal language model of Hugging Face's format: a folder or, where a hub can be reached, a name. Safetensors only."""

    kind: Literal["pretrained"] = "pretrained"
    name: ModelName
    context: Annotated[int, Field(ge=32)] = 512


Foundation = Annotated[SmallModel | Pretrained, Field(discriminator="kind")]


class Synthetic(Section):
    """Doctor-patient dialogues and their notes, made up from facts that are drawn anew for each."""

    kind: Literal["synthetic"] = "synthetic"
    train: Count = 256
    held: Count = 32
    public: Count = 1024


class Recorded(Section):
    """Dialogues and notes from files, and public text; see `gainnet.knowledge.corpus` for the formats.

    ``path`` is a folder with train, validation and test files (MTS-Dialog as published) or one CSV or JSONL file.
    ``dialogue``, ``note`` and ``section`` are its columns; ``section: null`` is for data that have none.
    ``domains`` groups note sections into one domain for each edge; by default MTS-Dialog's own groups, or sections
    dealt out by size, the largest shared by several edges where there are fewer than these.
    """

    kind: Literal["recorded"] = "recorded"
    path: Path
    public: Path | None = None
    dialogue: str = "dialogue"
    note: str = "section_text"
    section: str | None = "section_header"
    domains: dict[str, tuple[str, ...]] = Field(default={})


Data = Annotated[Synthetic | Recorded, Field(discriminator="kind")]


class Compression(Section):
    """How what is sent is made small.

    Updates are quantised to ``update_bits`` a number with stochastic rounding (what is lost is added to the next, where
    factors have a basis in common: ``aggregation: ffa``), and a factor of an adapter's layer is sent only where it moved by
    more than ``update_change`` of its norm; links are booked for all of them, before it is known. Edges send the cloud their
    whole adapter at twice these bits (at most 16, or 32), or its change under ``ffa``. Activations of split training
    are quantised to ``activation_bits``, and one is sent anew only where it moved by more than ``activation_change`` of its
    norm since an earlier epoch of the round.
    """

    update_bits: Literal[2, 4, 8, 16, 32] = 4
    update_change: Fraction = 0.0
    activation_bits: Literal[4, 8, 16, 32] = 8
    activation_change: Fraction = 0.0


class Distillation(Section):
    """Data-free distillation: texts that models sample themselves, taught by whoever is better at them."""

    samples: Annotated[int, Field(ge=0)] = 48
    steps: Annotated[int, Field(ge=0)] = 20
    learning_rate: Positive = 5e-3
    top_k: Count = 16


class Rehearsal(Section):
    """What the cloud does so that the foundation model keeps what it knew.

    It goes over public text after each merge, beside what edges made up.
    """

    texts: Annotated[int, Field(ge=0)] = 64
    learning_rate: Positive = 5e-4


class Privacy(Section):
    """Differential privacy of ends: of each update, or of each example of an end (DP-SGD through Opacus).

    ``epsilon`` is what the whole run may spend at ``delta``; the clipping norm adapts to the quantile
    ``clip_quantile`` of the norms that it sees.
    """

    kind: Literal["none", "update", "example"] = "none"
    epsilon: Positive = 8.0
    delta: Annotated[float, Field(gt=0.0, lt=0.1)] = 1e-3
    clip: Positive = 1.0
    clip_quantile: PositiveFraction = 0.5


class Robust(Section):
    """How the cloud joins what edges send: their mean, or a rule that survives some of them being hostile.

    ``judged`` is the mean of those that make the model better on their own domain's held-out notes, which the cloud has
    for its gate; the others are named. The rest look at geometry only, and take what most edges share.
    """

    kind: Literal["mean", "judged", "trimmed", "krum", "fltrust"] = "judged"
    hostile_max: Annotated[int, Field(ge=0)] = 1


class Poison(Section):
    """An edge that sends what it learnt flipped in sign and scaled, from a round on."""

    edge: Annotated[int, Field(ge=0)]
    scale: Positive = 5.0
    from_round: Annotated[int, Field(ge=0)] = 0


class Gate(Section):
    """What a candidate must hold to be promoted over the champion.

    ``loss_max`` is the floor: the largest mean loss (nat a token) on held-out notes. A candidate may lose at most
    ``domain_drop`` of perplexity on any domain's held-out data and ``public_drop`` on public text; and answer within
    ``latency_s`` and ``memory_byte`` where they are given.
    """

    loss_max: Positive = 12.0
    domain_drop: NonNegative = 0.02
    public_drop: NonNegative = 0.01
    latency_s: Positive | None = None
    memory_byte: Positive | None = None


class Incentive(Section):
    """Payment of edges by what they contribute: ``budget`` a round; ``cost`` is what taking part costs an edge."""

    budget: NonNegative = 1.0
    cost: NonNegative = 0.01
    permutations: Count = 8


class Writing(Section):
    """How the notes that are scored at the end are written.

    ``greedy``: the likeliest token, one after another. The others draw ``samples`` notes at ``temperature`` first:
    ``consensus`` takes the one that agrees best with all, ``extract`` the sentences of the dialogue that do, ``best`` in
    each domain whichever of these two writes its held-out notes better.
    """

    way: Literal["greedy", "consensus", "extract", "best"] = "greedy"
    samples: Annotated[int, Field(ge=2, le=64)] = 8
    temperature: Positive = 0.7


class Tiers(Section):
    """The cards of the models that answer requests at each tier; their quality follows what the loop measures."""

    end: str = "notes-end"
    edge: str = "notes-edge"
    cloud: str = "notes-cloud"


class Knowledge(Section):
    """The knowledge loop.

    Attributes:
        arm: ``gainnet``: ends, edges and cloud; ``flat``: two tiers, FedIT; ``local``: no exchange; ``central``: all
            data in one place.
        service: name of the learning service of the demand, whose tasks the rounds are.
        requests: name of the text service whose requests the models answer.
        cards: the models that answer them.
        closed: whether anything is learnt; False is the same network with the loop switched off.
        foundation: the cloud's model, which everyone adapts.
        end_model: the small one that ends answer with.
        data: what is learnt from.
        rounds: how many at most, as far as the run lasts.
        period_s: from the start of a round to that of the next.
        deadline_s: after the start of a round its tasks are due; what comes later counts half in the next one.
        starts: a round starts at every period, or only where edges have new data or see their loss rise (drift).
        arriving: part of each end's examples that arrive in the course of the run, evenly over the rounds.
        participation: part of each edge's ends that take part in a round.
        loss: part of the participants that are lost in a round, besides what the network loses.
        ranks: of the ends' adapters, dealt out in turn.
        edge_rank: of what edges and the cloud keep.
        memory_byte: what ends give to training, dealt out in turn; none is all that their machines have.
        local_epochs: how often an end goes over its data in a round.
        batch: examples a step.
        learning_rate: of AdamW, constant.
        prompt_weight: of the loss of a dialogue's own tokens beside that of its note.
        renamed: part of the examples, drawn anew in each round, of which words that dialogue and note share are changed for
            others (`gainnet.knowledge.renaming`).
        split: whether an end leaves its middle layers to its edge: where that is what fits or is faster, never, or always.
        aggregation: the rule by which an edge joins its ends, and the cloud its edges: ``flexlora`` (products, cut to a rank),
            ``flora`` (stacks, exact), ``ffa`` (one frozen a, exact) or ``fedit`` (factors apart, the baseline).
        secure: ends mask what they send, so that their edge learns the sum only; needs ``ffa``.
        compression: how what is sent is made small.
        distillation: what the cloud learns from edges, and ends' models from theirs, without data of anybody.
        rehearsal: public text that the cloud goes over again, so that it is kept.
        privacy: noise on updates or on examples, and how much may be spent.
        robust: the rule by which the cloud takes edges together where some may lie.
        poison: one edge that lies, for trials.
        gate: what a candidate must hold to become the champion.
        incentive: what ends are paid for.
        registry: address of an MLflow registry that versions are brought to at the end, besides the folder of the run.
        writing: how notes are written when the end is scored.
        reach: how far an edge may go along what its ends sent, and the cloud along what edges sent, 1 being the mean;
            held-out notes choose among these, and an edge may also stay where it is.
        kept: what an edge may keep of its own beside the cloud's knowledge; its held-out data choose among these.
        begins: what an edge's ends begin a round with: what answers its domain (``own``), or the best of what the cloud's
            last round made, promoted or not (``shared``): all domains learn one model together, and each edge answers with
            what of it, and of what it makes of it, is best for its own.
        held: held-out notes of a domain that decisions are judged on, at most.
        public_held: the same of public text, in pieces.
        test: notes that are written for each score at the end, 0 for all.
        bf16: multiply in bfloat16 where models learn and are judged, which pays on GPUs and on processors that can; adapters
            stay in float32.
        device: where models learn and answer: cpu, cuda, cuda:1, mps. Only on the CPU are results the same bit for bit.
    """

    arm: Literal["gainnet", "flat", "local", "central"] = "gainnet"
    service: str = "learning"
    requests: str = "notes"
    cards: Tiers = Tiers()
    closed: bool = True
    foundation: Foundation = SmallModel()
    end_model: SmallModel = SmallModel(layers=2, width=64, heads=2, kv_heads=1, steps=150)
    data: Data = Synthetic()
    rounds: Count = 5
    period_s: Positive = 10.0
    deadline_s: Positive = 8.0
    starts: Literal["period", "drift"] = "period"
    arriving: Fraction = 0.0
    participation: PositiveFraction = 1.0
    loss: Fraction = 0.0
    ranks: Annotated[tuple[Count, ...], Field(min_length=1)] = (8,)
    edge_rank: Count = 16
    memory_byte: tuple[Positive, ...] = ()
    local_epochs: Count = 1
    batch: Count = 2
    learning_rate: Positive = 5e-3
    prompt_weight: NonNegative = 0.0
    renamed: Fraction = 0.0
    split: Literal["auto", "never", "always"] = "auto"
    aggregation: Literal["fedit", "ffa", "flexlora", "flora"] = "flexlora"
    secure: bool = False
    reach: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    kept: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.0, 0.5, 1.0)
    begins: Literal["own", "shared"] = "own"
    compression: Compression = Compression()
    distillation: Distillation = Distillation()
    rehearsal: Rehearsal = Rehearsal()
    privacy: Privacy = Privacy()
    robust: Robust = Robust()
    poison: Poison | None = None
    gate: Gate = Gate()
    incentive: Incentive = Incentive()
    registry: str | None = None
    writing: Writing = Writing()
    held: Count = 24
    public_held: Count = 16
    test: Annotated[int, Field(ge=0)] = 0
    bf16: bool = False
    device: Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$")] = "cpu"

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.deadline_s > self.period_s:
            raise ValueError("deadline_s must be at most period_s: a round ends before the next begins")
        if self.arm != "gainnet":
            for name, asked in (
                ("privacy.kind: update", self.privacy.kind == "update"),
                ("secure", self.secure),
                ("starts: drift", self.starts == "drift"),
            ):
                if asked:
                    raise ValueError(f"{name} is for arm gainnet, not {self.arm}")
        if self.arm == "central" and self.privacy.kind == "example":
            raise ValueError("privacy.kind: example is for ends that learn themselves; of arm central none does")
        if self.split == "always" and (self.secure or self.privacy.kind == "example"):
            raise ValueError("split: always shows edges what secure and privacy.kind example hide; auto or never")
        if self.secure and self.aggregation != "ffa":
            raise ValueError("secure: masked sums are linear, so aggregation must be ffa")
        if self.aggregation == "ffa" and self.robust.kind == "trimmed":
            raise ValueError("robust.kind: trimmed joins products, which do not share the factor that ffa freezes")
        if self.privacy.kind == "update" and self.aggregation != "ffa":
            raise ValueError("privacy.kind: the noise of updates is on factors that add, so aggregation must be ffa")
        if self.privacy.kind == "example" and self.prompt_weight:
            raise ValueError("prompt_weight: must be 0 where privacy.kind is example, whose loss is that of notes")
        if self.aggregation in ("ffa", "fedit") and set(self.ranks) != {self.edge_rank}:
            raise ValueError(f"edge_rank: {self.aggregation} keeps the factors of ends, so it must be their rank")
        if max(self.ranks) > self.edge_rank:
            raise ValueError("edge_rank must be at least the largest of ranks")
        return self
