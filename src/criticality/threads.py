"""One thread for products of small matrices: several wait for each other, on a busy machine for twenty times as long."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def one_thread() -> AbstractContextManager[object]:
    """Within it NumPy's BLAS, which is one for the whole process, has one thread, unless another thread's limit holds."""
    limit: AbstractContextManager[object] = _controller().limit(limits=1, user_api="blas")
    return limit
