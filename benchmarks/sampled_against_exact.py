"""Do the two ways of prediction agree where a network has both: run without its weights, and the exact theory of infinite width?

    python benchmarks/sampled_against_exact.py                     # what is not in the store yet, about 20 minutes
    python benchmarks/sampled_against_exact.py --only llama --store /tmp/some.jsonl

Four blocks of each family at width 1024, one sequence of 16 bytes of text or one photograph of 16 patches, the model's own
initialization.  ``log E J(l -> L)`` of every point over 24 seeds with its standard error, against the exact value.  A family with
a difference beyond 2 standard errors is run at width 512, too, with ``fan_in Var(W)`` as it was: the network of infinite
width is the same, and what a finite width adds is twice as much.  One line of
JSON each; ``docs/make_sampled_against_exact.py`` makes the page.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from criticality.errors import UndescribedError
from criticality.measurement.statistics import log_mean
from criticality.models import ModelSpec, model_spec
from criticality.models.reading import described as describe
from criticality.theory import Network, TokenKernel, propagate
from criticality.weightless import build_without_weights, laws_of, predict_sampled
from criticality.weightless.initializing import Initializer

STORE = Path(__file__).parents[1] / "docs" / "data" / "sampled_against_exact.jsonl"
WIDTHS = (1024, 512)
DEPTH, TOKENS, PIXELS, SEEDS = 4, 16, 64, 24
SCORES, SAMPLES = 6, 512
"""Seeds of the scores of attention, and scores of each, of the exact way: what it averages over."""
BEYOND = 2.0
"""Standard errors."""

IMAGES = (
    *("timm:vit_base_patch16_224", "hf:vit", "timm:deit3_base_patch16_224", "timm:vit_base_patch16_rope_224"),
    *("hf:deit", "hf:dinov2", "hf:beit", "timm:beit_base_patch16_224", "timm:vit_base_patch16_clip_224"),
)
TEXT = (
    *("gpt2", "llama", "bert", "qwen3", "gptj", "opt", "cohere", "distilbert", "gpt_neox", "granite", "olmo", "glm"),
    *("mistral", "qwen2", "phi", "codegen", "persimmon", "starcoder2", "smollm3", "helium", "exaone4", "stablelm"),
    *("roberta", "xlm-roberta", "camembert", "electra", "ernie", "gpt_neo", "biogpt"),
)
HEADS = {"gpt_neox": 16, "stablelm": 16}
POINTWISE = ("hf:gpt2", "hf:llama", "timm:vit_base_patch16_224")


def cases() -> Iterator[dict[str, Any]]:
    """What is compared: every family with its own norms, three of them with functions in their place."""
    models = [model for pair in zip_longest(IMAGES, (f"hf:{kind}" for kind in TEXT)) for model in pair if model]
    own = [{"model": model, "norm": None} for model in models]
    pointwise = [{"model": model, "norm": norm} for model in POINTWISE for norm in ("dyt", "derf")]
    yield from (*own[:8], *pointwise, *own[8:])


def description(model: str, norm: str | None, width: int) -> ModelSpec:
    """One of the cases."""
    sizes: dict[str, Any] = {"depth": DEPTH, "width": width, "heads": HEADS.get(model.removeprefix("hf:"))}
    sizes |= {"norm": norm, "alpha": 0.7 if norm else None}
    return model_spec(model, **sizes, **({"image_size": PIXELS} if model in IMAGES else {"tokens": TOKENS}))


def laws_of_width(model: str, norm: str | None, width: int) -> Initializer:
    """What keeps ``fan_in Var(W)`` of every branch what it is at the first width."""
    laws = laws_of(build_without_weights(description(model, norm, WIDTHS[0]).create, at_least=1))

    def draw(name: str, weight: Tensor, fan_in: int) -> None:
        nn.init.normal_(weight, std=math.sqrt(laws[name].variance * WIDTHS[0] / width))

    return draw


def exact_values(network: Network, kernel: TokenKernel) -> tuple[np.ndarray, np.ndarray]:
    """``log J`` at every point, and its standard error over seeds of the scores."""
    found = [propagate(network, kernel, samples=SAMPLES, seed=seed).log_apjn.values for seed in range(SCORES)]
    return log_mean(np.array(found))


def compared(model: str, norm: str | None, width: int) -> dict[str, Any]:
    """Both ways for one case."""
    described = description(model, norm, width)
    init = described.init if width == WIDTHS[0] else laws_of_width(model, norm, width)
    row: dict[str, Any] = {"model": model, "norm": norm, "width": width, "seeds": SEEDS}
    try:
        network, kernels = describe(described.create, init, described.inputs())
    except UndescribedError as error:
        return row | {"undescribed": str(error)}
    exact, exact_error = exact_values(network, kernels[0])
    one = tree_map(lambda batch: batch[:1], described.inputs())
    start = time.process_time()
    sampled = predict_sampled(described.create, one, SEEDS, points="sublayers", init=init)
    seconds = time.process_time() - start
    rest = slice(0, -1)  # J(L -> L) = 1
    if len(exact) != sampled.sizes["block"]:
        raise ValueError(f"{model}: {len(exact)} points exact, {sampled.sizes['block']} sampled")
    return row | {
        "points": sampled.attrs["points"],
        "exact": np.round(exact[rest], 6).tolist(),
        "exact_error": np.round(exact_error[rest], 6).tolist(),
        "sampled": np.round(sampled.log_apjn.values[rest], 6).tolist(),
        "error": np.round(sampled.log_apjn_se.values[rest], 6).tolist(),
        "seconds": round(seconds / SEEDS, 2),
    }


def beyond(row: dict[str, Any]) -> int:
    """At how many points the two differ by more than two standard errors, those of both."""
    points = zip(row["exact"], row["sampled"], row["exact_error"], row["error"], strict=True)
    return sum(abs(a - b) > BEYOND * math.hypot(*errors) for a, b, *errors in points)


def stored(store: Path) -> list[dict[str, Any]]:
    """What was compared before."""
    return [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a model's name")
    parser.add_argument("--store", type=Path, default=STORE)
    arguments = parser.parse_args()
    known = {(row["model"], row["norm"], row["width"]): row for row in stored(arguments.store)}
    for case in cases():
        if arguments.only not in case["model"]:
            continue
        for width in WIDTHS:
            key = (*case.values(), width)
            if key not in known:
                known[key] = compared(**case, width=width)
                with arguments.store.open("a") as file:
                    file.write(json.dumps(known[key]) + "\n")
                print(*key, f"{beyond(known[key])} beyond" if "exact" in known[key] else "undescribed", flush=True)
            if "exact" not in known[key] or not beyond(known[key]):
                break


if __name__ == "__main__":
    main()
