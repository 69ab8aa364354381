"""``run``: the monitor. Wiring and nothing else; ``start_monitor`` is the same monitor inside another program.

Two threads beside the caller's: one reads, judges, publishes and commits (`inputs/kafka`), the other runs the asyncio
loop with the web server and the timers. The order of the stop is that of ``Running.stop``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from types import FrameType
from typing import Annotated, Any, Final, TypeVar

import structlog
import typer
from confluent_kafka import KafkaError, KafkaException

from monitor import __version__, allocator, clock
from monitor.collector import Collector
from monitor.commands.common import (
    ConfigOption,
    PolicyOption,
    read_policy,
    read_settings,
    tuning_of,
    writing_properties,
)
from monitor.commands.ingest import make_bridge
from monitor.commands.pages import PagesWork
from monitor.commands.paging import Paging, pace_of
from monitor.commands.restart import Restart
from monitor.core.account_settings import AccountSettings
from monitor.core.decode import decode
from monitor.core.events import Event
from monitor.core.fast_path import COMPILED
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint, Known, Pipeline, Publish, Tuning
from monitor.core.policy import Policy
from monitor.core.values import epoch_ms, span_ms
from monitor.core.verdict import Verdict, render_instant
from monitor.errors import OutOfReach, OutputUnavailable
from monitor.file_identity import file_identity
from monitor.inputs.account_polling import FlexPolling, FlowPolling, Observed, WorkerPolling
from monitor.inputs.blind import render_blind
from monitor.inputs.checkpoint import Blind, Resume, StartAt
from monitor.inputs.coverage import Reached
from monitor.inputs.daily_audit import DailyAudit
from monitor.inputs.enrichment import Enrichment, Wanted
from monitor.inputs.kafka import Member
from monitor.inputs.listing import Listing
from monitor.inputs.owned_accounts import OwnedAccounts
from monitor.inputs.places import SAY_EVERY_MS, Places
from monitor.inputs.policy_file import LoadedPolicy, PolicyError, load_policy
from monitor.inputs.protocols import Fold
from monitor.inputs.relay import Relay
from monitor.inputs.rest_work import WRITE_S, Job, RestWork
from monitor.inputs.rest_work import Topics as RestTopics
from monitor.inputs.snapshots import Snapshots
from monitor.inputs.takeover import Times, Topics
from monitor.inputs.topics import Names, TopicAdmin
from monitor.log import configure, flush_verdicts, log_verdict
from monitor.outputs.alerts import Pace
from monitor.outputs.coverage_metrics import CoverageMetrics
from monitor.outputs.delivery import Delivery
from monitor.outputs.metrics import Metrics, this_build
from monitor.outputs.twilio_metrics import TwilioMetrics
from monitor.outputs.verdict_topic import VerdictTopic
from monitor.settings import Address, Problem, Settings, SettingsError, kafka_client
from monitor.twilio.transport import Clock
from monitor.web.pages import Pages
from monitor.web.server import Health, WebServer

log = structlog.get_logger(__name__)

T = TypeVar("T")

STOP_S: Final = 9.0  # Of the ten that a container's stop may take.
POLICY_LOOK_S: Final = 10.0
SETTINGS_LOOK_S: Final = 10.0
SECRETS_LOOK_S: Final = 2.0
TOPICS_AGAIN_S: Final = 5.0
READY_LOOK_S: Final = 0.2
SPLIT_LOOK_S: Final = 10.0

OnVerdict = Callable[[int, Publish], None]


def run(
    *,
    config: ConfigOption = None,
    policy: PolicyOption = None,
    topics: Annotated[
        bool, typer.Option("--topics/--no-topics", help="Create and check the topics first; or take them as they are.")
    ] = True,
) -> None:
    """Judge every recording in the events topic, until stopped.

    Reads monitor.yaml (or --config) and RECORDING_MONITOR_…; metrics and health are on `web.listen`. SIGTERM and
    Ctrl-C stop it in good order, within 10 s; a second one at once. SIGHUP reads the policy again, which otherwise
    happens within 10 s of a change; what else has changed in the settings needs a restart, and the log says so. Exit
    code 3: what it needs is gone for good; while a broker is away it waits.

    Examples:
      recording-monitor run

      RECORDING_MONITOR_KAFKA__BOOTSTRAP_SERVERS=localhost:9092 recording-monitor run --policy policy.yaml
    """
    stop = _Signals()
    allocator.use_few_arenas()
    settings = read_settings(config)
    loaded = read_policy(settings, policy)
    running = start_monitor(settings, loaded, topics=topics, handle_log=True)
    started = {"version": __version__, "fast_path": COMPILED}
    log.info("monitor_started", **started, address=running.address, group_id=settings.kafka.group_id)
    restart = Restart(settings, lambda: read_settings(config))
    look_after = time.monotonic() + SETTINGS_LOOK_S
    while not stop.asked.wait(0.2) and not running.ended.is_set():
        if stop.reload.is_set():
            stop.reload.clear()
            running.reload_policy()
            restart.look()
        elif time.monotonic() >= look_after:
            look_after = time.monotonic() + SETTINGS_LOOK_S
            restart.look()
    log.info("stop_begun", signal=stop.name)
    in_time = running.stop()
    log.info("monitor_stopped", in_time=in_time)
    failure = running.failure
    if failure is None and not in_time:
        # What hangs is a client that waits for a broker that is away. All that could be made safe is.
        sys.stdout.flush()
        os._exit(0)
    if isinstance(failure, KafkaException):
        raise OutOfReach(f"Kafka: {_said(failure)}") from failure
    if failure is not None:
        raise failure


def start_monitor(
    settings: Settings,
    loaded: LoadedPolicy,
    *,
    on_verdict: OnVerdict | None = None,
    topics: bool = True,
    handle_log: bool = False,
    tick_every_s: float = 10.0,
    pace: Pace | None = None,
    clock: Clock = Clock(),  # noqa: B008 - a tuple of functions.
) -> Running:
    """Start the monitor and return once its address is known; it goes on in threads until ``stop``.

    ``on_verdict`` is called on the reading thread with the partition and what was published, each time a verdict is
    acknowledged by the broker. ``handle_log`` sets up the log as the settings say. ``pace`` is that of the alerts,
    where it is another than the settings say, ``clock`` what asking Twilio goes by. Raises SettingsError where Kafka's
    client refuses its properties, ListenError where the address is taken.
    """
    return Running(
        settings,
        loaded,
        on_verdict=on_verdict,
        topics=topics,
        handle_log=handle_log,
        tick_every_s=tick_every_s,
        pace=pace,
        clock=clock,
    )


class Running:
    """A monitor at work. ``ended`` is set when its reading thread has ended, for whatever reason."""

    def __init__(
        self,
        settings: Settings,
        loaded: LoadedPolicy,
        *,
        on_verdict: OnVerdict | None,
        topics: bool,
        handle_log: bool,
        tick_every_s: float,
        pace: Pace | None,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.ended = threading.Event()
        self.failure: BaseException | None = None
        self._loaded = loaded
        self._with_topics = topics
        self._stopping = threading.Event()
        self._tuning = tuning_of(settings)
        self._account_settings = AccountSettings()
        self._observed = Observed()
        self._places = Places(settings.topics.events, lasts_ms=self._tuning.window_ms + SAY_EVERY_MS)
        self._clock = clock
        self._reached = Reached()
        self._enrichment: Enrichment | None = None
        self._owned = OwnedAccounts(self._places, lambda: self._member.partitions, self._accounts_changed)
        self.metrics = Metrics(
            aliases=self._tuning.aliases,
            events_topic=settings.topics.events,
            alertmanagers=[one.name for one in settings.alertmanagers],
        )
        if handle_log:
            configure(settings.log.format, settings.log.level, count=self.metrics.log_message)
        for warning in settings.warnings:
            log.warning("settings_doubtful", what=warning)
        self.metrics.policy_loaded(loaded.policy, time.time())
        self.health = Health(time.monotonic(), needs=("policy", "account settings", "assignment", "cases"))
        self.health.found("policy")
        self.metrics.ready_when(self.health.ready)
        self.metrics.flex_from(self._observed.flex_now)
        self._client = kafka_client(settings)
        self._names = Names(
            events=settings.topics.events,
            verdicts=settings.topics.verdicts,
            case_actions=settings.topics.case_actions,
            account_settings=settings.topics.account_settings,
            quarantine=settings.topics.quarantine,
        )
        self._collector = Collector()
        with _client_errors_as_settings(settings):
            self._admin = TopicAdmin(
                self._client, self._names, window_ms=self._tuning.window_ms, age_max_ms=self._tuning.age_max_ms
            )
            self._delivery = Delivery(
                writing_properties(self._client),
                on_error=lambda error: self.metrics.kafka_error(_error_kind(error)),
            )
            self._member = self._make_member(on_verdict, tick_every_s)
            self._rest = self._make_rest_work()
        self._paging: Paging | None = None
        self._pages = Pages()
        self._pages_work = PagesWork(settings, self._client, self._reached)
        self._web = WebServer(settings.web.listen, self.metrics.registry, self.health, self._pages)
        # Its health is its own: a bridge that turns must not vouch for reading that does not.
        bridging = Health(time.monotonic(), ())
        self._bridge = make_bridge(settings, self.metrics.registry, bridging) if settings.ingest.enabled else None
        self._loop = asyncio.new_event_loop()
        self._loop_thread = threading.Thread(target=self._loop.run_forever, name="web", daemon=True)
        self._loop_thread.start()
        try:
            self._on_loop(self._web.start(), 30.0)
            self._paging = self._start_paging(pace or pace_of(settings))
            self._pages.open(self._pages_work.desk(self._paging, self._policy, self.metrics, self.health))
            if self._bridge is not None:
                self._on_loop(self._bridge.start(), 30.0)
                log.info("bridge_started", address=f"http://{self._bridge.address}")
            if self._rest is not None:
                self._on_loop(self._rest.start(), 30.0)
        except BaseException:
            self._end_loop()
            raise
        self._looking = asyncio.run_coroutine_threadsafe(self._look_at_policy(), self._loop)
        self._secrets = asyncio.run_coroutine_threadsafe(self._look_at_secrets(), self._loop)
        self._reading = threading.Thread(target=self._read, name="kafka", daemon=True)
        self._reading.start()

    @property
    def address(self) -> str:
        """Where metrics and health answer, as an address of this machine."""
        return self._web.url

    @property
    def listening(self) -> Address:
        """Where the web server listens."""
        return self._web.address

    def ready(self) -> bool:
        """Whether policy, account settings and the assignment are restored."""
        return self.health.ready()

    def stop(self, for_s: float = STOP_S) -> bool:
        """Stop in good order; whether all of it was done within ``for_s``. Again and again does no harm.

        Not ready any more; no more reading; the batch at hand is finished, its effects acknowledged, the position
        committed, the group left; the alerts are told once more, none of them as resolved; then the web server, so that
        the last figures can still be read.
        """
        until = time.monotonic() + for_s
        self.health.stopping()
        self._stopping.set()
        leaving = None
        if self._bridge is not None and self._loop_thread.is_alive():
            leaving = asyncio.run_coroutine_threadsafe(self._bridge.stop(for_s / 2), self._loop)
        resting = None
        if self._rest is not None and self._loop_thread.is_alive():
            resting = asyncio.run_coroutine_threadsafe(self._rest.stop(for_s / 4), self._loop)
        self._member.stop()
        self._reading.join(max(0.1, until - time.monotonic()))
        in_time = not self._reading.is_alive()
        self._looking.cancel()
        self._secrets.cancel()
        if in_time:
            self._delivery.close(max(0.1, until - time.monotonic()))
        for ending in (leaving, resting):
            if ending is not None:
                with contextlib.suppress(TimeoutError):
                    ending.result(max(0.1, until - time.monotonic()))
        if self._loop_thread.is_alive():
            self._pages.close()
            if self._paging is not None:
                self._paging.stop(max(1.0, until - time.monotonic() - 1.0))
                self._paging = None
            with contextlib.suppress(TimeoutError):
                self._on_loop(self._web.stop(), max(0.5, until - time.monotonic()))
            self._end_loop()
        self._pages_work.close()
        self._collector.end()
        return in_time

    def reload_policy(self) -> None:
        """Read the policy file again; what is wrong with it is said, and the policy in force stays in force."""
        path = self._loaded.path
        if path is None:
            return
        try:
            loaded = load_policy(path)
        except PolicyError as error:
            self.metrics.policy_reload_failed()
            log.error("policy_reload_failed", problems=[str(problem) for problem in error.problems])
            return
        for warning in loaded.warnings:
            log.warning("policy_doubtful", what=str(warning))
        changed = loaded.policy.hash != self._loaded.policy.hash
        self._loaded = loaded
        self.metrics.policy_loaded(loaded.policy, time.time())
        if changed:
            policy = loaded.policy
            log.info("policy_changed", policy=policy.hash)
            self._member.for_each_fold(lambda fold: _change_policy(fold, policy))

    def _start_paging(self, pace: Pace) -> Paging:
        paging = Paging(
            self.settings,
            self._client,
            loop=self._loop,
            metrics=self.metrics,
            health=self.health,
            policy=self._policy,
            turning=lambda: not self.health.sick_reasons(time.monotonic()),
            rebuilding=self._member.rebuilding,
            web=self.address,
            pace=pace,
            on_kafka_error=lambda error: self.metrics.kafka_error(_error_kind(error)),
        )
        paging.start()
        return paging

    def _make_rest_work(self) -> RestWork | None:
        """What is asked of Twilio, where there are credentials to ask with."""
        aliases = RestWork.aliases(self.settings)
        if not aliases:
            return None
        coverage = CoverageMetrics(self.metrics.registry, aliases)
        asking = _Asking(lambda: self._member)
        jobs: list[Job] = []
        reconcile, polling, audit = self.settings.reconcile, self.settings.polling, self.settings.audit
        if reconcile.enabled:
            jobs.append(Listing(reconcile, self._reached, asking.known, coverage, self._clock))
            if reconcile.enrich:
                self._enrichment = Enrichment(asking, coverage.enriched, self._clock)
                jobs.append(self._enrichment)
        if polling.enabled:
            every_s = polling.every.total_seconds()
            jobs += [kind(self._observed, every_s=every_s) for kind in (FlexPolling, FlowPolling, WorkerPolling)]
        if audit.baseline is not None:
            every_s = audit.every.total_seconds()
            jobs.append(DailyAudit(audit.baseline, lambda: self._loaded.policy, self.metrics, every_s=every_s))
        if not jobs:
            return None
        relay = Relay(
            lambda: writing_properties(kafka_client(self.settings)),
            deliver_within_s=WRITE_S,
            on_error=lambda error: self.metrics.kafka_error(_error_kind(error)),
        )
        topics = RestTopics(self._names.events, self._names.account_settings)
        return RestWork(
            self.settings,
            self._owned,
            relay,
            jobs,
            topics=topics,
            clock=self._clock,
            on_accounts=lambda alias, error: coverage.accounts_found(alias, found=error is None),
            told=TwilioMetrics(self.metrics.registry).asked,
        )

    def _enrich(self, verdict: Verdict) -> None:
        """Have Twilio asked what a verdict leaves open. Called on the reading thread."""
        if self._enrichment is not None and (wanted := Wanted.of(verdict)) is not None:
            with contextlib.suppress(RuntimeError):  # The loop has ended: so does all of it.
                self._loop.call_soon_threadsafe(self._enrichment.take, verdict.account_sid, wanted)

    def _accounts_changed(self) -> None:
        if self._rest is not None:
            self._rest.changed()

    def _policy(self) -> Policy:
        return self._loaded.policy

    # The reading thread.

    def _make_member(self, on_verdict: OnVerdict | None, tick_every_s: float) -> Member:
        settings, tuning = self.settings, self._tuning
        listener = _Listener(
            self.metrics,
            self.health,
            settings.topics.events,
            on_verdict,
            self._missing,
            self._places,
            self._say_place,
            self._say_blind,
            self._owned,
            self._enrich,
        )
        return Member(
            client=self._client,
            group_id=settings.kafka.group_id,
            topics=Topics(
                events=settings.topics.events,
                verdicts=settings.topics.verdicts,
                account_settings=settings.topics.account_settings,
            ),
            times=Times(
                window_ms=tuning.window_ms,
                age_max_ms=tuning.age_max_ms,
                start_at=_start_at(settings, tuning, clock.now_ms()),
            ),
            topic_id=self._admin.topic_id,
            build=self._build,
            ledger=lambda fetch: Ledger(fetch, others_kept_ms=span_ms(settings.cases.retention)),
            take_setting=self._take_setting,
            outputs=VerdictTopic(
                self._delivery,
                verdicts=settings.topics.verdicts,
                quarantine=settings.topics.quarantine,
                account_settings=settings.topics.account_settings,
                now_ms=clock.now_ms,
            ),
            watch=listener,
            between_batches=self._between_batches,
            tick_every_s=tick_every_s,
            snapshots=self._make_snapshots(),
        )

    def _make_snapshots(self) -> Snapshots | None:
        wanted = self.settings.snapshots
        if wanted.directory is None:
            return None
        build = this_build()
        return Snapshots(
            wanted.directory,
            every_s=wanted.every.total_seconds(),
            kept_s=self._tuning.window_ms / 1000,
            version=f"{build.version}+{build.revision}",
        )

    def _between_batches(self, idle: bool) -> None:  # noqa: FBT001 - the reading calls it so.
        flush_verdicts()
        self._collector.between_batches(idle=idle)

    def _read(self) -> None:
        try:
            self._collector.begin()
            if self._with_topics:
                self._see_to_topics()
            if not self._stopping.is_set():
                self._member.run()
        except BaseException as error:
            self.failure = error
            log.error("reading_ended", error=type(error).__name__)
        finally:
            flush_verdicts()
            self.ended.set()

    def _see_to_topics(self) -> None:
        """Create what is missing and check the rest, for as long as it takes to reach a broker."""
        findings = None
        while findings is None and not self._stopping.is_set():
            self.health.poll_seen(time.monotonic())
            try:
                findings = self._admin.apply()
            except OutOfReach as error:
                log.warning("topics_not_reached", why=str(error))
                self.health.missing("assignment", "no broker answers")
                self._stopping.wait(TOPICS_AGAIN_S)
        wrong = []
        for finding in findings or ():
            if finding.level == "error":
                wrong.append(Problem(self.settings.where("topics"), 0, finding.topic, finding.says))
            elif finding.level == "created":
                log.info("topic_created", topic=finding.topic, what=finding.says)
            elif finding.level != "ok":
                log.warning("topic_doubtful", topic=finding.topic, what=finding.says)
        if wrong:
            raise SettingsError(wrong)

    def _build(self, partition: int, checkpoint: Checkpoint, skip: frozenset[int]) -> Fold:
        return Pipeline(
            self._tuning,
            self._loaded.policy,
            self._account_settings,
            partition=partition,
            checkpoint=checkpoint,
            skip=skip,
            sweeps=True,
        )

    def _say_place(self, partition: int, account: str, key: str, value: bytes) -> None:
        def done(place: int | None) -> None:
            if place is None:
                self._places.unsaid(account, partition)

        try:
            self._delivery.send(self.settings.topics.account_settings, value, key=key, done=done)
        except OutputUnavailable:
            done(None)  # Whatever is in the way is in the way of verdicts too, which say so.

    def _say_blind(self, partition: int, blind: Blind) -> None:
        key, value = render_blind(self.settings.topics.events, partition, blind, clock.now_ms())
        # What is in its way is in the way of verdicts too: nothing is committed then, and the next owner finds it out.
        with contextlib.suppress(OutputUnavailable):
            self._delivery.send(self.settings.topics.account_settings, value, key=key, done=lambda _: None)

    def _take_setting(self, key: str, value: bytes | None) -> Iterable[str]:
        """One message of the account settings. A setting is never taken back, so a tombstone says nothing."""
        if self._places.hear(key, value, clock.now_ms()) or self._reached.hear(key, value):
            return ()
        forgotten = self._account_settings.forgotten
        accounts = []
        for entry in decode(value):
            if not isinstance(entry, Event) or entry.setting is None:
                continue
            if self._observed.hear(entry.setting) and self._member.settings_read:  # Else it is an old one.
                self._flex_changed(entry.account)
            if self._account_settings.observe(entry.setting):
                accounts.append(entry.account)
        self.metrics.settings_forgotten(self._account_settings.forgotten - forgotten)
        return accounts

    def _flex_changed(self, account: str) -> None:
        setting = self._observed.flex(account)
        if setting is not None:
            since = None if setting.since_ms is None else render_instant(setting.since_ms)
            log.warning("flex_call_recording_changed", account_sid=account, enabled=setting.enabled, since=since)

    def _missing(self) -> Mapping[str, str | None]:
        return {
            "account settings": None if self._member.settings_read else "not read to their end yet",
            "assignment": self._member.restoring(),
        }

    # The loop.

    async def _look_at_policy(self) -> None:
        """Notice that the policy file is another one. In Kubernetes nobody sends a signal when a ConfigMap changes."""
        path = self._loaded.path
        if path is None:
            return
        seen = file_identity(path)
        while True:
            await asyncio.sleep(POLICY_LOOK_S)
            now = file_identity(path)
            if now != seen:
                seen = now
                self.reload_policy()

    async def _look_at_secrets(self) -> None:
        """Notice that Kafka's password is another one. The bridge has a producer of its own, and looks for itself."""
        while True:
            await asyncio.sleep(SECRETS_LOOK_S)
            try:
                given = kafka_client(self.settings)
            except SettingsError:
                log.warning("kafka_secret_not_readable")  # In the midst of being changed, or gone: what was, counts on.
                continue
            if given == self._client:
                continue
            before, self._client = self._client, given
            passwords = {key: value for key, value in given.items() if key.startswith("sasl.password")}
            if "sasl.username" in given and {**before, **passwords} == given:
                log.info("kafka_secret_changed")
                await self._change_password(str(given["sasl.username"]), str(given["sasl.password"]))
            else:
                # Keys and the secrets of token endpoints librdkafka reads when a client is made, and never again.
                log.warning("kafka_secret_needs_restart")

    async def _change_password(self, username: str, password: str) -> None:
        """Side by side: none shall wait for what another's question waits for."""
        parts = (self._admin, self._delivery, self._member, self._paging, self._pages_work)
        changes = [one.change_password for one in parts if one is not None]
        await asyncio.gather(*[asyncio.to_thread(change, username, password) for change in changes])

    def _on_loop(self, work: Coroutine[Any, Any, None], for_s: float) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(for_s)

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._loop_thread.join(2.0)
        if not self._loop_thread.is_alive():
            self._loop.close()


class _Listener:
    """What the reading says, for metrics, health and log. Lives on the reading thread."""

    def __init__(
        self,
        metrics: Metrics,
        health: Health,
        events_topic: str,
        on_verdict: OnVerdict | None,
        missing: Callable[[], Mapping[str, str | None]],
        places: Places,
        say_place: Callable[[int, str, str, bytes], None],
        say_blind: Callable[[int, Blind], None],
        owned: OwnedAccounts,
        enrich: Callable[[Verdict], None],
    ) -> None:
        self._metrics = metrics
        self._health = health
        self._events_topic = events_topic
        self._on_verdict = on_verdict
        self._missing = missing
        self._said: dict[str, str | None] = {}
        self._look_after = 0.0
        self._pipelines: dict[int, Pipeline] = {}
        self._places = places
        self._say_place = say_place
        self._say_blind = say_blind
        self._owned = owned
        self._enrich = enrich
        self._splits_after = 0.0
        self._not_read: set[int] = set()

    def polled(self) -> None:
        now = time.monotonic()
        self._health.poll_seen(now)
        self._metrics.polled(time.time())
        if now < self._look_after:
            return
        self._look_after = now + READY_LOOK_S
        for part, why in self._missing().items():
            if part in self._said and self._said[part] == why:
                continue
            self._said[part] = why
            if why is None:
                self._health.found(part)
            else:
                self._health.missing(part, why)

    def folded(self, partition: int, fold: Fold, *, replayed: bool) -> None:
        assert isinstance(fold, Pipeline)
        self._pipelines[partition] = fold
        self._metrics.count(fold.take_counts())
        if not replayed and time.monotonic() >= self._splits_after:
            self._splits_after = time.monotonic() + SPLIT_LOOK_S
            self._look_for_splits()

    def _look_for_splits(self) -> None:
        """An account in two partitions is judged twice, each time on half of the evidence."""
        now_ms = clock.now_ms()
        self._places.forget(now_ms)
        for partition, pipeline in self._pipelines.items():
            accounts = pipeline.window.accounts
            for split in self._places.look(partition, accounts, now_ms):
                self._metrics.account_split()
                log.error("account_split", account_sid=split.account, partitions=split.partitions)
            for account, key, value in self._places.to_say(partition, accounts, now_ms):
                self._say_place(partition, account, key, value)

    def published(self, partition: int, told: Publish, *, replay_left: bool) -> None:
        now_ms = clock.now_ms()
        self._metrics.verdict_published(partition, told, now_ms, replay_left=replay_left)
        if told.verdict is not None:
            latency_ms = None if replay_left else max(0, now_ms - told.due_ms)
            log_verdict(told.verdict, partition=partition, previous=told.before, latency_ms=latency_ms)
            self._enrich(told.verdict)
        else:
            log.info("verdict_withdrawn", key=told.key, partition=partition)
        if self._on_verdict is not None:
            self._on_verdict(partition, told)

    def quarantined(self, partition: int, reason: str) -> None:
        self._metrics.quarantined(reason)
        log.warning("entry_quarantined", partition=partition, reason=reason)

    def verdict_read(self, partition: int, key: str, verdict: Verdict | None) -> None:
        self._metrics.follow(partition, key, verdict)
        if verdict is not None:
            self._enrich(verdict)

    def verdict_going_on(self, partition: int, key: str, account_sid: str, outcome: str) -> None:
        self._metrics.goes_on(partition, key, account_sid, outcome)

    def verdict_not_read(self, partition: int) -> None:
        """Once a takeover: a whole topic may be so."""
        if partition not in self._not_read:
            self._not_read.add(partition)
            log.warning("verdict_not_read", partition=partition, why="a newer version wrote it, or none of ours")

    def committed(self, result: str) -> None:
        self._metrics.commit(result, time.time())

    def rebalanced(self, event: str, partitions: Sequence[int]) -> None:  # noqa: ARG002 - logged where it happens.
        self._metrics.rebalance(event)

    def owned(self, count: int) -> None:
        self._metrics.assigned(self._events_topic, count)

    def position(self, partition: int, *, log_time_ms: int | None, lag: int | None, tick_ms: int | None) -> None:
        pipeline = self._pipelines.get(partition)
        self._metrics.partition(
            partition,
            watermark_ms=log_time_ms,
            lag=lag,
            tick_ms=tick_ms,
            conversations=pipeline.window.open_conversations if pipeline is not None else 0,
            recordings=pipeline.window.open_recordings if pipeline is not None else 0,
        )

    def forgotten(self, partition: int) -> None:
        self._metrics.partition_gone(partition)
        self._pipelines.pop(partition, None)
        self._not_read.discard(partition)
        self._places.leave(partition)
        self._owned.lost(partition)

    def taken_over(self, partition: int, resumed: Resume) -> None:
        if resumed.foreign is not None:
            self._metrics.foreign_checkpoint(resumed.foreign)
        if resumed.blind is not None:
            self._metrics.blind_interval()
            self._say_blind(partition, resumed.blind)

    def restored(self, partition: int, seconds: float) -> None:
        self._metrics.restored(seconds)
        self._owned.took(partition)

    def kafka_error(self, kind: str) -> None:
        self._metrics.kafka_error(kind)


class _Asking:
    """Asks the folds of our partitions what they know; they answer on the reading thread, between two batches."""

    def __init__(self, member: Callable[[], Member]) -> None:
        self._member = member

    def known(self, partition: int, account: str, recordings: Iterable[str]) -> Future[Mapping[str, Known]]:
        return self._ask(partition, lambda pipeline: pipeline.known(account, recordings))

    def held(self, partition: int, account: str, event_ids: Mapping[str, str]) -> Future[set[str]]:
        return self._ask(partition, lambda pipeline: pipeline.holds(account, event_ids))

    def company(self, partition: int, account: str, member: str) -> Future[list[str]]:
        return self._ask(partition, lambda pipeline: pipeline.company(account, member))

    def _ask(self, partition: int, question: Callable[[Pipeline], T]) -> Future[T]:
        def asked(fold: Fold) -> T:
            assert isinstance(fold, Pipeline)
            return question(fold)

        return self._member().ask(partition, asked)


class _Signals:
    """SIGTERM and SIGINT ask for a stop, a second one ends the process at once; SIGHUP asks to read the policy again.

    Installed before anything else: as process 1 of a container, Python ignores a SIGTERM that nobody handles.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.reload = threading.Event()
        self.name: str | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._again)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self.asked.is_set():
            os._exit(128 + number)
        self.name = signal.Signals(number).name
        self.asked.set()

    def _again(self, _number: int, _frame: FrameType | None) -> None:
        self.reload.set()


def _change_policy(fold: Fold, policy: Policy) -> None:
    assert isinstance(fold, Pipeline)
    fold.change_policy(policy)


def _start_at(settings: Settings, tuning: Tuning, now_ms: int) -> StartAt:
    start_at = settings.kafka.start_at
    if start_at is None:
        return now_ms - tuning.window_ms
    if isinstance(start_at, timedelta):
        return now_ms - span_ms(start_at)
    if isinstance(start_at, datetime):
        return epoch_ms(start_at)
    return start_at


def _error_kind(error: KafkaError) -> str:
    return error.name().lower().lstrip("_")


def _said(failure: KafkaException) -> str:
    error = failure.args[0] if failure.args else failure
    return error.str() if isinstance(error, KafkaError) else str(error)


@contextlib.contextmanager
def _client_errors_as_settings(settings: Settings) -> Iterator[None]:
    """Properties are checked when a client is made: what librdkafka refuses then is a wrong setting."""
    try:
        yield
    except KafkaException as failure:
        where = settings.where("kafka.client")
        raise SettingsError([Problem("settings", 0, where, f"refused by Kafka's client: {_said(failure)}")]) from None
