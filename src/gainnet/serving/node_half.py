"""Half-drawn images: as they pass links, and another node that begins images, once for alike requests of several nodes."""

from __future__ import annotations

import base64
import json
import logging
import time
from typing import Annotated, Any

import aiohttp
import numpy as np
from pydantic import Field

from gainnet.errors import InputError
from gainnet.inference.images.pace import Handing, Prices, Work
from gainnet.inference.images.request import Drawing, HalfDrawn
from gainnet.orchestrator.ways import Beginning
from gainnet.serving.node_settings import AboveSetting
from gainnet.serving.router import Refused
from gainnet.serving.wire import HERE, Natural, Part

logger = logging.getLogger(__name__)
HEADER = "x-gainnet-begun-by"
"""Who begins a request's images: the name of a node above, or `HERE`."""
REST_S = 10.0
"""For so long a node that failed to begin an image is not asked again, but where a request says so."""


class Half(Part):
    """Half-drawn images: steps taken, shape (image, channel, height, width), and half-precision numbers in base64."""

    done: Natural
    shape: Annotated[list[Natural], Field(min_length=4, max_length=4)]
    latent: str

    @classmethod
    def of(cls, half: HalfDrawn) -> Half:
        """Images to be sent."""
        latent = half.latent.astype("<f2")
        return cls(done=half.done, shape=list(latent.shape), latent=base64.b64encode(latent.tobytes()).decode())

    def read(self) -> HalfDrawn:
        """The images. Refused: 400 where it is not so many numbers."""
        try:
            numbers = np.frombuffer(base64.b64decode(self.latent, validate=True), "<f2")
            return HalfDrawn(self.done, numbers.astype(np.float32).reshape(self.shape))
        except ValueError:
            said = f"half.latent: must be {' x '.join(map(str, self.shape))} half-precision numbers in base64"
            raise Refused(400, said, code="invalid_value", param="half.latent") from None


class Above:
    """The node that begins images, and what was measured of it.

    Attributes:
        pace: what was measured.
        begun: images that it began.
        failed: that it was asked for in vain.
    """

    def __init__(self, setting: AboveSetting, part: float, latent: tuple[int, int, int], timeout_s: float) -> None:
        """A node, the part of an image's steps that it takes, what it gives, and how long it is waited for."""
        self.pace, self.begun, self.failed = Handing(), 0, 0
        self._setting, self._part, self._shape, self._timeout_s = setting, part, (1, *latent), timeout_s
        self._prices = Prices(**setting.prices.model_dump())
        token = setting.token
        self._headers = {} if token is None else {"authorization": f"Bearer {token.get_secret_value()}"}
        self._http: aiohttp.ClientSession | None = None
        self._rests_until_s = 0.0

    async def close(self) -> None:
        """Close connections."""
        if self._http is not None:
            await self._http.close()

    def work(self, images: int, steps: int) -> Work:
        """What a drawing of so many images asks for."""
        return Work(images, steps, int(self._part * steps))

    def told(self, word: str | None) -> bool | None:
        """What a gateway's word asks for: True to begin elsewhere, False not to, None without a word.

        Refused: 400 where it names a node that begins no images of this one.
        """
        if word in (None, HERE):
            return None if word is None else False
        if word != self._setting.name:
            raise Refused(400, f"there is no node {word!r} that begins images", code="unknown_node", param=HEADER)
        return True

    def state(self) -> dict[str, Beginning]:
        """What was measured, for those who choose; nothing where gateways don't know the node, or it failed a moment ago."""
        if self._setting.name is None or not self._rested():
            return {}
        pace = self.pace
        known = (pace.step_s or None, pace.above_step_s, pace.crossing_s, pace.alike) if pace.begun else ()
        return {self._setting.name: Beginning(self._part, *known)}

    async def half(self, drawing: Drawing, steps: int, tenant: str, *, asked: bool) -> HalfDrawn | None:
        """One half-drawn image that all of a drawing's go on from; None where they are better drawn here, or it fails.

        Args:
            drawing: whose first steps may be shared.
            steps: that it has.
            tenant: whose it is.
            asked: whether a request said so, so that it need not pay.
        """
        work = self.work(drawing.images, steps)
        if not work.shared or not (asked or (self._rested() and self.pace.pays(work, self._prices))):
            return None
        body: dict[str, Any] = {
            "model": self._setting.model, "prompt": drawing.prompt, "steps": steps, "until": work.shared, "share": True,
        }  # fmt: skip
        body |= {"cache_salt": tenant} if tenant else {}
        body |= {} if drawing.seed is None else {"seed": drawing.seed}
        began_s = time.monotonic()
        try:
            tree = await self._posted(body)
            if tree is None:
                return None
            found, drawn_s, alike = Half.model_validate(tree["half"]).read(), float(tree["drawn_s"]), int(tree["alike"])
            if found.done != work.shared or found.latent.shape != self._shape:
                raise InputError(f"{found.done} steps of {found.latent.shape}, not {work.shared} of {self._shape}")
        except (aiohttp.ClientError, TimeoutError, InputError, Refused, ValueError, KeyError, TypeError) as error:
            logger.warning("images are not begun elsewhere", extra={"url": self._setting.url, "why": str(error)})
            self.failed += 1
            self._rests_until_s = time.monotonic() + REST_S
            return None
        self.pace.handed(work.shared, drawn_s, time.monotonic() - began_s, alike)
        self.begun += drawing.images
        return found

    def _rested(self) -> bool:
        return time.monotonic() >= self._rests_until_s

    async def _posted(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """The answer; None where the request is at fault, which is told better by who draws it here."""
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout_s), trust_env=False)
        url = f"{self._setting.url}/denoise"
        async with self._http.post(url, json=body, headers=self._headers) as response:
            tree = json.loads(await response.read())
        if response.status == 400:
            return None
        if response.status != 200 or not isinstance(tree, dict):
            raise InputError(f"{response.status}: {tree.get('error') if isinstance(tree, dict) else 'no reason given'}")
        return tree
