"""What cannot fit into memory is refused before it is begun."""

from __future__ import annotations

import os

from criticality.errors import ArgumentError


def memory() -> float:
    """Bytes of this machine; infinite where the system does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return float("inf")


def require_memory(size: float, what: str) -> None:
    """Refuse what takes at least ``size`` bytes, where there are fewer.

    Raises:
        ArgumentError: naming ``what``, such as ``"tokens=1000000"``, and both sizes.
    """
    if size > memory():
        raise ArgumentError(
            f"{what} must fit into memory, but takes {size / 2**30:.0f} GiB at least, and there are {memory() / 2**30:.0f}"
        )
