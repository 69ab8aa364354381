"""Asks Twilio what an account is set up to do: Flex, Studio flows, SIP trunks, and where its numbers lead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

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
from monitor.twilio.accounts import TwilioAccount
from monitor.twilio.errors import BadCredentials, NotThere, TwilioRefused, TwilioUnavailable

THINGS_MAX: Final = 20_000
"""Of each kind in an account; where there are more, the part counts as not read."""
_PAGE: Final = 1_000
_PUBLISHED: Final = "LatestPublished"


async def read_account(account: TwilioAccount) -> AccountRead:
    """Ask for all parts of an account; what is not told is among ``unread``. Raises ``BadCredentials``."""
    client = account.client
    unread: list[Unread] = []

    async def part(name: str, ask: Callable[[Any], Awaitable[Any]]) -> Any:
        try:
            return await ask(client)
        except BadCredentials:
            raise
        except (TwilioRefused, TwilioUnavailable, _TooManyError) as error:
            unread.append(Unread(account.sid, name, str(error)))
            return None

    flex = await part(FLEX, read_flex)
    flows = await part(FLOWS, _flows)
    trunks = await part(TRUNKS, _trunks)
    lines: list[Line] = []
    for name, ask in ((NUMBERS, _numbers), (APPLICATIONS, _applications), (SIP_DOMAINS, _sip_domains)):
        lines += await part(name, ask) or ()
    return AccountRead(account.sid, account.alias, flex, flows or (), trunks or (), tuple(lines), tuple(unread))


async def read_flex(client: Any) -> Flex | None:
    """The Flex configuration; None where the account has no Flex.

    https://www.twilio.com/docs/flex/developer/config/flex-configuration-rest-api
    """
    try:
        told = await client.flex_api.v1.configuration().fetch_async()
    except NotThere:
        return None
    return Flex(told.call_recording_enabled, told.call_recording_webhook_url or None)


async def read_flow(client: Any, sid: str, revision: int | str) -> Flow | None:
    """One revision of a Studio flow; None where there is none. https://www.twilio.com/docs/studio/rest-api/v2/flow-revision."""
    try:
        told = await client.studio.v2.flows(sid).revisions(revision).fetch_async()
    except NotThere:
        return None
    return Flow(sid, told.revision, widgets_of(told.definition))


class _TooManyError(Exception):
    """There are more than ``THINGS_MAX``."""


async def read_list(listing: Any, **kept: Any) -> list[Any]:
    """A whole list, in pages. Raises where it has more than ``THINGS_MAX``."""
    found: list[Any] = await listing.list_async(limit=THINGS_MAX + 1, page_size=_PAGE, **kept)
    if len(found) > THINGS_MAX:
        raise _TooManyError(f"there are more than {THINGS_MAX}")
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
