"""Images at a node: requests found in order, put to the image engine, and answered as PNG; half-drawn ones pass links."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from aiohttp import web
from jaxtyping import UInt8
from PIL import Image
from pydantic import Field
from pydantic_core import to_json

from gainnet.inference.images import request as wanted
from gainnet.inference.images.engine import ImageEngine
from gainnet.inference.images.request import Drawing, HalfDrawn, Sharing
from gainnet.models import diffusion
from gainnet.serving import wire
from gainnet.serving.node_metrics import Figures
from gainnet.serving.node_settings import ImagesSetting
from gainnet.serving.router import Refused
from gainnet.serving.wire import TOKENS_OF_IMAGE, ImageRequest, Natural, Part

if TYPE_CHECKING:
    from gainnet.serving.node import Asked, Node

JSON = "application/json"
DIGITS = Path(diffusion.__file__).parent / "digits"
"""The model that comes with gainnet: `gainnet pretrain --images digits` makes it."""
_DIGITS = "digits"


class NodeImage(ImageRequest):
    """POST /v1/images/generations; ``share`` false shares no steps with other drawings where the node does."""

    share: bool | None = None


class Half(Part):
    """Half-drawn images: steps taken, shape (image, channel, height, width), and half-precision numbers in base64."""

    done: Natural
    shape: Annotated[list[Natural], Field(min_length=4, max_length=4)]
    latent: str

    def read(self) -> HalfDrawn:
        """The images. Refused: 400 where it is not so many numbers."""
        try:
            numbers = np.frombuffer(base64.b64decode(self.latent, validate=True), "<f2")
            return HalfDrawn(self.done, numbers.astype(np.float32).reshape(self.shape))
        except ValueError:
            said = f"half.latent: must be {' x '.join(map(str, self.shape))} half-precision numbers in base64"
            raise Refused(400, said, code="invalid_value", param="half.latent") from None


class DenoiseRequest(ImageRequest):
    """POST /denoise: some of the steps. The answer has ``half``, or ``data`` as images where the last step is taken.

    Attributes:
        half: images to go on from; None begins them.
        until: how many steps are taken then; None takes all.
    """

    half: Half | None = None
    until: Natural | None = None


class Images:
    """The image model of a node.

    Attributes:
        setting: of the node.
        engine: that draws.
    """

    def __init__(self, node: Node, setting: ImagesSetting) -> None:
        """Load the model and make its engine. InputError where that cannot be."""
        self.setting, self._node = setting, node
        model = diffusion.load(DIGITS if setting.model == _DIGITS else Path(setting.model))
        share = setting.share
        self.engine = ImageEngine(
            model, slots=setting.slots, queue=setting.queue, width=setting.width, steps=setting.steps,
            steps_max=min(node.settings.limits.steps, model.steps_max), eta=setting.eta,
            sharing=None if share is None else Sharing(share.part, share.similarity), threads=node.settings.threads,
        )  # fmt: skip

    def metrics(self) -> Figures:
        """Gauges and counters, by name and labels."""
        stats, label = self.engine.stats(), (("model_name", self.setting.ids[0]),)
        counters = stats.counters
        gauges = {"gainnet:images_running": stats.running, "gainnet:images_waiting": stats.waiting}
        counted = {
            "gainnet:images_total": counters.images, "gainnet:denoise_evaluations_total": counters.evaluations,
            "gainnet:denoise_steps_shared_total": counters.shared_steps,
            "gainnet:images_busy_seconds_total": counters.busy_s,
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
        drawn = await self._drawn(asked, request, _drawing(request, share=request.share is not False))
        return await self._images(asked, request, drawn, size)

    async def denoise(self, asked: Asked) -> web.Response:
        """POST /denoise: the first steps of images, or the ones that are left."""
        request = wire.parse(DenoiseRequest, asked.raw)
        self._check(request, asked.raw)
        size = self._size(request.size)
        half = None if request.half is None else request.half.read()
        drawn = await self._drawn(asked, request, _drawing(request, False, half, request.until))
        if drawn.half is None:
            return await self._images(asked, request, drawn, size)
        latent = drawn.half.latent.astype("<f2")
        tree = {
            "half": {
                "done": drawn.half.done, "shape": list(latent.shape), "latent": base64.b64encode(latent.tobytes()).decode(),
            },
            "evaluations": drawn.evaluations,
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

    async def _drawn(self, asked: Asked, request: ImageRequest, drawing: Drawing) -> wanted.Drawn:
        """What was drawn; a client that leaves, or a deadline that passes, gives it up."""
        painting = self.engine.submit(drawing, tenant=request.cache_salt or "")
        async with asyncio.timeout_at(asked.deadline):
            return await asyncio.wrap_future(painting.result)

    async def _images(self, asked: Asked, request: ImageRequest, drawn: wanted.Drawn, enlarged: int) -> web.Response:
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
