"""Devices of torch, by what people call them."""

from __future__ import annotations

import torch

from criticality.arguments import shown
from criticality.errors import ArgumentError, first_sentence


def torch_device(device: str | torch.device) -> torch.device:
    """The device of that name, if it is there.

    Raises:
        CriticalityError: a name that torch does not know, or a device that this machine has not.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ImportError) as error:
        said = first_sentence(str(error)) or type(error).__name__
        raise ArgumentError(
            f"device={shown(device)} must be a device that torch has here, such as 'cpu': {said}"
        ) from None
    if found.type == "meta" or (found.type == "cpu" and found.index):
        raise ArgumentError(f"device={shown(device)} must be one that holds numbers and is here, such as 'cpu'")
    return found
