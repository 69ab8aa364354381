"""Asks Twilio what an account is set up to do: Flex, Studio flows, SIP trunks, where numbers lead; its agents."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final

import msgspec

from monitor.audit.account import (
    APPLICATION,
    APPLICATIONS,
    FLEX,
    FLOWS,
    NUMBER,
    NUMBERS,
    SIP_DOMAIN,
    SIP_DOMAINS,
    TRUNKS,
    AccountRead,
    Flex,
    Flow,
    Line,
    Trunk,
    Unread,
)
from monitor.audit.studio import widgets_of
from monitor.errors import WrongInput
from monitor.twilio.accounts import TwilioAccount
from monitor.twilio.errors import BadCredentials, NotThere, TwilioRefused, TwilioUnavailable

THINGS_MAX: Final = 20_000
"""Of each kind in an account; where there are more, the part counts as not read."""
_PAGE: Final = 1_000
_PUBLISHED: Final = "LatestPublished"


class FlexRead(Flex, frozen=True):
    """The Flex configuration, and when anything in it was last changed."""

    updated_at: datetime | None = None
    offline_activity: str | None = None


class Worker(msgspec.Struct, frozen=True):
    """A TaskRouter worker: in another activity than offline or not, and since when in the one it is in.

    https://www.twilio.com/docs/taskrouter/api/worker
    """

    sid: str
    online: bool
    changed_at: datetime | None


async def read_account(account: TwilioAccount) -> AccountRead:
    """Ask for all parts of an account; what is not told is among ``unread``. Raises ``BadCredentials``."""
    client = account.client
    unread: list[Unread] = []

    async def part(name: str, ask: Callable[[Any], Awaitable[Any]]) -> Any:
        try:
            return await ask(client)
        except BadCredentials:
            raise
        except (TwilioRefused, TwilioUnavailable, TooMany) as error:
            unread.append(Unread(account.sid, name, str(error)))
            return None

    told: FlexRead | None = await part(FLEX, read_flex)
    flex = None if told is None else Flex(told.recording_enabled, told.callback_url)
    flows = await part(FLOWS, _flows)
    trunks = await part(TRUNKS, _trunks)
    lines: list[Line] = []
    for name, ask in ((NUMBERS, _numbers), (APPLICATIONS, _applications), (SIP_DOMAINS, _sip_domains)):
        lines += await part(name, ask) or ()
    return AccountRead(account.sid, account.alias, flex, flows or (), trunks or (), tuple(lines), tuple(unread))


async def read_flex(client: Any) -> FlexRead | None:
    """The Flex configuration; None where the account has no Flex.

    https://www.twilio.com/docs/flex/developer/config/flex-configuration-rest-api
    """
    try:
        told = await client.flex_api.v1.configuration().fetch_async()
    except NotThere:
        return None
    return FlexRead(
        told.call_recording_enabled,
        told.call_recording_webhook_url or None,
        told.date_updated,
        told.taskrouter_offline_activity_sid or None,
    )


async def read_flow(client: Any, sid: str, revision: int | str) -> Flow | None:
    """One revision of a Studio flow; None where there is none. https://www.twilio.com/docs/studio/rest-api/v2/flow-revision."""
    try:
        told = await client.studio.v2.flows(sid).revisions(revision).fetch_async()
    except NotThere:
        return None
    return Flow(sid, told.revision, widgets_of(told.definition))


async def read_workers(client: Any) -> list[Worker]:
    """The workers of all workspaces. Which activity means logged out is said by Flex, else by its name."""
    flex = await read_flex(client)
    offline = None if flex is None else flex.offline_activity
    return [
        Worker(
            worker.sid,
            not (worker.activity_sid == offline if offline else str(worker.activity_name).casefold() == "offline"),
            worker.date_status_changed,
        )
        for workspace in await read_list(client.taskrouter.v1.workspaces)
        for worker in await read_list(client.taskrouter.v1.workspaces(workspace.sid).workers)
    ]


class TooMany(WrongInput):
    """There are more than ``THINGS_MAX``."""


async def read_list(listing: Any) -> list[Any]:
    """A whole list, in pages. Raises ``TooMany`` where it has more than ``THINGS_MAX``."""
    found: list[Any] = await listing.list_async(limit=THINGS_MAX + 1, page_size=_PAGE)
    if len(found) > THINGS_MAX:
        raise TooMany(f"there are more than {THINGS_MAX}")
    return found


async def _flows(client: Any) -> tuple[Flow, ...]:
    """The published revision of each flow: what calls run through. One that was never published runs for nobody."""
    listed = await read_list(client.studio.v2.flows)
    read = await asyncio.gather(*(read_flow(client, flow.sid, _PUBLISHED) for flow in listed))
    return tuple(flow for flow in read if flow is not None)


async def _trunks(client: Any) -> tuple[Trunk, ...]:
    async def trunk(sid: str) -> Trunk:
        told = await client.trunking.v1.trunks(sid).recordings().fetch_async()
        return Trunk(sid, told.mode)

    return tuple(await asyncio.gather(*(trunk(each.sid) for each in await read_list(client.trunking.v1.trunks))))


async def _numbers(client: Any) -> list[Line]:
    return [
        Line(
            NUMBER,
            number.sid,
            _addresses(number.voice_url, number.voice_fallback_url),
            number.phone_number,
            number.voice_application_sid or None,
            number.trunk_sid or None,
        )
        for number in await read_list(client.incoming_phone_numbers)
        if number.voice_receive_mode != "fax"
    ]


async def _applications(client: Any) -> list[Line]:
    return [
        Line(APPLICATION, each.sid, _addresses(each.voice_url, each.voice_fallback_url))
        for each in await read_list(client.applications)
    ]


async def _sip_domains(client: Any) -> list[Line]:
    return [
        Line(SIP_DOMAIN, each.sid, _addresses(each.voice_url, each.voice_fallback_url))
        for each in await read_list(client.sip.domains)
    ]


def _addresses(*urls: str | None) -> tuple[str, ...]:
    return tuple(url for url in dict.fromkeys(urls) if url)
