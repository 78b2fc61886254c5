"""Runs a training in a folder: progress, its curve, states to go on from, and the checkpoint at the end."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gainnet.errors import InputError
from gainnet.measurement import results
from gainnet.orchestrator import checkpoint
from gainnet.scenario import document
from gainnet.scenario.load import load, text
from gainnet.scenario.scenario import Scenario
from gainnet.training.training import Training
from gainnet.workers.workers import Workers
