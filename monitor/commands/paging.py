"""Wires the following of verdicts and case actions to the cases, and the cases to the Alertmanagers.

Two threads meet here. The follower's reads the topics, keeps the view on disk and writes who was told; the asyncio loop
has the board, which decides, and the routes, which send. What was read goes to the loop as soon as it is in the view.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from confluent_kafka import KafkaError, Message

from monitor import clock
from monitor.commands.common import writing_properties
from monitor.core.policy import Policy
from monitor.core.verdict import decode_verdict, render_instant
from monitor.errors import OutputUnavailable
from monitor.inputs.follower import Freshness, Mode, Place, TopicFollower
from monitor.outputs.alert_text import Links, heartbeat, render_alert
from monitor.outputs.alertmanager import Outgoing, Route
from monitor.outputs.alerts import HEARTBEAT, Alert, Board, Labels, Pace, Standing, closes_ms, standing_of
from monitor.outputs.cases import (
    OPEN_FOR_MAX_MS,
    ActionSeen,
    Case,
    CaseAction,
    CaseView,
    Seen,
    VerdictSeen,
    ViewLost,
    read_case_action,
    render_action,
)
from monitor.outputs.delivery import Delivery
from monitor.outputs.metrics import Metrics
from monitor.settings import Settings
from monitor.web.server import Health

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 10.0
FORGET_EVERY_S: Final = 3600.0
COMMIT_EVERY_S: Final = 0.25
"""So often at most is what was read put on disk. What was not yet, a process that dies reads again."""
BEAT_S: Final = 1.0
NEWS_MAX: Final = 2_000
"""Cases kept at hand beyond those that are paged singly, until they are looked through."""
TO_WRITE_MAX: Final = 100_000
"""Actions still to be written; what is refused beyond it is not tried again, and may be told again after a restart."""
HEARTBEAT_BEHIND_S: Final = 120.0
LAST_WORD_S: Final = 2.0
ACT_S: Final = 5.0
TAKE_AT_ONCE: Final = 100  # 30 ms, which a page may have to wait.
TAKE_BEHIND_AT_ONCE: Final = 500


class Change(NamedTuple):
    """A case that has changed; the case itself where it may be paged at once, so that no disk is waited for."""

    standing: Standing
    case: Case | None


def pace_of(settings: Settings) -> Pace:
    """How often and how long, as the settings say."""
    return Pace(
        hold_ms=round(settings.cases.hold.total_seconds() * 1000),
        resolve_on=settings.cases.resolve_on,
        needs_telling=bool(settings.alertmanagers),
    )


def _behind(messages: Sequence[Message]) -> dict[Place, int]:
    """Of each partition of these messages, the offset behind the last."""
    return {(one.topic() or "", one.partition() or 0): (one.offset() or 0) + 1 for one in messages}


def closing(pace: Pace) -> Callable[[Case], int | None]:
    """When a case closes at this pace."""
    return lambda case: closes_ms(standing_of(case, pace, ("", "", "", "")), pace)


def seen_in(message: Message, case_actions: str) -> Seen | None:
    """What a message of the verdicts or of the topic ``case_actions`` tells the view; None where it is none of ours."""
    raw, value = message.key(), message.value()
    if not isinstance(raw, bytes):
        return None
    try:
        key = raw.decode()
        if message.topic() == case_actions:
            action = None if value is None else read_case_action(key, value)
            return None if value is not None and action is None else ActionSeen(key, action)
        verdict = None if value is None else decode_verdict(value)
    except (msgspec.DecodeError, ValueError):
        return None  # The ledger passes over it too.
    return VerdictSeen(key, verdict, message.timestamp()[1], value)


class Paging:
    """Cases and alerts of one process. ``start`` and ``stop`` are called from outside the loop.

    ``policy`` gives the one in force, ``turning`` whether the judging goes on, ``rebuilding`` whether it needs the core
    to take over partitions; ``web`` is where people reach us.
    """

    def __init__(
        self,
        settings: Settings,
        client: Mapping[str, object],
        *,
        loop: asyncio.AbstractEventLoop,
        metrics: Metrics,
        health: Health,
        policy: Callable[[], Policy],
        turning: Callable[[], bool],
        rebuilding: Callable[[], bool],
        web: str,
        pace: Pace,
        on_kafka_error: Callable[[KafkaError], None],
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._metrics = metrics
        self._health = health
        self._policy = policy
        self._turning = turning
        self._pace = pace
        self._started_ms = clock.now_ms()
        first = settings.alertmanagers[0].url if settings.alertmanagers else None
        self._links = Links(
            web=settings.web.external_url or web,
            runbooks=settings.alerts.runbooks_url,
            dashboard=settings.alerts.dashboard_url,
            alertmanager=settings.alerts.alertmanager_url or first,
        )
        self._freshness = Freshness(pace.fresh_ms / 1000, pace.alone_ms / 1000)
        self._mode: Mode = "stale"
        self._said_mode: Mode | None = None
        self._board = Board(pace)
        self._said_refused = 0
        self._woken_at = 0
        self._news: dict[str, Case] = {}
        self._rendered: dict[Labels, tuple[int, dict[str, Any]]] = {}
        self._routes = [Route(one, self._outbox, self, pace) for one in settings.alertmanagers]
        self._beating: asyncio.Task[None] | None = None
        self._to_write: queue.SimpleQueue[tuple[str, bytes | None]] = queue.SimpleQueue()
        self._delivery = Delivery(writing_properties(client), on_error=on_kafka_error)
        self._looked_at = self._forgot_at = self._committed_at = time.monotonic()
        self._awaited: dict[str, asyncio.Future[None]] = {}
        topics = settings.topics
        self.view = CaseView(
            settings.cases.database,
            source=f"{topics.verdicts} {topics.case_actions} {pace.hold_ms} {pace.resolve_on} {pace.needs_telling}",
            retention_ms=round(settings.cases.retention.total_seconds() * 1000),
            closes_ms=closing(pace),
            on_trouble=metrics.case_trouble,
        )
        self._follower = TopicFollower(
            client,
            settings.kafka.group_id,
            (topics.verdicts, topics.case_actions),
            self,
            self._freshness,
            ask_every_s=pace.probe_ms / 1000,
            gives_way=rebuilding,
            on_error=on_kafka_error,
        )
        metrics.cases_from(self._board.open_cases, self._board.firing)

    def start(self) -> None:
        """Take up what the view holds, then follow and tell."""
        self._health.missing("cases", "verdicts and case actions are not read to their ends yet")
        self._say_where()
        with contextlib.suppress(ViewLost):  # Then it is read from the topics.
            self._hand_over([Change(standing, None) for standing in self._standing_before()])
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result(30.0)
        self._follower.start()

    def change_password(self, username: str, password: str) -> None:
        """Come in to Kafka so from the next connection on."""
        self._delivery.change_password(username, password)
        self._follower.change_password(username, password)

    def stop(self, for_s: float) -> None:
        """Tell once more what is new; nothing is resolved by it. Then let go of everything."""
        ended = self._follower.stop(max(0.5, for_s / 2))
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(max(0.5, for_s / 2))
        if ended:
            self._write()
            self._delivery.close(LAST_WORD_S / 2)
            self.view.close()

    # What the pages ask, on the loop.

    @property
    def mode(self) -> Mode:
        """How near the ends of the topics the view is."""
        return self._mode

    async def act(self, action: CaseAction) -> bool:
        """Write what somebody did about a case, and wait until it was read back, as every process reads it.

        False where that takes longer than ``ACT_S``: it may still come.
        """
        key, value = render_action(action, clock.now_ms())
        self._awaited[key] = self._loop.create_future()
        self._to_write.put((key, value))
        try:
            async with asyncio.timeout(ACT_S):
                await self._awaited[key]
        except TimeoutError:
            return False
        finally:
            del self._awaited[key]
        log.info("case_action_written", recording_sid=action.recording_sid, kind=action.kind)
        return True

    # The follower's thread.

    def offsets(self, topic: str) -> Mapping[int, int]:
        """Where the view goes on."""
        return self.view.offsets(topic)

    def take(self, messages: Sequence[Message], offsets: Mapping[Place, int]) -> bool:
        """Take what was read into the view, and hand on which cases changed; at once so much as a page can wait.

        The more are taken together, the less of the file is written again and again. So of a view that is behind more
        are: to be where the topic is comes before a page. (The loop says whether it is; a turn late does no harm.)
        """
        at_once = TAKE_AT_ONCE if self._mode == "fresh" else TAKE_BEHIND_AT_ONCE
        for start in range(0, len(messages), at_once):
            some = messages[start : start + at_once]
            is_last = start + at_once >= len(messages)
            if not self._take(some, offsets if is_last else _behind(some)):
                return False
        return True

    def _take(self, messages: Sequence[Message], offsets: Mapping[Place, int]) -> bool:
        actions = self._settings.topics.case_actions
        seen = [one for message in messages if (one := seen_in(message, actions)) is not None]
        gone = [one.key for one in seen if isinstance(one, VerdictSeen) and one.verdict is None]
        try:
            # The topic of actions is compacted: without these it would grow for ever.
            forgotten = [name for key in gone for name in self.view.action_keys(key)]
            changed = self.view.take(seen, offsets)
        except ViewLost:
            self._say_where()
            return False
        for name in forgotten:
            self._to_write.put((name, None))
        if changed or gone:
            self._hand_over([self._change(case) for case in changed], gone)
        written = [one.key for one in seen if isinstance(one, ActionSeen)]
        if not self._awaited.keys().isdisjoint(written):
            self._loop.call_soon_threadsafe(self._came_round, written)
        return True

    def turn(self) -> bool:
        """Write who was told, and look after the view now and then."""
        self._write()
        now = time.monotonic()
        try:
            if now - self._committed_at >= COMMIT_EVERY_S:
                self._committed_at = now
                self.view.commit()
            if now - self._looked_at < LOOK_EVERY_S:
                return True
            self._looked_at = now
            self.view.look()
            if now - self._forgot_at >= FORGET_EVERY_S:
                self._forgot_at = now
                self.view.forget(clock.now_ms())
        except ViewLost:
            self._say_where()
            return False
        return True

    def _change(self, case: Case) -> Change:
        standing = self._standing(case)
        return Change(standing, case if standing.group is not None and standing.over_ms is None else None)

    def _standing(self, case: Case) -> Standing:
        return standing_of(case, self._pace, self._metrics.case_labels(case.verdict))

    def _standing_before(self) -> Iterator[Standing]:
        """What the view holds of cases that are open, or were until a moment ago; of a year, those are few."""
        now_ms = clock.now_ms()
        for case in self.view.cases(now_ms - OPEN_FOR_MAX_MS):
            standing = self._standing(case)
            until_ms = closes_ms(standing, self._pace)
            if until_ms is None or until_ms > now_ms - self._pace.resolved_for_ms:
                yield standing

    def _hand_over(self, changes: Sequence[Change], gone: Sequence[str] = ()) -> None:
        with contextlib.suppress(RuntimeError):  # The loop has ended: so does all of it.
            self._loop.call_soon_threadsafe(self._on_cases, changes, gone)

    def _write(self) -> None:
        """Write who was told, and take back what was done about cases that are gone; until it is acknowledged."""
        for _ in range(min(self._to_write.qsize(), 1000)):
            try:
                key, value = self._to_write.get_nowait()
            except queue.Empty:
                break

            def done(place: int | None, key: str = key, value: bytes | None = value) -> None:
                if place is None and self._to_write.qsize() < TO_WRITE_MAX:
                    self._to_write.put((key, value))

            try:
                self._delivery.send(self._settings.topics.case_actions, value, key=key, done=done)
            except OutputUnavailable:
                done(None)
                break
        self._delivery.poll()

    def _say_where(self) -> None:
        trouble = self.view.trouble
        self._metrics.cases_kept(on_disk=trouble is None)
        self._health.note("cases", None if trouble is None else f"kept in memory: {trouble}")

    # The loop.

    async def _begin(self) -> None:
        self._beating = asyncio.create_task(self._beat())
        for route in self._routes:
            route.start()

    async def _end(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
        await asyncio.gather(*[route.stop() for route in self._routes])

    def _came_round(self, keys: Sequence[str]) -> None:
        for key in keys:
            waiting = self._awaited.get(key)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    def _on_cases(self, changes: Sequence[Change], gone: Sequence[str]) -> None:
        now_ms = clock.now_ms()
        for key in gone:
            self._board.drop(key, now_ms)
        for standing, case in changes:
            self._board.take(standing, now_ms)
            if case is not None:
                self._news[standing.key] = case
            else:
                self._news.pop(standing.key, None)  # It is read from the view where it is told of.
        self._settle(now_ms)

    def _settle(self, now_ms: int) -> None:
        """Decide what is due, as far as the view allows, and have it told."""
        self._mode = self._freshness.mode(time.monotonic())
        if self._mode != self._said_mode:
            self._said_mode = self._mode
            log.info("case_view_changed", mode=self._mode)
            if self._mode == "fresh":
                self._health.found("cases")
        if self._mode == "fresh":
            self._board.settle(now_ms)
            if self._board.version != self._woken_at:
                self._woken_at = self._board.version
                for route in self._routes:
                    route.wake()
        if len(self._news) > NEWS_MAX:
            paged = {alert.about for alert in self._board.alerts()}
            self._news = {key: case for key, case in self._news.items() if key in paged}
        if self._board.refused > self._said_refused:
            log.error("cases_beyond_the_bound", cases=self._board.refused - self._said_refused)
            self._said_refused = self._board.refused

    async def _beat(self) -> None:
        while True:
            now_ms = clock.now_ms()
            self._settle(now_ms)
            due_ms = self._board.next_ms()
            wait_s = BEAT_S if due_ms is None else min(BEAT_S, max(0.01, (due_ms - now_ms) / 1000))
            await asyncio.sleep(wait_s if self._mode == "fresh" else min(BEAT_S, self._pace.fresh_ms / 10_000))

    def _outbox(self, known: Mapping[Labels, int] | None) -> Iterable[Outgoing]:
        now_ms = clock.now_ms()
        # Settled first: one that has just become fresh may still hold as firing what another has resolved meanwhile.
        self._settle(now_ms)
        outgoing = []
        if self._mode != "stale":
            new = [a for a in self._board.alerts() if known is None or known.get(a.labels) != a.version]
            outgoing = [self._outgoing(alert, now_ms) for alert in new]
            if known is None:
                self._rendered = {one.labels: self._rendered[one.labels] for one in outgoing}
        if known is None and self._alive():
            body = heartbeat(self._started_ms)
            ends = render_instant(now_ms + self._pace.heartbeat_lease_ms)
            outgoing.append(Outgoing(_HEARTBEAT_LABELS, 0, {**body, "endsAt": ends, "generatorURL": self._links.web}))
        return outgoing

    def _alive(self) -> bool:
        """Whether the heartbeat may beat: the loop turns, log time is fresh, and there is a policy."""
        behind_s = self._metrics.behind_s(time.time())
        return self._turning() and behind_s is not None and behind_s <= HEARTBEAT_BEHIND_S

    def _outgoing(self, alert: Alert, now_ms: int) -> Outgoing:
        known = self._rendered.get(alert.labels)
        if known is not None and known[0] == alert.version and alert.about is not None:
            body = known[1]
        else:
            body = self._render(alert)
            self._rendered[alert.labels] = (alert.version, body)
        ends_ms = now_ms + self._pace.lease_ms if alert.resolved_ms is None else alert.resolved_ms
        return Outgoing(alert.labels, alert.version, {**body, "endsAt": render_instant(ends_ms)})

    def _render(self, alert: Alert) -> dict[str, Any]:
        case = None
        if alert.about is not None:
            case = self._news.get(alert.about)
            if case is None:
                with contextlib.suppress(ViewLost):  # The follower finds that out, too, and begins anew.
                    case = self.view.case(alert.about)
        return render_alert(
            alert, case, count=self._board.count(alert), links=self._links, runbook_of=self._policy().runbook_of
        )

    # What the routes say.

    def sent(self, alertmanager: str, result: str, alerts: int, seconds: float | None) -> None:
        """Count what was sent."""
        self._metrics.alerts_sent(alertmanager, result, alerts, seconds, time.time())

    def accepted(self, outgoing: Sequence[Outgoing]) -> None:
        """Somebody knows of these now: say so in the topic."""
        now_ms = clock.now_ms()
        for one in outgoing:
            if one.labels == _HEARTBEAT_LABELS:
                continue
            alert = self._board.alert(one.labels)
            if alert is None or alert.version != one.version:
                continue  # It has changed meanwhile, and is sent again.
            for mark in self._board.accepted(one.labels, now_ms):
                self._to_write.put(render_action(mark, now_ms))


_HEARTBEAT_LABELS: Final[Labels] = tuple(sorted({"alertname": HEARTBEAT, "severity": "none"}.items()))
