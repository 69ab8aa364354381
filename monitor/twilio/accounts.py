"""The accounts of the settings as Twilio's own client for each, subaccounts too.

    async with Twilio(settings) as twilio:
        for account in await twilio.accounts():
            sinks = await account.client.events.v1.sinks.list_async(limit=100)

What goes wrong raises what ``monitor.twilio.errors`` lists. Of the package, use the methods that end in ``_async``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Self

import aiohttp
from twilio.rest import Client  # type: ignore[import-untyped]  # The package has no types.

from monitor.settings import Account, Problem, Settings, SettingsError
from monitor.twilio.errors import NotPermitted
from monitor.twilio.transport import Caller, Clock, Limits, Pace, Told, Transport

SUBACCOUNTS_MAX: Final = 10_000
"""Of an account; those beyond are not looked at, which ``Twilio.accounts`` refuses to keep silent about."""
_PAGE: Final = 1_000

# The package takes region, edge and credentials from the environment where it is given none. Ours come from settings
# alone; an empty mapping would count as none.
_NO_ENVIRONMENT: Final = {"TWILIO_REGION": ""}


class TwilioAccount(NamedTuple):
    """One account that can be asked. ``parent_sid`` is None for an account of the settings.

    ``alias`` is that of the settings; subaccounts that have none of their own share that of their parent.
    """

    sid: str
    alias: str
    parent_sid: str | None
    client: Any


class Twilio:
    """Twilio's REST API as the settings allow it to be asked. Belongs to one asyncio loop; leave it to hang up.

    ``told`` is told what every request came to.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        limits: Limits | None = None,
        clock: Clock = Clock(),  # noqa: B008 - a tuple of functions.
        told: Told | None = None,
    ) -> None:
        self._settings = settings
        self._limits = limits or Limits(total_s=settings.twilio.timeout.total_seconds())
        self._clock = clock
        self._told = told
        self._paces: dict[str, Pace] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # Proxies as the environment names them: where the way to the internet is one, HTTPS_PROXY says so.
        self._session = aiohttp.ClientSession(trust_env=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def accounts(self, *, alias: str | None = None) -> list[TwilioAccount]:
        """Every account of the settings (or the one of this alias), each followed by its active subaccounts.

        A subaccount that stands in the settings itself is taken from there. Raises ``SettingsError`` where there is
        no account or one has no credentials, and what asking Twilio can come to.
        """
        chosen = [
            (index, account)
            for index, account in enumerate(self._settings.accounts)
            if alias is None or account.alias == alias
        ]
        if not chosen:
            message = "names no account" if alias is None else f"names no account with the alias {alias!r}"
            raise self._wrong("accounts", f"{message}. Give sid, alias and auth_token_file of one")
        own = {account.sid for account in self._settings.accounts}
        found: list[TwilioAccount] = []
        for index, account in chosen:
            found.append(TwilioAccount(account.sid, account.alias, None, self._client(index, account)))
            if account.subaccounts == "all":
                found += [below for below in await self._subaccounts(index, account) if below.sid not in own]
        return found

    async def _subaccounts(self, index: int, account: Account) -> list[TwilioAccount]:
        # Listed with the auth token where there is one: most kinds of API keys may not.
        client = self._client(index, account, by_token=account.auth_token_file is not None)
        listed = await client.api.v2010.accounts.list_async(status="active", limit=SUBACCOUNTS_MAX + 1, page_size=_PAGE)
        where = self._settings.where(f"accounts[{index}].subaccounts")
        if len(listed) > SUBACCOUNTS_MAX:
            raise self._wrong(
                f"accounts[{index}].subaccounts", f"there are more than {SUBACCOUNTS_MAX}. Name those that matter"
            )
        return [
            TwilioAccount(below.sid, account.alias, account.sid, self._client_below(account, below, where))
            for below in listed
            if below.sid != account.sid
        ]

    def _client_below(self, account: Account, below: Any, setting: str) -> Any:
        """A subaccount is asked with its own token, which its parent is shown: only the oldest API takes the parent's.

        https://www.twilio.com/docs/iam/api/subaccounts
        """
        sid, token = str(below.sid), below.auth_token
        if not token:
            raise NotPermitted(
                f"{setting}: Twilio does not show these credentials the token of subaccount {sid}. Give the account's "
                f"auth_token_file, or list the subaccounts that matter under `accounts` themselves",
                403,
                None,
            )
        remedy = "The token of this subaccount was rotated just now; ask again"
        return self._make(account, Caller(sid, sid, lambda: str(token), setting, remedy))

    def _client(self, index: int, account: Account, *, by_token: bool = False) -> Any:
        """A client with the API key where there is one: a token is for signatures first, and may do everything."""
        key = f"accounts[{index}]"
        in_region = f" of the region {account.region}" if account.region else ""
        if account.api_key_sid is not None and account.api_key_secret_file is not None and not by_token:
            caller = Caller(
                account.sid,
                account.api_key_sid,
                account.api_key_secret_file.read,
                self._settings.where(f"{key}.api_key_secret_file"),
                f"Is api_key_sid a key of this account{in_region} that still exists, and this file its secret?",
            )
        elif account.auth_token_file is not None:
            caller = Caller(
                account.sid,
                account.sid,
                _first_line(account.auth_token_file.lines),
                self._settings.where(f"{key}.auth_token_file"),
                f"Put the account's present auth token{in_region} into the first line of that file",
            )
        else:
            raise self._wrong(key, "has no credentials. Give auth_token_file, or api_key_sid and api_key_secret_file")
        return self._make(account, caller)

    def _make(self, account: Account, caller: Caller) -> Any:
        assert self._session is not None, "used outside of its `async with`"
        transport = Transport(
            caller,
            self._session,
            self._paces.setdefault(caller.account_sid, Pace(self._clock)),
            limits=self._limits,
            clock=self._clock,
            api_url=self._settings.twilio.api_url,
            told=self._told,
        )
        # The transport reads the secret itself, whenever it needs it: the client, which may end up in a traceback,
        # holds none.
        return Client(
            caller.username,
            "read by the transport",
            caller.account_sid,
            region=account.region,
            edge=account.edge,
            environment=_NO_ENVIRONMENT,
            http_client=transport,
        )

    def _wrong(self, key: str, message: str) -> SettingsError:
        return SettingsError([Problem("settings", 0, self._settings.where(key), message)])


def _first_line(lines: Callable[[], tuple[str, ...]]) -> Callable[[], str]:
    """The present token: those that follow are on their way in or out, and only check signatures."""
    return lambda: lines()[0]
