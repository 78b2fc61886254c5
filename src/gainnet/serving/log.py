"""The log of a serving process: one JSON object a line on stderr."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

_PLAIN = frozenset(vars(logging.makeLogRecord({})))


class JsonLines(logging.Formatter):
    """Time, level, logger and message of a record, and what it was given beside them."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        tree: dict[str, Any] = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        tree |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if record.exc_info:
            tree["exception"] = self.formatException(record.exc_info)
        return json.dumps(tree, default=str)


def begin(level: str) -> None:
    """Log this process's records of at least this level."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
