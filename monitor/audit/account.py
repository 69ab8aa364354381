"""What Twilio's REST API told about one account, as far as it bears on recordings."""

from __future__ import annotations

from typing import Final

import msgspec

# Kinds of lines.
NUMBER: Final = "number"
APPLICATION: Final = "application"
SIP_DOMAIN: Final = "sip-domain"

# Parts of an account that are asked for apart.
FLEX: Final = "flex"
FLOWS: Final = "studio-flows"
TRUNKS: Final = "sip-trunks"
NUMBERS: Final = "numbers"
APPLICATIONS: Final = "applications"
SIP_DOMAINS: Final = "sip-domains"


class Flex(msgspec.Struct, frozen=True):
    """The Flex configuration; ``recording_enabled`` None where Twilio says neither.

    https://www.twilio.com/docs/flex/developer/config/flex-configuration-rest-api
    """

    recording_enabled: bool | None
    callback_url: str | None


class Widget(msgspec.Struct, frozen=True):
    """One widget of a flow. ``records``: it starts recordings by itself; ``leads_to``: what it hands the call to."""

    name: str
    type: str
    records: bool = False
    callback_url: str | None = None
    leads_to: str | None = None


class Flow(msgspec.Struct, frozen=True):
    """One revision of a Studio flow: those of its widgets that can have to do with recordings."""

    sid: str
    revision: int
    widgets: tuple[Widget, ...]


class Trunk(msgspec.Struct, frozen=True):
    """An Elastic SIP trunk and its recording mode: https://www.twilio.com/docs/sip-trunking/api/recording-resource."""

    sid: str
    mode: str


class Line(msgspec.Struct, frozen=True):
    """Where calls enter: a number, a TwiML application or a SIP domain. ``urls``: what Twilio asks then, in order.

    A number that belongs to a trunk or an application goes there, whatever its own addresses.
    """

    kind: str
    sid: str
    urls: tuple[str, ...] = ()
    number: str | None = None
    application_sid: str | None = None
    trunk_sid: str | None = None


class Unread(msgspec.Struct, frozen=True):
    """A part of an account that was asked for and not told, and why."""

    account_sid: str
    part: str
    why: str


class AccountRead(msgspec.Struct, frozen=True):
    """One account as it was told. ``flex`` None: it has no Flex."""

    sid: str
    alias: str
    flex: Flex | None = None
    flows: tuple[Flow, ...] = ()
    trunks: tuple[Trunk, ...] = ()
    lines: tuple[Line, ...] = ()
    unread: tuple[Unread, ...] = ()
