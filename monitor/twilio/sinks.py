"""Reads the sinks and subscriptions of an account, and carries out the steps that ``monitor.twilio.streams`` finds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec

from monitor.errors import OutOfReach
from monitor.twilio.accounts import TwilioAccount
from monitor.twilio.errors import BadCredentials, TwilioRefused
from monitor.twilio.streams import (
    SINKS_MAX,
    AddType,
    CreateSink,
    DeleteSink,
    DeleteSubscription,
    RemoveType,
    SetVersion,
    Sink,
    Step,
    Streams,
    Subscribe,
    Subscription,
    ValidateSink,
    Wanted,
    address_of,
)

TYPES_MAX: Final = 5_000
"""What is read of the types that Twilio offers, or that one subscription carries: some hundred today."""
_PAGE: Final = 1_000

Arrived = Callable[[], Awaitable[str | None]]
"""The id of the next test that has arrived for the account, None: none did in time."""


async def read_streams(account: TwilioAccount, destination: str) -> Streams:
    """What an account has; of subscriptions that do not lead to ``destination``, not the types.

    Raises what ``monitor.twilio.errors`` lists.
    """
    events = account.client.events.v1
    # More than there may be, should Twilio raise its limits.
    sinks = [_sink(each) for each in await events.sinks.list_async(limit=10 * SINKS_MAX, page_size=_PAGE)]
    leading = {sink.sid for sink in sinks if sink.destination == destination}
    subscriptions = await events.subscriptions.list_async(limit=10 * SINKS_MAX, page_size=_PAGE)
    offered = await events.event_types.list_async(limit=TYPES_MAX, page_size=_PAGE)
    known = frozenset(str(each.type) for each in offered if each.status in (None, "available", "deprecated"))
    return Streams(
        sinks=sinks,
        subscriptions=[await _subscription(events, each, leads=each.sink_sid in leading) for each in subscriptions],
        offered=known or None,
    )


def _sink(given: Any) -> Sink:
    how = given.sink_configuration
    if isinstance(how, str):
        how = msgspec.json.decode(how)
    how = how if isinstance(how, dict) else {}
    batched = how.get("batch_events")
    return Sink(
        sid=given.sid,
        description=given.description or "",
        kind=given.sink_type,
        status=given.status,
        destination=address_of(str(how.get("destination") or "")),
        method=str(how.get("method") or "POST").upper(),
        batched=None if batched is None else str(batched).lower() == "true",
    )


async def _subscription(events: Any, given: Any, *, leads: bool) -> Subscription:
    types: list[Any] = []
    if leads:
        types = await events.subscriptions(given.sid).subscribed_events.list_async(limit=TYPES_MAX, page_size=_PAGE)
    return Subscription(
        sid=given.sid,
        description=given.description or "",
        sink_sid=given.sink_sid or "",
        types={str(each.type): int(each.schema_version) for each in types},
    )


class Changes:
    """Carries out the steps of one account, in order.

    ``userinfo`` is ``user:password`` for the destination of sinks that are made (None: none); it is told to Twilio and
    to nobody else. ``arrived`` is asked for the tests of sinks; None: sinks are not validated.
    """

    def __init__(
        self, account: TwilioAccount, wanted: Wanted, *, userinfo: str | None, arrived: Arrived | None
    ) -> None:
        self._events = account.client.events.v1
        self._account = account
        self._wanted = wanted
        self._userinfo = userinfo
        self._arrived = arrived
        self._sink_sid: str | None = None
        self._subscription_sid: str | None = None

    async def carry_out(self, step: Step) -> str | None:
        """Do one step; return what there is to say of it, if anything.

        Raises what ``monitor.twilio.errors`` lists, and ``OutOfReach`` where the test of a sink did not arrive.
        """
        events = self._events
        match step:
            case CreateSink(destination):
                made = await events.sinks.create_async(
                    description=self._wanted.description,
                    sink_type="webhook",
                    sink_configuration={
                        "destination": _with_userinfo(destination, self._userinfo),
                        "method": "POST",
                        "batch_events": True,
                    },
                )
                self._sink_sid = made.sid
                return f"sink {made.sid}"
            case ValidateSink(sink_sid):
                return await self._validate(sink_sid or self._known(self._sink_sid))
            case Subscribe(sink_sid, types):
                made = await events.subscriptions.create_async(
                    description=self._wanted.description,
                    sink_sid=sink_sid or self._known(self._sink_sid),
                    types=[{"type": name, "schema_version": version} for name, version in types.items()],
                )
                self._subscription_sid = made.sid
                return f"subscription {made.sid}"
            case AddType():
                return await self._add(step)
            case SetVersion(subscription_sid, name, _, version):
                one = events.subscriptions(subscription_sid).subscribed_events(name)
                await one.update_async(schema_version=version)
            case RemoveType(subscription_sid, name):
                await events.subscriptions(subscription_sid).subscribed_events(name).delete_async()
            case DeleteSubscription(subscription_sid):
                await events.subscriptions(subscription_sid).delete_async()
            case DeleteSink(sink_sid):
                await events.sinks(sink_sid).delete_async()
        return None

    async def _add(self, step: AddType) -> str | None:
        subscription = self._events.subscriptions(step.subscription_sid or self._known(self._subscription_sid))
        try:
            await subscription.subscribed_events.create_async(type=step.name, schema_version=step.version)
        except BadCredentials:
            raise
        except TwilioRefused as refused:
            if step.required:
                raise
            return f"not taken by Twilio, and not required: {refused}"
        return None

    async def _validate(self, sink_sid: str) -> str:
        """Ask for a test, and tell Twilio what arrives until it agrees: a test of an earlier time may come first."""
        if self._arrived is None:
            return "left as it is (--no-validate): Twilio sends nothing there before it is validated"
        sink = self._events.sinks(sink_sid)
        await sink.sink_test.create_async()
        while (test_id := await self._arrived()) is not None:
            try:
                told = await sink.sink_validate.create_async(test_id=test_id)
            except BadCredentials:
                raise
            except TwilioRefused:
                continue
            if told.result == "valid":
                return "the test arrived, and Twilio has validated the sink"
        raise OutOfReach(
            f"{self._account.alias} ({self._account.sid}): Twilio was asked to send a test to "
            f"{self._wanted.destination}, and no bridge has said that it arrived. Does `recording-monitor ingest` run, "
            "with the same topics and this account's auth_token_file? Does that address lead to it from the internet "
            "(its log says sink_test_received, or why it refused)? Then `apply` once more: it goes on where it stopped"
        )

    @staticmethod
    def _known(sid: str | None) -> str:
        assert sid is not None, "a step that needs what an earlier one makes"
        return sid


def _with_userinfo(destination: str, userinfo: str | None) -> str:
    if userinfo is None:
        return destination
    user, _, password = userinfo.partition(":")
    parts = urlsplit(destination)
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{parts.netloc}"))
