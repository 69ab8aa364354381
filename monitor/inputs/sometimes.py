"""Lines in the log about trouble that comes a hundred times a second."""

from __future__ import annotations

import time
from typing import Any, Final

import structlog

log = structlog.get_logger(__name__)

EVERY_S: Final = 60.0
KINDS_MAX: Final = 1_000


class Sometimes:
    """Warns of each kind of trouble once a minute. For one thread."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def warn(self, event: str, **said: Any) -> None:
        """Write the line, unless it was written of this ``kind`` and ``partition`` less than a minute ago."""
        key = f"{event}:{said.get('kind')}:{said.get('partition')}"
        now = time.monotonic()
        if now - self._said.get(key, -EVERY_S) >= EVERY_S:
            if len(self._said) > KINDS_MAX:
                self._said.clear()
            self._said[key] = now
            log.warning(event, **said)
