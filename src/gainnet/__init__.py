"""gainnet plans, simulates and runs GAI-native networks (arXiv 2401.02662).

The public face is small: load a Scenario, run it, read its Record. Everything else is imported from the module that
defines it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gainnet.measurement.metrics import report as report
    from gainnet.run import Run as Run
    from gainnet.run import simulate as simulate
    from gainnet.scenario.load import load as load
    from gainnet.scenario.scenario import Scenario as Scenario

__version__ = "0.1.0"
__all__ = ["Run", "Scenario", "__version__", "load", "report", "simulate"]

_HOME = {
    "Run": "gainnet.run",
    "Scenario": "gainnet.scenario.scenario",
    "load": "gainnet.scenario.load",
    "report": "gainnet.measurement.metrics",
    "simulate": "gainnet.run",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use, so that importing gainnet stays cheap."""
    if name not in _HOME:
        raise AttributeError(f"module 'gainnet' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
