"""What `optimd doctor` finds: checks live on both sides of the contract, each side registers its own."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """One check. `found`: in words; `remedy`: what to do about it, "" if nothing."""

    check: str
    state: Literal["ok", "note", "bad", "skipped"]
    found: str
    remedy: str = ""
