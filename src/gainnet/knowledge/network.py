"""The network as the knowledge loop sees it: whom it may ask, over which links, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from gainnet.execution.outcome import Outcomes, Result
from gainnet.knowledge.arm import Ask, Links
from gainnet.models import card
from gainnet.network import compute
from gainnet.network.compute_kernel import train_s
from gainnet.network.state import Tier
from gainnet.orchestrator.stage_kernel import TRAIN_BATCH_TOKEN
from gainnet.run import Run, home_edges
from gainnet.scenario.demand import Learning
from gainnet.scenario.scenario import Scenario


class Network:
    """A run, for its knowledge loop.

    Args:
        run: the run.
        scenario: with a knowledge loop.

    Attributes:
        edge_of: the edge that each end belongs to: where its cell was when the run began.
    """

    def __init__(self, run: Run, scenario: Scenario) -> None:
        assert scenario.knowledge is not None, "only for a scenario with a knowledge loop"
        self._run, self._config = run, scenario.knowledge
        self._service = list(scenario.demand.services).index(self._config.service)
        service = scenario.demand.services[self._config.service]
        assert isinstance(service, Learning), "validated with the scenario"
        self._nodes = compute.build(scenario.network, clouds=run.network.topology.clouds, edges=scenario.network.edges)
        self._end_token_per_s = _trained_per_s(scenario, service.models[0], self._nodes)
        self._edges = np.flatnonzero(self._nodes.tier == Tier.EDGE)
        self.edge_of = home_edges(scenario)

    def links(self) -> Links:
        """The links and machines of ends, as far as they are known now."""
        uplink, downlink = self._run.link_rates()
        nodes = self._nodes
        ends = nodes.tier == Tier.END
        memory_byte = nodes.memory_byte[ends]
        if self._config.memory_byte:
            memory_byte = np.minimum(memory_byte, np.resize(self._config.memory_byte, len(memory_byte)))
        return Links(
            uplink_bit_per_s=uplink,
            downlink_bit_per_s=downlink,
            end_flop_per_s=nodes.flop_per_s[ends],
            edge_flop_per_s=nodes.flop_per_s[self._edges][self.edge_of],
            end_memory_byte=memory_byte,
            end_token_per_s=self._end_token_per_s,
        )

    def ask(self, asks: Sequence[Ask], deadline_s: float) -> float:
        """Put a round's tasks into the demand of the coming frame; returns when that begins."""
        return self._run.demand.ask(
            self._service,
            np.array([ask.end for ask in asks]),
            deadline_s=deadline_s,
            prompt_token=np.array([ask.train_token for ask in asks]),
            output_token=np.array([ask.edge_token for ask in asks]),
            uplink_bit=np.array([ask.uplink_bit for ask in asks]),
            downlink_bit=np.array([ask.downlink_bit for ask in asks]),
        )

    def learnt(self, outcomes: Outcomes) -> Iterator[tuple[int, float, Result, float]]:
        """End, time of asking, result and energy of the round's tasks that ended, in the order of tasks."""
        mine = np.flatnonzero(outcomes.service == self._service)
        for row in mine[np.argsort(outcomes.task_id[mine])].tolist():
            yield (
                int(outcomes.user[row]),
                float(outcomes.arrival_s[row]),
                Result(int(outcomes.result[row])),
                float(outcomes.energy_j[row]),
            )

    def set_quality(self, quality: Mapping[str, float]) -> None:
        """From the next frame on, the models that answer requests are as good as this, by tier."""
        for tier, value in quality.items():
            self._run.set_quality(getattr(self._config.cards, tier), value)

    def backhaul_s(self, bit: float) -> float:
        """How long it takes the edges to send their parts of so many bits to the cloud, side by side."""
        share = bit / max(len(self._edges), 1)
        return max((self._run.transfer_s(int(edge), 0, share) for edge in self._edges), default=0.0)


def _trained_per_s(scenario: Scenario, model: str, nodes: compute.Nodes) -> Float[np.ndarray, " end"]:
    """Tokens a second that the machine of each end trains an adapter of the model on, with nothing else to do."""
    cards = card.build(scenario.artifacts, scenario.models)
    row = cards.names.index(model)
    flop, byte = 2.0 * float(cards.flop_per_token[row]), float(cards.size_byte[row])  # the base is frozen
    ends = np.flatnonzero(nodes.tier == Tier.END).tolist()
    rates = zip(nodes.flop_per_s[ends].tolist(), nodes.byte_per_s[ends].tolist(), strict=True)
    return np.array([1.0 / train_s(1.0, TRAIN_BATCH_TOKEN, flop, byte, *rate) for rate in rates])
