"""What the comments of the contract promise, for tests that compare it with what the server does."""

from __future__ import annotations

import re
from pathlib import Path

CONTRACT = Path(__file__).parents[2] / "proto" / "optimd" / "v1" / "optimd.proto"
Keys = frozenset[str]


def metadata_of_reasons() -> dict[str, list[Keys]]:
    """By reason: the sets of keys that its ErrorInfo may have."""
    found = re.findall(r"((?:  //[^\n]*\n)+)  ERROR_REASON_([A-Z_]+) = [1-9]\d*;", CONTRACT.read_text())
    return {reason: _alternatives(" ".join(line.strip(" /") for line in text.splitlines())) for text, reason in found}


def _alternatives(comment: str) -> list[Keys]:
    _, said, keys = comment.partition("metadata: ")
    if not said:
        return [frozenset()]
    keys = re.sub(r"\([^)]*\)", "", keys).partition(".")[0]
    return [frozenset(re.findall(r"[a-z_]+", part)) - {"or", "none"} for part in keys.split(";")]
