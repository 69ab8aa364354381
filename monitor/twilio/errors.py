"""What asking Twilio can come to: a closed set, so that no caller has to know Twilio's package or an HTTP library.

No error holds a token, a telephone number or a query string; ``code`` is Twilio's own number for what is wrong.
https://www.twilio.com/docs/api/errors
"""

from __future__ import annotations

from typing import Final

from monitor.errors import OutOfReach, WrongInput


class TwilioRefused(WrongInput):
    """Twilio has answered, and the answer is no: to ask again changes nothing. ``status`` is that of HTTP."""

    def __init__(self, message: str, status: int, code: int | None) -> None:
        super().__init__(message)
        self.status: Final = status
        self.code: Final = code


class BadCredentials(TwilioRefused):
    """Twilio does not know who asks: a token that was rotated, a key of another account or region (401)."""


class NotPermitted(TwilioRefused):
    """Twilio knows who asks, and does not let them (403)."""


class NotThere(TwilioRefused):
    """There is no such thing in this account, or not any more (404)."""


class TwilioUnavailable(OutOfReach):
    """Twilio could not be asked, or did not answer in time, as often as was tried."""
