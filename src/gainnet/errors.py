"""The errors gainnet raises.

::

    GainnetError
    |-- InputError           what a person gave: names the field or the line, and what is allowed
    |   |-- ScenarioError    a scenario file, a built-in name or a --set override
    |   `-- TraceError       a recorded trace: file and line
    |-- OutputError          a results folder that cannot be written
    `-- Diverged             a training whose loss is no finite number, or exploded (`gainnet.knowledge.tuning`)

Each carries one line that a person can act on. The command line prints it and exits with code 2. An infeasible
problem is no error: it is a ``Plan.status``.
"""

from __future__ import annotations


class GainnetError(Exception):
    """Any error that gainnet raises on purpose."""


class InputError(GainnetError):
    """Something a person gave is wrong; the message names it and what is allowed."""


class ScenarioError(InputError):
    """A scenario is wrong: the message starts with the path of the field."""


class TraceError(InputError):
    """A recorded trace is wrong: the message names the file and, where it can, the line."""


class OutputError(GainnetError):
    """A results folder cannot be written."""
