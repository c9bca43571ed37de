"""What does a whole profile J(l -> L) cost, beside one forward and backward pass, and beside the published loop?

ViT-S, 12 blocks, two photographs.  ``plain``: one forward pass and one backward pass to the input of the first block,
parameters frozen.  ``loop``: the way of the published research code, a backward pass from the last layer to every
layer, ten probes each.  Both estimate the same numbers: the table also gives their standard errors over repetitions,
and the cost of the loop at the standard error of one profile.  The last line is a small GPT-2, two texts of 128 tokens,
beside its forward and backward pass to the embeddings.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
import xarray  # noqa: F401  (the first measurement imports it, which is not its memory)
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from criticality.measurement import measure
from criticality.models import ViTSpec, photographs
from side_by_side import machine, peak_bytes, peak_growth, seconds

PROBES = 10


def model_and_images() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return ViTSpec("vit_small_patch16_224", norm="dyt").build().eval(), torch.from_numpy(photographs())


def stream(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Points of the stream, written out for this one model."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    x = model._pos_embed(model.patch_embed(images)).detach().requires_grad_()
    points = [x]
    for block in model.blocks:
        x = block(x)
        points.append(x)
    return points


def plain(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    points = stream(model, images)
    return torch.autograd.grad(points[-1], points[0], torch.randn_like(points[-1]))[0]


def gpt2() -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=384, n_layer=6, n_head=6, vocab_size=5000)).eval().requires_grad_(False)
    ids = torch.randint(5000, (2, 128))

    def plain() -> torch.Tensor:
        embedded = model.transformer.wte(ids).detach().requires_grad_()
        out = model(inputs_embeds=embedded, use_cache=False).logits
        return torch.autograd.grad(out, embedded, torch.randn_like(out))[0]

    return {"plain": plain, "profile": lambda: measure(model, ids)}


def loop(model: nn.Module, images: torch.Tensor, probes: int = PROBES) -> np.ndarray:
    points = stream(model, images)
    values = []
    for point in points[:-1]:
        squares = []
        for _ in range(probes):
            probe = torch.randn_like(points[-1])
            (gradient,) = torch.autograd.grad(points[-1], point, probe, retain_graph=True)
            squares.append(float(gradient.square().sum() / probe.square().sum()))
        values.append(np.mean(squares))
    return np.log(values)


def main() -> None:
    model, images = model_and_images()
    if len(sys.argv) > 1:  # in a fresh process, for memory
        calls = {"plain": lambda: plain(model, images), "profile": lambda: measure(model, images)}
        print(peak_growth(calls[sys.argv[1]]))
        return
    print(__doc__, machine(), sep="\n")
    taken = seconds({"plain": lambda: plain(model, images), "profile": lambda: measure(model, images)}, rounds=15)
    taken |= seconds({"loop": lambda: loop(model, images)}, rounds=3, warm_up=0)
    memory = {name: peak_bytes(__file__, name) for name in ("plain", "profile")}
    profile_error = np.std([measure(model, images, seed=s).log_apjn[0] for s in range(20)], ddof=1)
    loop_error = np.std([loop(model, images)[0] for _ in range(8)], ddof=1)
    print(f"\n{'':10s}{'seconds':>10s}{'ratio':>8s}{'peak MB':>10s}{'SE of log J(0->L)':>20s}")
    errors = {"plain": float("nan"), "profile": profile_error, "loop": loop_error}
    for name, value in taken.items():
        peak = f"{memory[name] / 2**20:10.0f}" if name in memory else f"{'':10s}"
        print(f"{name:10s}{value:10.3f}{value / taken['plain']:8.2f}{peak}{errors[name]:20.4f}")
    print(
        f"\nprofile / plain: time {taken['profile'] / taken['plain']:.3f}, memory"
        f" {memory['profile'] / memory['plain']:.3f} (at most 1.1 wanted)"
    )
    print(
        f"loop / profile: {taken['loop'] / taken['profile']:.1f}; at equal standard error"
        f" {taken['loop'] / taken['profile'] * (loop_error / profile_error) ** 2:.1f}"
    )
    taken = seconds(gpt2(), rounds=25)
    print(f"GPT-2, profile / plain: time {taken['profile'] / taken['plain']:.3f}")


if __name__ == "__main__":
    main()
