"""What the terminal shows of what was learnt."""

import io

import pytest
from rich.console import Console

from gainnet.apps import tables


def scores(own):
    return {"a": {"own": own, "other": 2 * own, "public": 4.0}, "b": {"own": 4 * own, "other": 2 * own, "public": 1.0}}


def knowledge(**changed):
    tiers = {"cloud": {"all": 9.0, "public": 2.0, "domain": {}}, "edges": scores(3.0)}
    found = {
        "arm": "gainnet", "uplink_bit": 22.5e6, "time_s": 41.0, "energy_j": 1500.0, "lines": ["one", "two"],
        "start": {"cloud": {"all": 800.0, "public": 2.0, "domain": {}}, "edges": scores(100.0)},
        "rounds": [{"figures": {**tiers, "up": scores(5.0)}}],
        "final": {"perplexity": 6.5, "rouge1": 0.41, "rouge2": 0.12, "rougeL": 0.384},
    }  # fmt: skip
    return found | changed


def printed(told):
    out = io.StringIO()
    console = Console(file=out, width=100)
    for table in tables._learnt(told):
        console.print(table)
    return [" ".join(line.split()) for line in out.getvalue().splitlines() if line.strip()]


def test_tiers_before_and_after_and_what_was_reached():
    lines = printed(knowledge())
    assert lines[0] == "perplexity (gainnet) own domain other domains public text"
    assert "edges 200 → 6 200 → 6 2 → 2" in lines
    assert "cloud 800 → 9 – 2 → 2" in lines
    assert "test perplexity 6.5" in lines
    assert "test ROUGE-1 / 2 / L 41.0 % / 12.0 % / 38.4 %" in lines
    assert "sent by ends 22.5 Mbit" in lines
    assert "lines in the report 2" in lines
    assert "learnt 1 round" in lines


@pytest.mark.parametrize("rounds", [[], knowledge()["rounds"]])
def test_a_run_that_was_stopped_says_so(rounds):
    told = knowledge(rounds=rounds)
    del told["final"]
    lines = printed(told)
    assert f"learnt {len(rounds)} round{'s' * (not rounds)}, not ended" in lines
    assert "test perplexity –" in lines


def text(table, width):
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return [line.split() for line in out.getvalue().splitlines() if line.strip(" ─")]


ROWS = [("price", "98.1", "1.2 s"), ("greedy", "97.0", "1.5 s")]


def test_rows_are_arms_where_that_fits():
    table = tables._fitting(40, ("arm", "satisfied", "p50"), ROWS, bold="price")
    assert text(table, 40) == [
        ["arm", "satisfied", "p50"],
        ["price", "98.1", "1.2", "s"],
        ["greedy", "97.0", "1.5", "s"],
    ]
    assert [row.style for row in table.rows] == ["bold", None]


def test_columns_are_arms_where_rows_would_be_too_wide():
    table = tables._fitting(24, ("arm", "satisfied", "p50"), ROWS, bold="price")
    assert text(table, 30) == [
        ["arm", "price", "greedy"],
        ["satisfied", "98.1", "97.0"],
        ["p50", "1.2", "s", "1.5", "s"],
    ]
    assert [column.style for column in table.columns] == ["", "bold", ""]
