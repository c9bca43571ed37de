"""Models whose parameters are sharded over processes by ``torch.distributed.fsdp``."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from criticality.errors import InputsError


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a part of it only."""
    return hasattr(tensor, "full_tensor")


def gathered(tensor: Tensor) -> Tensor:
    """All of a tensor, on every process; all processes must ask for it."""
    held: Any = tensor
    whole: Tensor = held.full_tensor() if is_sharded(tensor) else tensor
    return whole


def reshard(model: nn.Module) -> None:
    """Let go of parameters that were gathered for a forward pass, so that those of the model are the ones that stay."""
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    for module in model.modules():
        if fsdp is not None and isinstance(module, fsdp.FSDPModule):
            module.reshard()


def at_rest(model: nn.Module) -> None:
    """Make the parameters of a model those whose values are read and written: as ``reshard``.

    Raises:
        InputsError: ``FullyShardedDataParallel`` shards it; its parameters are pieces of flattened ones, which are no weights.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    flat = fsdp and next((one for one in model.modules() if isinstance(one, fsdp.FullyShardedDataParallel)), None)
    if flat:
        raise InputsError(
            f"model {type(model).__name__} holds no whole weights, as FullyShardedDataParallel cuts them into flat pieces: it can"
            " be measured; for all else give the model before it is wrapped, or shard it with torch.distributed.fsdp.fully_shard"
        )
    reshard(model)


def mean_over_processes(model: nn.Module, numbers: np.ndarray) -> np.ndarray:
    """Of a sharded model the mean over its processes, which may have other inputs; of others the numbers themselves."""
    first: Any = next((one for one in model.parameters() if is_sharded(one)), None)
    if first is None:
        return numbers
    total = torch.as_tensor(np.asarray(numbers, dtype=float)).to(first.device)
    for axis in range(first.device_mesh.ndim):
        torch.distributed.all_reduce(total, group=first.device_mesh.get_group(axis))
    mean: np.ndarray = total.cpu().numpy() / first.device_mesh.size()
    return mean
