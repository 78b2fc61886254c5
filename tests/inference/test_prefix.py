"""Beginnings are computed once, kept within a budget, and never shared between tenants or adapter versions."""

from __future__ import annotations

import torch
from served import adapter, generated, greedy, language, merged, prompts, read

from gainnet.inference.batch import Rows
from gainnet.inference.engine import Engine
from gainnet.inference.prefix import BLOCK, Prefixes

PROMPT = prompts(1, longest=1, seed=0)[0] * 3 + list(range(10, 50))


def test_a_longer_prompt_goes_on_from_what_was_kept_and_answers_the_same() -> None:
    made = language()
    with Engine(made, threads=1) as engine:
        first = engine.submit(PROMPT, greedy(20, ignore_eos=True))
        answer = read(first)
        assert first.cached_tokens == 0
        longer = [*PROMPT, *answer[:15], 7, 8]
        second = engine.submit(longer, greedy())
        assert read(second) == generated(made, longer)
        assert second.cached_tokens == (len(PROMPT) + 15) // BLOCK * BLOCK
        again = engine.submit(PROMPT[: 2 * BLOCK], greedy())
        assert read(again) == generated(made, PROMPT[: 2 * BLOCK])
        assert again.cached_tokens == BLOCK  # one token at least is computed
        stats = engine.stats()
    assert (stats.prefix_queries, stats.prefix_hits) == (3, 2)
    assert stats.prefix_hit_tokens == second.cached_tokens + again.cached_tokens


def test_nothing_is_shared_between_tenants_or_adapter_versions() -> None:
    made = language()
    one, other = adapter(made, 1), adapter(made, 2)
    with Engine(made, threads=1) as engine:
        engine.load_adapter("a", one)
        engine.load_adapter("b", other)
        found = {}
        for turn in range(2):
            for tenant in ("north", "south"):
                for name in (None, "a", "b"):
                    answer = engine.submit(PROMPT, greedy(), tenant=tenant, adapter=name)
                    found[tenant, name] = read(answer)
                    assert answer.cached_tokens == (0 if turn == 0 else len(PROMPT) // BLOCK * BLOCK)
        engine.load_adapter("a", other, replace=True)
        replaced = engine.submit(PROMPT, greedy(), tenant="north", adapter="a")
        assert read(replaced) == found["north", "b"]  # the same version by another name
        assert replaced.cached_tokens > 0
    for (_, name), answer in found.items():
        assert answer == generated({None: made, "a": merged(made, one), "b": merged(made, other)}[name], PROMPT)


def _rows() -> Rows:
    rows = Rows(2, 3, 4 * BLOCK, 1, 2)
    rows.key[:, 0] = torch.arange(4 * BLOCK)[None, :, None, None].float()
    rows.value[:, 0] = -rows.key[:, 0]
    return rows


def _texts(*blocks: int) -> list[int]:
    return [block for block in blocks for _ in range(BLOCK)]


def test_the_longest_unused_ends_are_dropped_first() -> None:
    rows = _rows()
    kept = Prefixes(rows, 3 * BLOCK * rows.byte_token)
    owner = ("", "")
    kept.keep(owner, _texts(1, 2, 3), 0)
    assert kept.byte == 3 * BLOCK * rows.byte_token
    assert kept.take(owner, [*_texts(1, 2, 3), 9], 1) == 3 * BLOCK
    torch.testing.assert_close(rows.key[:, 1, : 3 * BLOCK], rows.key[:, 0, : 3 * BLOCK])
    torch.testing.assert_close(rows.value[:, 1, : 3 * BLOCK], rows.value[:, 0, : 3 * BLOCK])
    kept.keep(owner, _texts(1, 4), 0)
    assert kept.take(owner, [*_texts(1, 2, 3), 9], 1) == 2 * BLOCK
    assert kept.take(owner, [*_texts(1, 4), 9], 1) == 2 * BLOCK
    kept.keep(owner, _texts(5, 6, 7), 0)
    assert kept.take(owner, [*_texts(1, 4), 9], 1) == 0
    assert kept.take(owner, [*_texts(5, 6, 7), 9], 1) == 3 * BLOCK
    assert kept.byte == 3 * BLOCK * rows.byte_token


def test_what_belongs_to_a_version_is_forgotten_with_it() -> None:
    rows = _rows()
    kept = Prefixes(rows, 1 << 20)
    for tenant in "ab":
        for digest in ("x", "y"):
            kept.keep((digest, tenant), _texts(1, 2), 0)
    kept.forget("x")
    assert [kept.take((digest, "a"), _texts(1, 2, 3), 1) for digest in ("x", "y")] == [0, 2 * BLOCK]
    assert kept.byte == 4 * BLOCK * rows.byte_token


def test_without_a_budget_nothing_is_kept() -> None:
    kept = Prefixes(_rows(), 0)
    kept.keep(("", ""), _texts(1, 2), 0)
    assert kept.byte == 0
