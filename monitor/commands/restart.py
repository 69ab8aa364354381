"""Says what has changed in the settings since the start and counts only from the next one.

The policy and secrets are read again where they are used. What a running member of a group rests on (its brokers, its
topics, its window) is not exchanged under it; but nobody should have to remember that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import structlog

from monitor.settings import Settings, SettingsError

log = structlog.get_logger(__name__)

_ABOUT: Final = frozenset({"origins", "warnings"})  # Where the settings stand, and not what they are.


class Restart:
    """Compares the settings of a running process with those that a start would find now.

    ``read`` reads the settings again, and raises SettingsError.
    """

    def __init__(self, settings: Settings, read: Callable[[], Settings]) -> None:
        self._settings = settings
        self._read = read
        self._said: tuple[str, ...] = ()

    def look(self) -> None:
        """Log what a restart would change, or that a start would fail; each thing once."""
        try:
            found = tuple(sorted(_changed(self._settings, self._read())))
        except SettingsError as error:
            found = tuple(map(str, error.problems))
            if found != self._said:
                log.error("settings_reload_failed", problems=list(found))
        else:
            if found != self._said and found:
                log.warning("restart_needed", keys=list(found))
            elif found != self._said:
                log.info("restart_no_longer_needed")
        self._said = found


def _changed(before: Settings, after: Settings) -> Iterator[str]:
    """The keys whose values differ; of a list or a map the whole of it."""
    for key in msgspec.structs.fields(Settings):
        old, new = getattr(before, key.name), getattr(after, key.name)
        if key.name in _ABOUT or old == new:
            continue
        if not isinstance(old, msgspec.Struct):
            yield key.name
            continue
        for inner in msgspec.structs.fields(type(old)):
            if getattr(old, inner.name) != getattr(new, inner.name):
                yield f"{key.name}.{inner.name}"
