"""Requests that nobody signed, made from some that were."""

from __future__ import annotations

import base64
import hashlib
from random import Random
from typing import Final

from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]  # The package has no types.

from tests.webhooks import EVENTS, PUBLIC, Request, dumped, event, posted


def forge(chance: Random, number: int) -> Request:
    """A request that nobody signed, made from one that was: one thing is altered, or two."""
    genuine = request = posted(dumped([event(number)]))
    while request == genuine:  # One alteration may undo the other.
        for _ in range(chance.choice((1, 1, 2))):
            request = chance.choice(MUTATIONS)(chance, request)
    return request


def _other_byte(chance: Random, text: bytes) -> bytes:
    place = chance.randrange(len(text)) if text else 0
    return text[:place] + bytes([(text[place] if text else 0) ^ chance.randrange(1, 256)]) + text[place + 1 :]


def _alter_body(chance: Random, request: Request) -> Request:
    return request._replace(body=_other_byte(chance, request.body))


def _cut_body(chance: Random, request: Request) -> Request:
    return request._replace(body=request.body[: chance.randrange(max(1, len(request.body)))])


def _hash_of_own(chance: Random, request: Request) -> Request:
    """What a forger who knows the scheme but not the token would do."""
    body = dumped([event(chance.randrange(1 << 30))])
    return request._replace(path=f"{EVENTS}?bodySHA256={hashlib.sha256(body).hexdigest()}", body=body)


def _second_hash(chance: Random, request: Request) -> Request:
    own = f"bodySHA256={hashlib.sha256(request.body).hexdigest()}"
    return request._replace(path=f"{request.path}&{own}" if chance.random() < 0.5 else f"{EVENTS}?{own}&{request.path}")


def _alter_query(chance: Random, request: Request) -> Request:
    before, _, query = request.path.partition("?")
    place = chance.randrange(len(query))
    return request._replace(path=f"{before}?{query[:place]}{chance.choice('0123456789abcdef&=%')}x{query[place:]}")


def _alter_signature(chance: Random, request: Request) -> Request:
    signature = request.headers.get("X-Twilio-Signature", "")
    place = chance.randrange(len(signature) + 1)
    kind = chance.randrange(4)
    if kind == 0:
        signature = signature[:place] + chance.choice("ABCxyz+/=") + signature[place:]
    elif kind == 1:
        signature = base64.b64encode(chance.randbytes(20)).decode()
    elif kind == 2:
        signature = signature[: len(signature) - 1 - chance.randrange(4)]
    else:
        signature = RequestValidator(chance.randbytes(16).hex()).compute_signature(PUBLIC + request.path, {})
    return request._replace(headers={**request.headers, "X-Twilio-Signature": signature})


MUTATIONS: Final = (_alter_body, _cut_body, _hash_of_own, _second_hash, _alter_query, _alter_signature)
