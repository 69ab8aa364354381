"""Says what has changed since the start and counts only from the next one: settings, and the secrets of Kafka's client.

The policy and all other secrets are read again where they are used. What a running member of a group rests on (its
brokers, its topics, its window) is not exchanged under it; but nobody should have to remember that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec
import structlog

from monitor.settings import Settings, SettingsError, kafka_client

log = structlog.get_logger(__name__)

_ABOUT: Final = frozenset({"origins", "warnings"})  # Where the settings stand, and not what they are.
_CLIENT: Final = "kafka.client"


class Restart:
    """Compares the settings of a running process with those that a start would find now.

    ``read`` reads the settings again. Both it and this raise SettingsError where a secret cannot be read.
    """

    def __init__(self, settings: Settings, read: Callable[[], Settings]) -> None:
        self._settings = settings
        self._client = kafka_client(settings)
        self._read = read
        self._said: tuple[str, ...] = ()

    def look(self) -> None:
        """Log what a restart would change, or that a start would fail; each thing once."""
        try:
            settings = self._read()
            changed = {*_keys(self._settings, settings), *_properties(self._client, kafka_client(settings))}
        except SettingsError as error:
            found = tuple(map(str, error.problems))
            if found != self._said:
                log.error("settings_reload_failed", problems=list(found))
        else:
            found = tuple(sorted(changed))
            if found != self._said and found:
                log.warning("restart_needed", keys=list(found))
            elif found != self._said:
                log.info("restart_no_longer_needed")
        self._said = found


def _keys(before: Settings, after: Settings) -> Iterator[str]:
    """The keys whose values differ; of a list the whole of it."""
    for key in msgspec.structs.fields(Settings):
        old, new = getattr(before, key.name), getattr(after, key.name)
        if key.name in _ABOUT or old == new:
            continue
        if not isinstance(old, msgspec.Struct) or not isinstance(new, msgspec.Struct):
            yield key.name
            continue
        for inner in msgspec.structs.fields(type(old)):
            path = f"{key.name}.{inner.name}"
            if path != _CLIENT and getattr(old, inner.name) != getattr(new, inner.name):
                yield path


def _properties(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    """The properties of Kafka's client that differ, also where the same file holds another secret."""
    for name in {*before, *after} - {"bootstrap.servers"}:
        if before.get(name) != after.get(name):
            yield f"{_CLIENT}.{name}"
