"""The optimizer daemon. Importing this package only chooses where compiled kernels are kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path


def _choose_kernel_cache() -> None:
    """Point numba's on-disk cache at a folder named after its version and the sources of all kernels.

    numba looks only at the file that holds a kernel, not at the functions it calls in other files: without this, a
    change to a shared helper would go on running the old code. The cache holds pickles, so only a folder of our own
    will do. numba must be able to write to it: one on a read-only file system is copied.
    """
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    digest = hashlib.sha256(version("numba").encode())
    for source in sorted((Path(__file__).parent / "optimizers").glob("*.py")):
        digest.update(source.read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    folder = root / "optimd" / f"kernels-{digest.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        own = folder.stat().st_uid == os.getuid()
        usable = own and os.access(folder, os.W_OK)
    except (OSError, RuntimeError):
        own = usable = False
    if not usable:
        try:
            copy = Path(tempfile.mkdtemp(prefix="optimd-kernels-"))
        except OSError as error:
            remedy = "set NUMBA_CACHE_DIR, or mount a tmpfs at /tmp"
            raise SystemExit(
                f"optimd: compiled kernels need a folder that can be written: {remedy} ({error})"
            ) from None
        if own:
            shutil.copytree(folder, copy, dirs_exist_ok=True)
        folder = copy
    os.environ["NUMBA_CACHE_DIR"] = str(folder)


_choose_kernel_cache()
