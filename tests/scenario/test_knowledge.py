"""What is said of a knowledge loop that cannot be: the field, and what is allowed."""

from __future__ import annotations

import pytest

from gainnet.errors import ScenarioError
from gainnet.scenario.load import dump, load


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("knowledge.arm=none", 'knowledge.arm = "none": must be one of gainnet, flat, local, central'),
        ("knowledge.rankz=3", r"knowledge.rankz is not a field: .*did you mean 'ranks'"),
        ("knowledge.data.kind=foo", "knowledge.data: unknown data 'foo': one of recorded, synthetic"),
        ("knowledge.privacy=example", "knowledge.privacy = .* a section with the fields kind, epsilon"),
        ("knowledge.loss=2", "knowledge.loss = 2: must be a finite number at least 0 and at most 1"),
        ("knowledge.poison={edge: 9}", "knowledge.poison.edge = 9, but there are edges 0 to 3"),
        ("knowledge.poison={egde: 1}", r"knowledge.poison.egde is not a field: one of edge, .*did you mean 'edge'"),
        ("knowledge.aggregation=ffa", "edge_rank: ffa keeps the factors of ends"),
        ("knowledge.privacy.kind=update", "privacy.kind: .* so aggregation must be ffa"),
        ("knowledge.secure=true", "secure: masked sums are linear, so aggregation must be ffa"),
        ("knowledge.deadline_s=11", "deadline_s must be at most period_s"),
        ("knowledge.ranks=[4,32]", "edge_rank must be at least the largest of ranks"),
        ("knowledge.service=notes", "knowledge.service: 'notes' is no service of kind 'learning': learning"),
        (
            "knowledge.requests=pictures",
            "knowledge.requests: 'pictures' is no service of kind 'text': notes, assistant",
        ),
        ("knowledge.cards.end=llama-3.2-3b", "knowledge.cards.end: 'llama-3.2-3b' is not among demand.services.notes"),
        ("knowledge.foundation={kind: small, heads: 3}", "width must be a multiple of heads"),
    ],
)
def test_a_loop_that_cannot_be_is_refused_in_one_line(change: str, said: str) -> None:
    with pytest.raises(ScenarioError, match=said) as error:
        load("medical", [change])
    assert "\n" not in str(error.value)


def test_prompts_have_no_weight_where_examples_are_private() -> None:
    with pytest.raises(ScenarioError, match=r"prompt_weight: must be 0 where privacy\.kind is example"):
        load("medical", ["knowledge.privacy={kind: example}", "knowledge.prompt_weight=0.1"])


def test_a_loop_survives_being_written(tmp_path_factory: pytest.TempPathFactory) -> None:
    scenario = load("medical", ["knowledge.ranks=[4,8,16]", "knowledge.poison={edge: 1}"])
    path = tmp_path_factory.mktemp("written") / "medical.yaml"
    path.write_text(dump(scenario))
    assert load(str(path)) == scenario
