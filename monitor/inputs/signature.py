"""Who signed a request: Twilio's signature, checked by Twilio's own validator, with all tokens that may have made it.

A JSON request is signed by its address alone, which names the hash of the body; a form by its address and parameters.
https://www.twilio.com/docs/usage/security#validating-requests
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import structlog
from multidict import MultiDict
from twilio.request_validator import (  # type: ignore[import-untyped]  # The package has no types.
    HMAC_SHA1,
    HMAC_SHA256,
    RequestValidator,
)

from monitor.file_identity import file_identity
from monitor.settings import SecretError, SecretFile

RECENT_S: Final = 15 * 60.0
LOOK_EVERY_S: Final = 1.0
TOKENS_MAX: Final = 4  # Of one account: the present one, the one before, the one to come, and one to spare.

log = structlog.get_logger(__name__)

_Content = str | MultiDict[str] | dict[str, str]
"""A JSON body as text, or the parameters of a form."""
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Key(NamedTuple):
    """A secret of an account and how requests are signed with it: auth tokens by ``HMAC_SHA1``, shared keys by
    ``HMAC_SHA256`` (https://www.twilio.com/docs/usage/webhooks/webhook-shared-keys).
    """

    account: str
    algorithm: str

    @classmethod
    def token(cls, account: str) -> Key:
        """The auth token of an account."""
        return cls(account, HMAC_SHA1)

    @classmethod
    def shared(cls, account: str) -> Key:
        """A key that was made for signing webhooks alone."""
        return cls(account, HMAC_SHA256)


class _Token:
    """One secret of an account, and when it last signed a request of which that could be shown."""

    __slots__ = ("key", "secret", "valid_at", "validator")

    def __init__(self, key: Key, secret: str) -> None:
        self.key = key
        self.secret = secret
        self.validator = RequestValidator(secret)
        self.valid_at: float | None = None

    def signed(self, url: str, content: _Content, signature: str) -> bool:
        """Ask Twilio's validator. It raises on some of what anybody may send: that is a no.

        The algorithm is the secret's, whatever a header of the request names: nobody else chooses it.
        """
        try:
            # Only True itself: whatever else came back would not be an answer to the question.
            return self.validator.validate(url, content, signature, self.key.algorithm) is True
        except Exception:
            return False


class SecretLines:
    """The lines of a secret's file, read again within ``LOOK_EVERY_S`` of a change; without a file there are none.

    While the file cannot be read (in the midst of being replaced, or gone), what it held counts on. Raises SecretError
    where it cannot be read at first.
    """

    def __init__(self, file: SecretFile | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._look_after = clock() + LOOK_EVERY_S
        self._identity = None if file is None else file_identity(file.path)
        self._lines = () if file is None else file.lines()

    def lines(self) -> tuple[str, ...]:
        """The lines, without those that are empty."""
        if self._file is None or self._clock() < self._look_after:
            return self._lines
        self._look_after = self._clock() + LOOK_EVERY_S
        identity = file_identity(self._file.path)
        if identity is not None and identity != self._identity:
            try:
                self._lines = self._file.lines()
            except SecretError as error:
                log.warning("secret_not_readable", why=str(error))
            else:
                self._identity = identity
                log.info("secret_changed", lines=len(self._lines))
        return self._lines


class Signatures:
    """The tokens of all accounts, and what they say of a request.

    ``files`` are each a key and its file, one secret a line, each key once. ``clock`` gives seconds that never go back.
    What is checked is checked against every token, the one first that was right last: a forgery costs as many checks as
    there are tokens.
    """

    def __init__(
        self, files: Sequence[tuple[Key, SecretFile]], *, require_body_hash: bool, clock: Callable[[], float]
    ) -> None:
        self._require_body_hash = require_body_hash
        self._clock = clock
        self._files = [(key, SecretLines(file, clock=clock)) for key, file in files]
        self._held: dict[Key, tuple[str, ...]] = {}
        self._tokens: list[_Token] = []
        self._look()

    def address_signed(self, urls: Sequence[str], signature: str) -> bool:
        """Whether the address was signed; nothing is said of a body. For one too large to be read from anybody."""
        return self._find(urls, {}, signature) is not None

    def signer_of_body(self, urls: Sequence[str], query: str, body: bytes, signature: str) -> str | None:
        """The account whose token signed an address that names the hash of this body; None: nobody's of ours.

        ``urls`` are the forms in which the address may have been signed, ``query`` is that of all of them. Some of
        Twilio's requests name the hash twice; two that differ are nobody's.
        """
        hashes = {value for name, value in parse_qsl(query, keep_blank_values=True) if name == "bodySHA256"}
        if len(hashes) > 1 or (self._require_body_hash and not hashes):
            return None
        if not hashes:
            # Nothing vouches for the body, and the validator would take its text for parameters.
            return self._valid(self._find(urls, {}, signature))
        try:
            text = body.decode()  # It wants text, and takes bytes for parameters.
        except UnicodeDecodeError:
            return None
        return self._valid(self._find(urls, text, signature))

    def signer_of_form(self, urls: Sequence[str], form: MultiDict[str], signature: str) -> str | None:
        """The account whose token signed an address with these parameters; None: nobody's of ours."""
        return self._valid(self._find(urls, form, signature))

    def recently_valid(self, claimed: str | None) -> bool:
        """Whether valid signatures were seen in the last 15 minutes, with tokens that are still ours.

        Only then is a bad one a forgery for certain; else the token may have been rotated without us. ``claimed`` is
        the account that the request says it is of, which anybody may say: it chooses whose tokens have to have been
        seen. Where that is no account with tokens, all accounts' have to.
        """
        self._look()
        seen: dict[str, float | None] = {}
        for token in self._tokens:
            account = token.key.account
            latest = seen.get(account)
            seen[account] = token.valid_at if latest is None else max(latest, token.valid_at or latest)
        asked = [seen[claimed]] if claimed in seen else list(seen.values())
        since = self._clock() - RECENT_S
        return bool(asked) and all(at is not None and at > since for at in asked)

    def _find(self, urls: Sequence[str], content: _Content, signature: str) -> _Token | None:
        self._look()
        for place, token in enumerate(self._tokens):
            if any(token.signed(url, content, signature) for url in urls):
                if place:
                    self._tokens.insert(0, self._tokens.pop(place))
                return token
        return None

    def _valid(self, token: _Token | None) -> str | None:
        if token is None:
            return None
        token.valid_at = self._clock()
        return token.key.account

    def _look(self) -> None:
        """Put an account's tokens in place of those before, where they are others. What stays keeps what is known."""
        for key, file in self._files:
            secrets = file.lines()
            if self._held.get(key) == secrets:
                continue
            self._held[key] = secrets
            before = {token.secret: token for token in self._tokens if token.key == key}
            kept = [token for token in self._tokens if token.key != key]
            present = dict.fromkeys(secrets[:TOKENS_MAX])
            self._tokens = [*(before.get(secret) or _Token(key, secret) for secret in present), *kept]


def read_form(body: bytes) -> MultiDict[str] | None:
    """The parameters of a form, empty ones too, as they are signed; None where it is none."""
    try:
        text = body.decode("ascii")
        return MultiDict(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=1_000))
    except ValueError:
        return None


class Caller:
    """Who calls, and which address was called: what a proxy says counts only where the proxy is one of ours.

    ``public_url`` is the address that Twilio was given, without the path of the endpoint.
    """

    def __init__(self, public_url: str, trusted_proxies: Iterable[str], sources: Iterable[str]) -> None:
        parts = urlsplit(public_url)
        self.prefix: Final = parts.path.rstrip("/")
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._scheme, self._netloc = parts.scheme, parts.netloc
        self._proxies = [ipaddress.ip_network(network) for network in trusted_proxies]
        self._sources = [ipaddress.ip_network(network) for network in sources]

    def origin(self, peer: str | None, headers: Mapping[str, str]) -> str:
        """Scheme and host of the address that was called: as a trusted proxy says it, else as the settings do."""
        scheme = _last(headers.get("X-Forwarded-Proto"))
        host = _last(headers.get("X-Forwarded-Host"))
        if not (scheme or host) or not _within(peer, self._proxies):
            return self._origin
        return f"{scheme or self._scheme}://{host or self._netloc}"

    def expected(self, peer: str | None, headers: Mapping[str, str]) -> bool:
        """Whether the call comes from where Twilio calls from. What trusted proxies say of the way is believed."""
        if not self._sources:
            return True
        hops = [hop.strip() for hop in headers.get("X-Forwarded-For", "").split(",") if hop.strip()]
        while hops and _within(peer, self._proxies):
            peer = hops.pop()
        return _within(peer, self._sources)


def _last(header: str | None) -> str:
    """What the nearest proxy put there; what stands before it somebody else may have sent."""
    return (header or "").rpartition(",")[2].strip()


def _within(address: str | None, networks: Iterable[_Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)
