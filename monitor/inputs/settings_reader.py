"""The account settings, read from their beginning: every member knows those of all accounts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message

from monitor.errors import OutOfReach
from monitor.inputs.asking import Asking
from monitor.inputs.reader import BEGINNING, Questions, Reader, key_of, kind_of
from monitor.inputs.sometimes import Sometimes

RETRY_S: Final = 1.0


class SettingsReader:
    """Follows all partitions of the settings' topic to their end and onwards; ``take`` is given each message."""

    def __init__(
        self,
        reader: Reader,
        questions: Questions,
        askers: ThreadPoolExecutor,
        *,
        topic: str,
        take: Callable[[str, bytes | None], None],
        sometimes: Sometimes,
    ) -> None:
        self._reader = reader
        self._topic = topic
        self._take = take
        self._sometimes = sometimes
        self._asking = Asking(askers, lambda: questions.describe(topic), every_s=RETRY_S)
        self._left: set[int] | None = None  # The partitions whose end was not reached; None: they are not known.

    @property
    def read(self) -> bool:
        """Whether the settings were read to their end."""
        return self._left is not None and not self._left

    def turn(self) -> None:
        """Find out which partitions there are, and follow them."""
        if self._left is not None:
            return
        try:
            found = self._asking.answer()
        except (KafkaException, OutOfReach) as error:
            self._sometimes.warn("account_settings_not_readable", topic=self._topic, kind=kind_of(error))
            return
        if found is None:
            return
        _, numbers = found
        self._left = set(numbers)
        for number in numbers:
            self._reader.follow(self._topic, number, BEGINNING, _Followed(self, number))

    def take_in(self, message: Message) -> None:
        """One message of the topic."""
        key = key_of(message)
        if key is not None:
            self._take(key, message.value())

    def ended(self, partition: int) -> None:
        """A partition was read to its end."""
        if self._left is not None:
            self._left.discard(partition)

    def failed(self, error: KafkaError) -> None:
        """One of them can't be read on: all are read anew."""
        self._sometimes.warn("account_settings_not_readable", kind=error.name())
        self._left = None
        self._asking.rest()


class _Followed:
    """One partition of them."""

    def __init__(self, settings: SettingsReader, partition: int) -> None:
        self._settings = settings
        self._partition = partition

    def messages(self, run: list[Message]) -> None:
        for message in run:
            self._settings.take_in(message)

    def ended(self) -> None:
        self._settings.ended(self._partition)

    def failed(self, error: KafkaError) -> None:
        self._settings.failed(error)
