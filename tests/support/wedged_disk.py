"""`optimd` on a disk that stops answering once a file is there: python -m tests.support.wedged_disk FILE serve ..."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from optimd_server.cli import main


def wedge_on(sign: Path) -> None:
    """From the moment the file exists no fsync returns."""
    fsync = os.fsync

    def hang(descriptor: int) -> None:
        if sign.exists():
            threading.Event().wait()
        fsync(descriptor)

    os.fsync = hang  # type: ignore[assignment]


if __name__ == "__main__":
    wedge_on(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
