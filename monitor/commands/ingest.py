"""``ingest``: the webhook bridge as a process of its own. Wiring and nothing else; ``run`` makes its own by
``make_bridge``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Final

import structlog
from confluent_kafka import KafkaException
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from monitor import __version__
from monitor.commands.common import ConfigOption, read_settings
from monitor.inputs.ingest import DELIVER_WITHIN_S, OUTCOMES, Bridge
from monitor.inputs.relay import BYTES_MAX, Relay
from monitor.inputs.signature import Caller, Key, SecretLines, Signatures
from monitor.log import configure
from monitor.outputs.delivery import producer_properties
from monitor.outputs.ingest_metrics import IngestMetrics
from monitor.outputs.metrics import BuildInfo, this_build
from monitor.settings import Problem, SecretError, Settings, SettingsError, kafka_client
from monitor.web.server import Health, WebServer

log = structlog.get_logger(__name__)

BROKER: Final = "broker"
REACH_S: Final = 2.0


def ingest(*, config: ConfigOption = None) -> None:
    """Take Twilio's webhooks, check their signatures, and produce every event to the events topic.

    Twilio calls `ingest.public_url` with /twilio/events (an Event Streams sink), /twilio/recording-status or
    /twilio/conference-status (status callbacks); `ingest.listen` is where that arrives. Metrics and health are on
    `web.listen`, apart. An event is answered 200 only once the broker has it. SIGTERM and Ctrl-C stop it in good order,
    within 10 s; a second one at once.

    Examples:
      recording-monitor ingest

      RECORDING_MONITOR_INGEST__LISTEN=:8080 recording-monitor ingest --config monitor.yaml
    """
    settings = read_settings(config)
    configure(settings.log.format, settings.log.level)
    for warning in settings.warnings:
        log.warning("settings_doubtful", what=warning)
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()

    def asked(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        log.info("stop_begun", signal=number.name)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number)
    # Who changes a secret may send it to all: files are compared every 2 s anyway, and it must not end us.
    loop.add_signal_handler(signal.SIGHUP, log.info, "secrets_are_read_again_by_themselves")
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(BuildInfo(this_build()))
    health = Health(time.monotonic(), (BROKER,))
    bridge = make_bridge(settings, registry, health)
    web = WebServer(settings.web.listen, registry, health)
    await web.start()
    try:
        await bridge.start()
        reaching = asyncio.create_task(_reach(bridge, health))
        log.info("bridge_started", version=__version__, address=f"http://{bridge.address}", metrics=web.url)
        await stop.wait()
        health.stopping()
        reaching.cancel()
        await bridge.stop()
    finally:
        await web.stop()
    log.info("bridge_stopped")


async def _reach(bridge: Bridge, health: Health) -> None:
    """Ready once the topic has been seen. Afterwards whoever cannot be served is told so, each by the answer."""
    while not await bridge.reaches(REACH_S):
        health.missing(BROKER, "no broker answers for the events topic")
        await asyncio.sleep(REACH_S)
    health.found(BROKER)


def make_bridge(settings: Settings, registry: CollectorRegistry, health: Health) -> Bridge:
    """The bridge as the settings say. Raises SettingsError where they are not enough for one.

    It tells ``health`` that its loop turns, and is ready when that is.
    """
    ingest = settings.ingest
    files = [(Key.token(account.sid), account.auth_token_file) for account in settings.accounts]
    files += [(Key.shared(account.sid), account.shared_key_file) for account in settings.accounts]
    try:
        signatures = Signatures(
            [(key, file) for key, file in files if file is not None],
            require_body_hash=ingest.require_body_hash,
            clock=time.monotonic,
        )
        credentials = SecretLines(ingest.basic_auth_file)
    except SecretError as error:
        raise _wrong(settings, "accounts", f"a secret {error}") from None
    if ingest.public_url is None:
        raise _wrong(settings, "ingest.public_url", "missing. Name the address that Twilio calls and signs")
    if not any(file for _, file in files):
        raise _wrong(
            settings,
            "accounts",
            "none has an auth_token_file (or a shared_key_file), and signatures are checked with these",
        )
    metrics = IngestMetrics(registry, OUTCOMES, wall_clock=time.time)
    try:
        relay = Relay(
            lambda: {**producer_properties(kafka_client(settings)), "message.max.bytes": _message_max(settings)},
            deliver_within_s=DELIVER_WITHIN_S,
            on_error=lambda error: metrics.kafka_error(error.name().lower().lstrip("_")),
            turned=_told(health),
            bytes_max=max(BYTES_MAX, 2 * ingest.body_max),
        )
    except KafkaException as failure:
        raise _wrong(settings, "kafka.client", f"refused by Kafka's client: {failure.args[0].str()}") from None
    bridge = Bridge(
        ingest.listen,
        signatures,
        Caller(ingest.public_url, ingest.trusted_proxies, ingest.sources),
        relay,
        metrics,
        topic=settings.topics.events,
        settings_topic=settings.topics.account_settings,
        body_max=ingest.body_max,
        credentials=credentials,
        ready=health.ready,
        healthy=lambda: not health.sick_reasons(time.monotonic()),
    )
    metrics.ask(messages=lambda: relay.outstanding, requests=lambda: bridge.requests)
    return bridge


def _told(health: Health) -> Callable[[], None]:
    """The bridge has one loop, which does both."""

    def turned() -> None:
        health.poll_seen(time.monotonic())
        health.loop_seen(time.monotonic())

    return turned


def _message_max(settings: Settings) -> int:
    """No smaller than a body: what is too large for a topic, its broker says."""
    return max(1_000_000, settings.ingest.body_max + 64 * 1024)


def _wrong(settings: Settings, key: str, message: str) -> SettingsError:
    return SettingsError([Problem("settings", 0, settings.where(key), message)])
