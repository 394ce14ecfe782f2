"""CRC-32C of a payload chunk, as the contract's crc32c fields carry it."""

from __future__ import annotations

import google_crc32c
import numpy as np
from numpy.typing import NDArray


def crc32c(data: bytes | NDArray[np.uint8], before: int = 0) -> int:
    """CRC-32C (Castagnoli) of bytes or of a contiguous byte array, which is read in place, behind data of sum `before`.

    The library's C extension takes bytes and numpy arrays without a copy, but refuses memoryview.
    """
    return int(google_crc32c.extend(before, data))
