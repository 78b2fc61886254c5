"""The image engine: the same drawing is the same image, whatever is drawn beside it; steps are shared only as is said."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import CancelledError
from dataclasses import replace

import numpy as np
import pytest
import torch

from gainnet.errors import InputError
from gainnet.inference.images.engine import ImageEngine
from gainnet.inference.images.request import Drawing, Drawn, HalfDrawn, Sharing
from gainnet.inference.images.rows import noise
from gainnet.inference.request import EngineStopped, QueueFull
from painted import model

PATIENCE_S = 120.0
ONE = Drawing("one", steps=6, seed=1)


def pixels(drawn: Drawn) -> np.ndarray:
    assert drawn.pixels is not None
    return drawn.pixels


def test_a_drawing_is_the_same_whatever_is_drawn_beside_it() -> None:
    with ImageEngine(model(), threads=1, slots=5, width=3) as engine:
        alone = pixels(engine.submit(ONE).wait(PATIENCE_S))
        others = [Drawing("two", steps=4 + k, images=2, seed=k) for k in range(4)]
        first, *_ = [engine.submit(drawing) for drawing in (others[0], ONE, *others[1:])]
        beside = [engine.submit(drawing) for drawing in (ONE, others[3], ONE)]
        for painting in (beside[0], beside[2]):
            assert np.array_equal(pixels(painting.wait(PATIENCE_S)), alone)
        assert first.wait(PATIENCE_S).evaluations == 2 * 4
        assert (first.done, first.steps) == (8, 8)
        different = pixels(engine.submit(Drawing("one", steps=6, seed=2)).wait(PATIENCE_S))
        assert not np.array_equal(different, alone)
        several = pixels(engine.submit(Drawing("one", steps=6, seed=1, images=3)).wait(PATIENCE_S))
        assert np.array_equal(several[:1], alone)
        assert len({image.tobytes() for image in several}) == 3
        drawn = engine.submit(Drawing("two", steps=2))
        assert drawn.wait(PATIENCE_S).shared == 0
        assert alone.shape == (1, 4, 4, 1)


def test_it_draws_what_the_steps_draw() -> None:
    made = model()
    with ImageEngine(made, width=1, eta=0.5, threads=1) as engine:
        found = pixels(engine.submit(ONE).wait(PATIENCE_S))
    with torch.inference_mode():
        given, latent = made.condition("one"), noise(1, 0, 0, made.latent)[None]
        for place, step in enumerate(made.schedule(6)):
            latent = made.step(latent, [step], [given], noise(1, 0, place + 1, made.latent)[None], [0.5])
        assert np.array_equal(found, made.pixels(latent))


def test_half_drawn_images_go_on_elsewhere_to_the_same_end() -> None:
    with ImageEngine(model(), threads=1, eta=1.0) as near, ImageEngine(model(), threads=1, eta=1.0) as far:
        whole = near.submit(Drawing("two", steps=5, images=2, seed=3)).wait(PATIENCE_S)
        begun = near.submit(Drawing("two", steps=5, images=2, seed=3, until=2)).wait(PATIENCE_S)
        assert begun.pixels is None
        assert begun.half is not None
        assert (begun.half.done, begun.half.latent.shape, begun.evaluations) == (2, (2, 1, 4, 4), 4)
        ended = far.submit(Drawing("two", steps=5, images=2, seed=3, begin=begun.half)).wait(PATIENCE_S)
        assert np.array_equal(pixels(ended), pixels(whole))
        assert ended.evaluations == 6
        one = HalfDrawn(2, begun.half.latent[:1])
        forks = far.submit(Drawing("one", steps=5, images=3, seed=4, begin=one)).wait(PATIENCE_S)
        assert len(pixels(forks)) == 3


def shared(*drawings: Drawing, tenants: tuple[str, ...] = ("", "", ""), sharing: Sharing | None = None) -> list[Drawn]:
    """What comes of drawings that are asked for before the first step."""
    engine = ImageEngine(model(), threads=1, slots=2, width=2, sharing=sharing or Sharing(0.5))
    paintings = [engine.submit(drawing, tenant=tenant) for drawing, tenant in zip(drawings, tenants, strict=False)]
    with engine:
        found = [painting.wait(PATIENCE_S) for painting in paintings]
        counted = engine.stats()
    assert (counted.running, counted.waiting, counted.drawings, counted.drawings_waiting) == (0, 0, 0, 0)
    assert counted.counters.evaluations == sum(one.evaluations for one in found)
    assert counted.counters.shared_steps == sum(one.shared for one in found)
    assert counted.counters.images == sum(len(pixels(one)) for one in found)
    return found


def test_alike_drawings_share_their_first_steps() -> None:
    second = Drawing("a 1", steps=6, seed=2)
    found = shared(ONE, second, Drawing("1!", steps=6, images=2, seed=3))
    assert [one.evaluations for one in found] == [6, 3, 6]
    assert [one.shared for one in found] == [0, 3, 6]
    images = [image.tobytes() for one in found for image in pixels(one)]
    assert len(set(images)) == 4
    assert np.array_equal(pixels(shared(ONE)[0]), pixels(found[0]))  # who leads draws what it would have drawn alone


def test_first_steps_alone_are_taken_once_for_alike_drawings() -> None:
    begun = [Drawing("one", steps=6, seed=seed, until=3) for seed in (1, 2, 3)]
    engine = ImageEngine(model(), threads=1, slots=1, width=1, sharing=Sharing(0.5))
    paintings = [engine.submit(drawing) for drawing in (*begun, Drawing("two", steps=6, seed=4, until=3))]
    with engine:
        halves = [painting.wait(PATIENCE_S) for painting in paintings]
        assert [(one.evaluations, one.shared, one.alike) for one in halves] == [
            (3, 0, 3),
            (0, 3, 3),
            (0, 3, 3),
            (3, 0, 1),
        ]
        first, second, _, other = (one.half for one in halves)
        assert first is not None
        assert second is not None
        assert other is not None
        assert np.array_equal(first.latent, second.latent)
        assert not np.array_equal(first.latent, other.latent)
        # Who goes on from the same half-drawn image draws another, unless it is to be the very one.
        ends = [Drawing("one", steps=6, seed=seed, begin=first) for seed in (7, 8)]
        drawn = [pixels(engine.submit(end).wait(PATIENCE_S)) for end in ends]
        assert not np.array_equal(*drawn)
        alone = [replace(end, share=False) for end in ends]
        assert np.array_equal(*(pixels(engine.submit(end).wait(PATIENCE_S)) for end in alone))
        assert (engine.stats().running, engine.stats().waiting) == (0, 0)


def test_one_that_comes_as_the_shared_steps_end_is_answered_at_once() -> None:
    engine = ImageEngine(model(), threads=1, sharing=Sharing(0.5))
    leader = engine.submit(Drawing("one", steps=4, seed=1))
    with torch.inference_mode():
        for _ in range(2):
            engine._running = [engine._waiting.popleft()] if engine._waiting else engine._running
            engine._step()
        late = engine.submit(Drawing("one", steps=4, seed=2, until=2))
    found = late.wait(PATIENCE_S)
    assert (found.evaluations, found.shared, found.alike) == (0, 2, 2)
    with engine:
        assert len(pixels(leader.wait(PATIENCE_S))) == 1


def test_an_engine_takes_another_machines_time() -> None:
    with ImageEngine(model(), threads=1, width=1, step_s=0.05) as engine:
        began = time.monotonic()
        engine.submit(Drawing("one", steps=4, images=2)).wait(PATIENCE_S)
        assert time.monotonic() - began > 0.35
        assert engine.stats().counters.busy_s > 0.35
    with ImageEngine(model(), threads=1, width=1, step_s=1e-9) as engine:
        engine.submit(Drawing("one", steps=4)).wait(PATIENCE_S)
        assert engine.stats().counters.behind_s > 0.0


def test_unlike_drawings_do_not_share() -> None:
    for other, tenants in (
        (Drawing("two", steps=6, seed=2), ("", "")),
        (Drawing("one", steps=7, seed=2), ("", "")),
        (Drawing("one", steps=6, seed=2, share=False), ("", "")),
        (Drawing("one", steps=6, seed=2), ("a", "b")),
    ):
        assert [one.shared for one in shared(ONE, other, tenants=tenants)] == [0, 0]
    near = shared(ONE, Drawing("two", steps=6, seed=2), sharing=Sharing(0.5, similarity=-1.0))
    assert [one.shared for one in near] == [0, 3]


def test_who_leads_may_leave() -> None:
    engine = ImageEngine(model(), threads=1, slots=1, width=1, sharing=Sharing(0.5))
    leader, second, third = (engine.submit(Drawing("one", steps=6, seed=seed)) for seed in (1, 2, 3))
    leader.cancel()
    with engine:
        assert second.wait(PATIENCE_S).evaluations == 6
        assert third.wait(PATIENCE_S).shared == 3
        with pytest.raises(CancelledError):
            leader.wait(PATIENCE_S)
        assert engine.stats().counters.cancelled == 1
        followed, follower = (engine.submit(Drawing("two", steps=100, seed=seed)) for seed in (1, 2))
        while not followed.done:
            time.sleep(0.0)
        followed.cancel()
        found = follower.wait(PATIENCE_S)
        assert found.evaluations + found.shared == 100
        assert follower.done == 100


def test_giving_up_from_a_loop_frees_its_places() -> None:
    async def main() -> None:
        with ImageEngine(model(), threads=1, slots=2, steps_max=1000) as engine:
            painting = engine.submit(Drawing("one", steps=1000, images=4))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await asyncio.wrap_future(painting.result)
            async with asyncio.timeout(PATIENCE_S):
                while engine.stats().running or engine.stats().waiting:
                    await asyncio.sleep(0.001)
            assert painting.result.cancelled()

    asyncio.run(main())


def test_full_queues_ends_and_failures() -> None:
    engine = ImageEngine(model(), threads=1, slots=1, queue=3)
    waiting = engine.submit(Drawing("one", images=3))
    with pytest.raises(QueueFull, match="3 images wait already"):
        engine.submit(Drawing("one"))
    assert engine.stats().counters.refused == 1
    engine.close()
    with pytest.raises(EngineStopped):
        waiting.wait(PATIENCE_S)
    with pytest.raises(EngineStopped, match="closed"):
        engine.submit(ONE)
    drained = ImageEngine(model(), threads=1)
    drained.start()
    last = drained.submit(ONE)
    drained.close(drain=True)
    assert last.result.done()

    class Broken(type(model())):  # type: ignore[misc]
        def step(self, *_: object) -> torch.Tensor:
            raise RuntimeError("no such step")

    broken = object.__new__(Broken)
    broken.__dict__.update(model().__dict__)
    with ImageEngine(broken, threads=1) as failing:
        with pytest.raises(EngineStopped, match="no such step"):
            failing.submit(ONE).wait(PATIENCE_S)
        with pytest.raises(EngineStopped, match="failed"):
            failing.submit(ONE)


@pytest.mark.parametrize(
    ("drawing", "said"),
    [
        (Drawing("one", steps=0), "steps 0: must be from 1 to 100"),
        (Drawing("one", steps=101), "steps 101"),
        (Drawing("one", images=0), "images 0"),
        (Drawing("one", seed=-1), "seed -1"),
        (Drawing("one or two"), "names 'one' and 'two'"),
        (Drawing("one", steps=5, until=5), "until 5: must be from 1 to 4"),
        (Drawing("one", steps=5, begin=HalfDrawn(5, np.zeros((1, 1, 4, 4), np.float32))), "begin.done 5"),
        (Drawing("one", steps=5, begin=HalfDrawn(2, np.zeros((1, 1, 3, 4), np.float32))), "begin.latent"),
        (Drawing("one", steps=5, begin=HalfDrawn(2, np.full((1, 1, 4, 4), np.nan, np.float32))), "begin.latent"),
        (Drawing("one", steps=5, until=2, begin=HalfDrawn(2, np.zeros((1, 1, 4, 4), np.float32))), "until 2"),
        (Drawing("one", images=9), "images 9: must be at most 8"),
    ],
)
def test_what_cannot_be_drawn_is_refused(drawing: Drawing, said: str) -> None:
    engine = ImageEngine(model(), threads=1, queue=8)
    with pytest.raises(InputError, match=said):
        engine.submit(drawing)
    assert engine.stats().waiting == 0


def test_what_is_no_engine_is_refused() -> None:
    for given, said in (
        ({"width": 0}, "width 0"),
        ({"steps": 101}, "steps 101"),
        ({"steps_max": 1001}, "schedule has 1000"),
        ({"eta": 1.5}, "eta 1.5"),
        ({"step_s": 0.0}, "step_s 0"),
    ):
        with pytest.raises(InputError, match=said):
            ImageEngine(model(), threads=1, **given)  # type: ignore[arg-type]
    for part, similarity, eta, said in (
        (1.0, 1.0, 1.0, "part 1"),
        (0.5, 2.0, 1.0, "similarity 2"),
        (0.5, 1.0, 0.0, "eta 0"),
    ):
        with pytest.raises(InputError, match=said):
            Sharing(part, similarity, eta)
