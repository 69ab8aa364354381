"""What ``doctor`` says about one hop of the ways in and out."""

from __future__ import annotations

from typing import Literal

import msgspec

Result = Literal["pass", "warn", "fail", "unreachable", "not asked"]


class Hop(msgspec.Struct, frozen=True):
    """One hop: what it is, how it stands there, why, and what to do about it.

    ``fail`` is an answer that shows something is wrong, ``unreachable`` that there was none. No secret is part of it.
    """

    name: str
    result: Result
    says: str
    remedy: str = ""
