"""What is trained: ViTs on scikit-learn's digits and on FashionMNIST, a GPT on the source code of Python's standard library."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from criticality.arguments import check_choice
from criticality.extras import require
from criticality.laboratory.names import TASKS
from criticality.models.initialization import initialize
from criticality.theory import Network, TokenKernel

__all__ = [
    "CONTEXT",
    "Task",
    "task",
]

CONTEXT = 64
"""Bytes that the GPT sees."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A model, its data and its loss.

    Attributes:
        build: ``(depth, width)`` to a model with LayerNorm, from torch's random state.
        batch: ``(size, generator)`` to a training batch.
        validation: the whole held-out batch.
        loss: ``(model, batch)`` to the mean loss.
        constant_loss: ``batch`` to the mean loss of the best prediction that does not look at the input, from how often each label
            occurs in the training data.
        score: ``(model, batch)`` to what counts at the end: accuracy, or loss in bits per byte with the sign that more is better.
        read: a model and a batch to its network and the kernels at its start.
        inputs: a batch to what the model takes.
        test: a second held-out batch, that only reports; ``None`` where ``validation`` is all there is.
    """

    build: Callable[[int, int], nn.Module]
    batch: Callable[[int, torch.Generator], Any]
    validation: Callable[[], Any]
    loss: Callable[[nn.Module, Any], Tensor]
    constant_loss: Callable[[Any], float]
    score: Callable[[nn.Module, Any], float]
    read: Callable[[nn.Module, Any], tuple[Network, list[TokenKernel]]]
    inputs: Callable[[Any], Any]
    test: Callable[[], Any] | None = None


def task(name: str, data_root: str | os.PathLike[str] | None = None) -> Task:
    """A task by name; ``data_root`` is where FashionMNIST lies, as for ``data.fashion_mnist``.

    Raises:
        ValueError: for another name.
    """
    check_task(name)
    if name == "fashion-vit":
        from criticality.laboratory.fashion_vit import fashion_vit_task

        return fashion_vit_task(data_root)
    return {"digits": _digits_task, "code": _code_task, "code-gpt": _code_gpt_task}[name]()


def check_task(name: str) -> None:
    """Refuse what is not in ``TASKS``.

    Raises:
        ValueError: for another name.
    """
    check_choice("task", name, TASKS)


@cache
def _digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    require("sklearn")
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.images))
    images = torch.from_numpy((data.images[order] / 8.0 - 1.0).astype(np.float32))[:, None]
    labels = torch.from_numpy(data.target[order].astype(np.int64))
    return images[:1437], labels[:1437], images[1437:], labels[1437:]


def surprise(labels: Tensor, classes: int) -> Tensor:
    """``-log`` of the share of each class, none of them 0."""
    counts = torch.bincount(labels, minlength=classes).double() + 1
    return -torch.log(counts / counts.sum())


@cache
def _digits_surprise() -> Tensor:
    return surprise(_digits()[1], 10)


def small_vit(depth: int, width: int, image_size: int, patch_size: int) -> nn.Module:
    """timm's ViT for small grey images in ten classes: mean pooling, fan-in weights, and positions as large as the patches (with
    timm's 0.02 the places must be learned first)."""
    require("timm")
    from timm.models.vision_transformer import VisionTransformer

    model: nn.Module = VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        in_chans=1,
        num_classes=10,
        embed_dim=width,
        depth=depth,
        num_heads=max(1, width // 32),
        class_token=False,
        global_pool="avg",
    )
    initialize(model.blocks, "fan-in")  # type: ignore[arg-type]
    nn.init.normal_(model.pos_embed)  # type: ignore[arg-type]
    return model


def _digits_batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    images, labels, _, _ = _digits()
    chosen = torch.randint(0, len(images), (size,), generator=generator)
    return images[chosen], labels[chosen]


def accuracy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> float:
    """Share of the images whose label is the likeliest."""
    return float((model(batch[0]).argmax(-1) == batch[1]).float().mean())


def _digits_task() -> Task:
    from criticality.measurement import input_kernels
    from criticality.reader import read_network

    return Task(
        build=partial(small_vit, image_size=8, patch_size=2),
        batch=_digits_batch,
        validation=lambda: _digits()[2:],
        loss=lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]),
        constant_loss=lambda batch: float(_digits_surprise()[batch[1]].mean()),
        score=accuracy,
        read=lambda model, batch: (
            read_network(model, batch[0][:2]),
            [TokenKernel.of(np.mean(input_kernels(model, batch[0][:16]), axis=0))],
        ),
        inputs=lambda batch: batch[0],
    )


@cache
def _code() -> Tensor:
    from criticality.models.text import standard_library

    return torch.from_numpy(standard_library(4_000_000).astype(np.int64))


def _gpt(depth: int, width: int) -> nn.Module:
    require("transformers")
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=256,
        n_positions=CONTEXT,
        n_embd=width,
        n_layer=depth,
        n_head=max(1, width // 32),
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    model: nn.Module = GPT2LMHeadModel(config)
    body = model.transformer
    initialize(body.h, "fan-in")  # type: ignore[union-attr, arg-type]
    for embedding in (body.wte, body.wpe):  # type: ignore[union-attr]
        nn.init.normal_(embedding.weight)  # type: ignore[union-attr, arg-type] # a stream of variance 2, not 0.0008
    return model


def _code_training() -> Tensor:
    return _code()[: len(_code()) * 9 // 10]


@cache
def _code_surprise() -> Tensor:
    return surprise(_code_training(), 256)


def _code_batch(size: int, generator: torch.Generator) -> Tensor:
    text = _code_training()
    starts = torch.randint(0, len(text) - CONTEXT - 1, (size,), generator=generator)
    return torch.stack([text[start : start + CONTEXT + 1] for start in starts.tolist()])


def _code_validation() -> Tensor:
    text = _code()[len(_code()) * 9 // 10 :]
    return text[: 128 * (CONTEXT + 1)].reshape(128, CONTEXT + 1)


def _code_loss(model: nn.Module, batch: Tensor) -> Tensor:
    logits = model(input_ids=batch[:, :-1]).logits
    return functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def _code_task() -> Task:
    from criticality.measurement import input_kernels
    from criticality.reader import read_network

    return Task(
        build=_gpt,
        batch=_code_batch,
        validation=_code_validation,
        loss=_code_loss,
        constant_loss=lambda batch: float(_code_surprise()[batch[:, 1:]].mean()),
        score=lambda model, batch: -float(_code_loss(model, batch)) / np.log(2),
        read=lambda model, batch: (
            read_network(model, {"input_ids": batch[:2, :-1]}),
            [TokenKernel.of(k) for k in input_kernels(model, {"input_ids": batch[:2, :-1]})],
        ),
        inputs=lambda batch: {"input_ids": batch[:, :-1]},
    )


class ScaledEmbedding(nn.Embedding):
    """Rows times a learned number that starts at ``sqrt(width)``, as in the published DyT language models."""

    def __init__(self, rows: int, width: int):
        super().__init__(rows, width)
        nn.init.normal_(self.weight, std=width**-0.5)
        self.scale = nn.Parameter(torch.tensor(width**0.5))

    def forward(self, numbers: Tensor) -> Tensor:
        """``scale E[numbers]``, of unit variance at the start."""
        return self.scale * super().forward(numbers)


def _scaled_gpt(depth: int, width: int) -> nn.Module:
    model = _gpt(depth, width)
    model.transformer.wte = ScaledEmbedding(256, width)  # type: ignore[union-attr]
    return model


def _code_gpt_task() -> Task:
    """The GPT of ``code`` with scaled embeddings; the rest of the published recipe is in ``Run`` (``train.GPT_RECIPE``)."""
    return replace(_code_task(), build=_scaled_gpt)
