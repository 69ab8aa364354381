"""What the folds tell, on its way out; and what comes back of the verdict topic, acknowledged or read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import structlog
from confluent_kafka import Message

from monitor.core.pipeline import NotJudged, Publish, SetAside, Stands, Told
from monitor.core.verdict import Verdict, decode_verdict, encode_verdict
from monitor.errors import OutputUnavailable
from monitor.inputs.held import Held
from monitor.inputs.protocols import Outputs, Watch
from monitor.inputs.reader import offset_of
from monitor.inputs.sometimes import Sometimes

log = structlog.get_logger(__name__)

SAID_MAX: Final = 10  # Of recordings in a log line.


class Effects:
    """Hands what is told to the outputs, and counts it as on its way until it is acknowledged.

    ``drop`` is called where a partition's state can't be gone on with, and why.
    """

    def __init__(self, outputs: Outputs, watch: Watch, sometimes: Sometimes, drop: Callable[[Held, str], None]) -> None:
        self._outputs = outputs
        self._watch = watch
        self._sometimes = sometimes
        self._drop = drop

    def emit(
        self, held: Held, offset: int, told: Sequence[Told], log_time_ms: int | None, *, swept: bool = False
    ) -> None:
        """Send what was told at an offset. Raises OutputUnavailable."""
        outputs, partition = self._outputs, held.partition
        for each in told:
            if isinstance(each, NotJudged):
                self._sometimes.warn(
                    "conversation_not_judged",
                    partition=partition,
                    kind=each.error,
                    where=each.where,
                    account_sid=each.account,
                    recordings=each.recordings[:SAID_MAX],
                )
                continue
            if isinstance(each, Stands):
                self._watch.verdict_read(partition, each.key, each.verdict)
                continue
            if isinstance(each, Publish):
                each = outputs.as_written(each, log_time_ms=log_time_ms or 0)
            fence = held.pending.begin()
            done = partial(self._emitted, held, fence, each, swept or offset <= held.gate)
            try:
                if isinstance(each, Publish):
                    outputs.publish(partition, each, by=held.by, done=done)
                elif isinstance(each, SetAside):
                    outputs.set_aside(partition, offset, each, done=done)
                else:
                    outputs.setting(partition, offset, each, done=done)
            except OutputUnavailable:
                held.pending.end(fence)
                raise

    def _emitted(self, held: Held, fence: int, told: Told, left: bool, place: int | None) -> None:  # noqa: FBT001
        """What was told is safe at ``place`` of its topic; None: it was not delivered."""
        held.pending.end(fence)
        if place is None:
            held.failed = held.failed or "not_delivered"
        elif isinstance(told, Publish):
            if held.ledger is not None and told.verdict is not None and not held.dropped:
                back = held.ledger.placed(told.key, told.verdict.at, place)
                if back is not None:
                    held.write_back[told.key] = back
                elif held.ledger.stands_in_front(told.key, told.verdict.at, place):
                    held.come_round.append((told.key, encode_verdict(told.verdict), place))
            self._watch.published(held.partition, told, replay_left=left)
        elif isinstance(told, SetAside):
            self._watch.quarantined(held.partition, told.reason)

    def quarantine(self, held: Held, message: Message) -> None:
        """Send a message that the core can't fold, as a whole. Raises OutputUnavailable."""
        offset = offset_of(message)
        fence = held.pending.begin()

        def done(place: int | None) -> None:
            held.pending.end(fence)
            if place is None:
                held.failed = held.failed or "not_delivered"
            else:
                held.aside.add(offset)
                self._watch.quarantined(held.partition, "core-error")

        try:
            self._outputs.quarantine(held.partition, offset, "core-error", "", None, message.value() or b"", done=done)
        except OutputUnavailable:
            held.pending.end(fence)
            raise

    def take_in(self, held: Held, key: str, verdict: Verdict | None, place: int) -> None:
        """Weigh what stands at a place of the verdict topic; what is to be put over it is written in this turn."""
        if held.dropped:
            return
        assert held.ledger is not None
        try:
            back = held.ledger.take_in(key, verdict, place)
        except OutputUnavailable as error:
            self._drop(held, str(error))
            return
        if back is None:
            self._watch.verdict_read(held.partition, key, verdict)
            held.write_back.pop(key, None)
        else:
            held.write_back[key] = back

    def write_back(self, held: Held) -> None:
        """Put what holds over what a former owner wrote late.

        What was put there is weighed where it lies: meanwhile something greater may have been read in front of it.
        """
        come_round, held.come_round = held.come_round, []
        for key, value, place in come_round:
            self.take_in(held, key, decode_verdict(value), place)
        if held.dropped:
            return
        # What is acknowledged while these are sent may add to those to come.
        writes, held.write_back = held.write_back, {}
        for key, value in writes.items():
            fence = held.pending.begin()

            def done(place: int | None, fence: int = fence, key: str = key, value: bytes = value) -> None:
                held.pending.end(fence)
                if place is None:
                    held.failed = held.failed or "not_delivered"
                else:
                    held.come_round.append((key, value, place))

            try:
                self._outputs.write_back(held.partition, key, value, by=held.by, done=done)
            except OutputUnavailable as error:
                held.pending.end(fence)
                self._drop(held, str(error))
                return
        if writes:
            log.info("verdicts_written_back", partition=held.partition, verdicts=len(writes))
