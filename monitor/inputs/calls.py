"""Twilio's calls, as its REST API lists them.

https://www.twilio.com/docs/voice/api/call-resource#read-multiple-call-resources
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import NamedTuple

from monitor.core.values import epoch_ms
from monitor.inputs.recordings import PAGE, day_of
from monitor.twilio.accounts import TwilioAccount


class Call(NamedTuple):
    """A call as REST knows it; when it was made is by Twilio's clock, in milliseconds."""

    sid: str
    created_ms: int


async def pages(account: TwilioAccount, since_ms: int, **only: str) -> AsyncGenerator[list[Call]]:
    """Yield pages of an account's calls, the newest first, down to those made ``since_ms``.

    ``only`` are Twilio's own filters (``from_``, ``to``: a telephone number). While it reads, new ones come in front,
    so that some are seen twice. Raises what asking Twilio can come to.
    """
    page = await account.client.calls.page_async(
        # Days are all that Twilio tells apart here.
        start_time_after=day_of(since_ms) - timedelta(days=1),
        page_size=PAGE,
        **only,
    )
    while page is not None:
        listed = [Call(each.sid, epoch_ms(each.date_created)) for each in page if each.sid and each.date_created]
        yield [one for one in listed if one.created_ms >= since_ms]
        if listed and listed[-1].created_ms < since_ms:
            return
        page = await page.next_page_async()
