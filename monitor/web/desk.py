"""What the pages are about and may do: handed in by whoever starts the monitor, so that no page knows Kafka."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

import msgspec

from monitor.core.policy import Policy
from monitor.core.verdict import Verdict
from monitor.outputs.case_events import RawEvents
from monitor.outputs.cases import Case, CaseAction, CaseView
from monitor.settings import Settings

BY_MAX = 100


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """An hour in which the stream did not tell of ``missed`` of the ``known`` recordings that Twilio lists."""

    hour: str
    known: int
    missed: int


class Covered(msgspec.Struct, frozen=True, kw_only=True):
    """How much of an account's recordings of the last day the stream told of, as far as that is settled.

    ``known``, ``seen`` and ``ratio`` are None where nobody could ask Twilio of late. Of what was created at
    ``settled_to`` or later more may come; ``said_at`` is when whoever lists the account last said all this.
    """

    account_sid: str
    alias: str | None
    known: int | None
    seen: int | None
    ratio: float | None
    settled_to: str | None
    said_at: str | None
    gaps: tuple[Gap, ...]


class Desk(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a monitor that its pages show.

    ``unseen`` says what the monitor can't see at the moment, a sentence each; ``coverage``, what the stream missed of
    each account. ``read_events`` reads Twilio's events about a verdict, masked. ``act`` writes an action and returns
    whether it came round within a moment. ``make_bundle`` packs what Twilio's support asks for.
    """

    settings: Settings
    view: CaseView
    policy: Callable[[], Policy]
    unseen: Callable[[], tuple[str, ...]]
    coverage: Callable[[], tuple[Covered, ...]]
    read_events: Callable[[Verdict], Awaitable[RawEvents]]
    act: Callable[[CaseAction], Awaitable[bool]]
    make_bundle: Callable[[Case], Awaitable[bytes]]

    def aliases(self) -> Mapping[str, str]:
        """Accounts by SID, as the settings call them."""
        return {account.sid: account.alias for account in self.settings.accounts}


class NotAllowed(Exception):
    """Why somebody may not do something, in a sentence."""


def who(settings: Settings, header: str | None, remote: str | None) -> str | None:
    """Who asks to change something; None where nobody names people. Raises ``NotAllowed``.

    ``header`` is what stands in ``web.user_header``; ``remote`` is the address the request came from.
    """
    web = settings.web
    if not web.actions:
        raise NotAllowed("The pages are read-only: web.actions is off in the settings.")
    if web.user_header is None:
        return None
    try:
        address = ipaddress.ip_address(remote or "")
    except ValueError:
        raise NotAllowed("The address that this came from is not known.") from None
    if not any(address in ipaddress.ip_network(network) for network in web.trusted_proxies):
        raise NotAllowed("This did not come through a proxy of web.trusted_proxies.")
    name = (header or "").strip()
    if not name:
        raise NotAllowed(f"The proxy does not say who you are: {web.user_header} is empty.")
    return name[:BY_MAX]


def check_origin(settings: Settings, origin: str | None, host: str | None) -> None:
    """Refuse what another site's page has sent from somebody's browser. Raises ``NotAllowed``.

    Browsers say where a form came from. Without ``web.external_url`` only a bare address or this machine's own name
    is believed: any other name may have been made to lead here by whoever owns it.
    """
    if settings.web.external_url is not None:
        ours = urlsplit(settings.web.external_url)
        if origin == f"{ours.scheme}://{ours.netloc}":
            return
    elif origin is not None and host is not None and urlsplit(origin).netloc == host and _is_plain(host):
        return
    raise NotAllowed("This did not come from one of these pages. Open the case and try again.")


def _is_plain(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
