"""Reads Twilio's events about one case back from where they lie, masked; a bounded look, and it says what it left out.

The evidence of a verdict names positions. Around them lie the events that made no evidence: who joined when, when the
conference ended. They are sought between the first that the verdict rests on and a little behind the last.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec
from confluent_kafka import Message

from monitor.inputs.mask import Mask
from monitor.inputs.reader import Questions, reader_properties

LOOK_MAX: Final = 2_000
"""Messages that are looked through from the first on, and as many from the last piece of evidence on."""
FOR_S: Final = 1.5
TIMEOUT_S: Final = 5.0


class FoundEvent(msgspec.Struct, frozen=True):
    """One message that names what was asked for; ``value`` is None where it cannot be masked."""

    partition: int
    offset: int
    timestamp_ms: int
    value: bytes | None


class CaseEvents:
    """Reads events about cases; from any thread, one case after the other."""

    def __init__(self, client: Mapping[str, object], group_id: str, topic: str) -> None:
        self._questions = Questions(reader_properties(client, group_id), timeout_s=TIMEOUT_S)
        self._topic = topic
        self._mask = Mask()

    def read(
        self, positions: Collection[tuple[int, int]], rests_from: int, sids: Iterable[str]
    ) -> tuple[list[FoundEvent], bool]:
        """The messages that name one of ``sids``, in order, and whether all of the stretch was looked through.

        ``positions`` are partitions and offsets of evidence, ``rests_from`` is the first offset of all. Raises
        OutOfReach.
        """
        naming = re.compile(b"|".join(re.escape(sid.encode()) for sid in sids))
        found: dict[tuple[int, int], FoundEvent] = {}
        whole = True
        for partition in sorted({partition for partition, _ in positions}):
            offsets = sorted(offset for of, offset in positions if of == partition)
            first = min(rests_from, offsets[0]) if rests_from >= 0 else offsets[0]
            near = first + LOOK_MAX
            runs = [(first, near)] + [(offset, offset + 1) for offset in offsets[:-1] if offset >= near]
            runs.append((max(near, offsets[-1]), max(near, offsets[-1]) + LOOK_MAX))
            whole = whole and offsets[-1] <= near
            for start, end in runs:
                messages, all_of_it = self._questions.run(self._topic, partition, start, end, FOR_S)
                whole = whole and all_of_it
                for message in messages:
                    value = message.value()
                    if value is not None and naming.search(value):
                        found[partition, message.offset() or 0] = self._event(partition, message, value)
        return [found[place] for place in sorted(found)], whole

    def _event(self, partition: int, message: Message, value: bytes) -> FoundEvent:
        return FoundEvent(partition, message.offset() or 0, message.timestamp()[1], self._mask.json(value))

    def change_password(self, username: str, password: str) -> None:
        """Come in so from the next connection on."""
        self._questions.change_password(username, password)

    def close(self) -> None:
        """Let go of the broker."""
        self._questions.close()
