"""Images at a node: requests found in order, put to the image engine, and answered as PNG; half-drawn ones pass links."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from aiohttp import web
from jaxtyping import UInt8
from PIL import Image
from pydantic_core import to_json

from gainnet.inference.images import request as wanted
from gainnet.inference.images.engine import ImageEngine
from gainnet.inference.images.request import Drawing, HalfDrawn, Sharing
from gainnet.models import diffusion
from gainnet.serving import wire
from gainnet.serving.node_half import HEADER, Above, Half
from gainnet.serving.node_metrics import Figures
from gainnet.serving.node_settings import ImagesSetting
from gainnet.serving.router import Refused
from gainnet.serving.wire import HERE, TOKENS_OF_IMAGE, ImageRequest, Natural

if TYPE_CHECKING:
    from gainnet.serving.node import Asked, Node

JSON = "application/json"
DIGITS = Path(diffusion.__file__).parent / "digits"
"""The model that comes with gainnet: `gainnet pretrain --images digits` makes it."""
_DIGITS = "digits"


class NodeImage(ImageRequest):
    """POST /v1/images/generations.

    Attributes:
        share: false shares no steps with other drawings where the node does; true has another node begin the images
            where there is one, whether that pays or not; None leaves it to what pays.
    """

    share: bool | None = None


class DenoiseRequest(ImageRequest):
    """POST /denoise: some of the steps. The answer has ``half``, or ``data`` as images where the last step is taken.

    Attributes:
        share: takes steps once for alike requests.
        half: images to go on from; None begins them.
        until: how many steps are taken then; None takes all.
    """

    share: bool = False
    half: Half | None = None
    until: Natural | None = None


class Images:
    """The image model of a node.

    Attributes:
        setting: of the node.
        engine: that draws.
        above: a node that may begin what this one draws; None: there is none.
    """

    def __init__(self, node: Node, setting: ImagesSetting) -> None:
        """Load the model and make its engine. InputError where that cannot be."""
        self.setting, self._node = setting, node
        model = diffusion.load(DIGITS if setting.model == _DIGITS else Path(setting.model))
        share = setting.share
        self.engine = ImageEngine(
            model, slots=setting.slots, queue=setting.queue, width=setting.width, steps=setting.steps,
            steps_max=min(node.settings.limits.steps, model.steps_max), eta=setting.eta,
            sharing=None if share is None else Sharing(share.part, share.similarity), step_s=setting.step_s,
            threads=node.settings.threads,
        )  # fmt: skip
        self.above: Above | None = None
        if setting.above is not None and share is not None:
            self.above = Above(setting.above, share.part, model.latent, node.settings.timeouts.first_byte_s)

    async def close(self) -> None:
        """End the engine, and connections to the node above."""
        await asyncio.to_thread(self.engine.close)
        if self.above is not None:
            await self.above.close()

    def beginners(self) -> dict[str, dict[str, Any]]:
        """What was measured of nodes that may begin images, by name: see `gainnet.orchestrator.ways.Beginning`."""
        known = {} if self.above is None else self.above.state()
        return {name: asdict(one) for name, one in known.items()}

    def metrics(self) -> Figures:
        """Gauges and counters, by name and labels."""
        stats, label = self.engine.stats(), (("model_name", self.setting.ids[0]),)
        counters, above = stats.counters, self.above
        gauges = {"gainnet:images_running": stats.running, "gainnet:images_waiting": stats.waiting}
        counted = {
            "gainnet:images_total": counters.images, "gainnet:denoise_evaluations_total": counters.evaluations,
            "gainnet:denoise_steps_shared_total": counters.shared_steps,
            "gainnet:images_busy_seconds_total": counters.busy_s,
            "gainnet:images_behind_seconds_total": counters.behind_s,
            "gainnet:images_begun_above_total": 0 if above is None else above.begun,
            "gainnet:drawings_cancelled_total": counters.cancelled, "gainnet:drawings_refused_total": counters.refused,
        }  # fmt: skip
        return (
            {(name, label): float(value) for name, value in gauges.items()},
            {(name, label): float(value) for name, value in counted.items()},
        )

    async def generate(self, asked: Asked) -> web.Response:
        """POST /v1/images/generations."""
        request = wire.parse(NodeImage, asked.raw)
        self._check(request, asked.raw)
        size = self._size(request.size)
        drawing = await self._begun(asked, request, _drawing(request, share=request.share is not False))
        drawn = await self._drawn(asked, request, drawing)
        return await self._images(asked, request, drawn, size, 0 if drawing.begin is None else drawing.begin.done)

    async def denoise(self, asked: Asked) -> web.Response:
        """POST /denoise: the first steps of images, or the ones that are left."""
        request = wire.parse(DenoiseRequest, asked.raw)
        self._check(request, asked.raw)
        size = self._size(request.size)
        half = None if request.half is None else request.half.read()
        began_s = time.monotonic()
        drawn = await self._drawn(asked, request, _drawing(request, request.share, half, request.until))
        if drawn.half is None:
            return await self._images(asked, request, drawn, size)
        tree = {
            "half": Half.of(drawn.half).model_dump(), "evaluations": drawn.evaluations, "alike": drawn.alike,
            "drawn_s": time.monotonic() - began_s,
        }  # fmt: skip
        return web.Response(body=to_json(tree), content_type=JSON, headers=asked.headers)

    def _check(self, request: ImageRequest, raw: bytes) -> None:
        if request.model not in self.setting.ids:
            said = f"the model {request.model!r} draws no images here"
            raise Refused(404, said, code="model_not_found", param="model")
        wire.check(request, "image", wire.prompt_tokens(request, raw), self._node.settings.limits, None)

    def _size(self, size: str | None) -> int:
        """By how much images are enlarged. Refused: 400 where that is no whole number."""
        height, width = self.engine.model.pixel
        if size is None or size == "auto":
            return 1
        wide, high = map(int, size.split("x"))
        if wide % width or high % height or wide // width != high // height:
            said = f"size: {size}: must be {width}x{height}, in which the model draws, or that times a whole number"
            raise Refused(400, said, code="invalid_value", param="size")
        return wide // width

    async def _begun(self, asked: Asked, request: NodeImage, drawing: Drawing) -> Drawing:
        """The drawing, begun by the node above where that is asked for, or pays and nothing is said."""
        word = asked.request.headers.get(HEADER)
        if self.above is None:
            if word not in (None, HERE):
                raise Refused(400, f"no node begins images of this one: {word!r}", code="unknown_node", param=HEADER)
            return drawing
        told = self.above.told(word)
        if request.share is False or told is False:
            return drawing
        async with asyncio.timeout_at(asked.deadline):
            half = await self.above.half(
                drawing,
                drawing.steps or self.engine.steps,
                request.cache_salt or "",
                asked=request.share is True or told is True,
            )
        return drawing if half is None else replace(drawing, begin=half)

    async def _drawn(self, asked: Asked, request: ImageRequest, drawing: Drawing) -> wanted.Drawn:
        """What was drawn; a client that leaves, or a deadline that passes, gives it up."""
        began_s, painting = time.monotonic(), self.engine.submit(drawing, tenant=request.cache_salt or "")
        async with asyncio.timeout_at(asked.deadline):
            drawn = await asyncio.wrap_future(painting.result)
        if self.above is not None and not drawn.shared:
            self.above.pace.drawn(drawn.evaluations, time.monotonic() - began_s)
        return drawn

    async def _images(
        self, asked: Asked, request: ImageRequest, drawn: wanted.Drawn, enlarged: int, begun: int = 0
    ) -> web.Response:
        assert drawn.pixels is not None
        pixels = drawn.pixels
        files = await asyncio.to_thread(lambda: [png(image, enlarged) for image in pixels])
        prompt, output = wire.prompt_tokens(request, asked.raw), TOKENS_OF_IMAGE * len(files)
        tree = {
            "created": int(time.time()),
            "data": [{"b64_json": base64.b64encode(file).decode()} for file in files],
            "output_format": "png",
            "usage": {"input_tokens": prompt, "output_tokens": output, "total_tokens": prompt + output},
            "evaluations": drawn.evaluations,
            "shared_steps": drawn.shared,
            "steps_begun_above": begun,
        }
        return web.Response(body=to_json(tree), content_type=JSON, headers=asked.headers)


def _drawing(request: ImageRequest, share: bool, begin: HalfDrawn | None = None, until: int | None = None) -> Drawing:
    seed = None if request.seed is None else request.seed % 2**63
    steps = request.steps or request.num_inference_steps
    return Drawing(request.prompt, steps, request.n or 1, seed, share, begin, until)


def png(image: UInt8[np.ndarray, "height width channel"], enlarged: int = 1) -> bytes:
    """An image as a PNG file, each of its pixels a square of so many."""
    large = np.kron(image, np.ones((enlarged, enlarged, 1), np.uint8))
    file = io.BytesIO()
    Image.fromarray(large[:, :, 0] if large.shape[2] == 1 else large).save(file, "PNG")
    return file.getvalue()
