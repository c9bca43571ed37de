"""Is the law of every large weight right, for every model type of timm and Hugging Face transformers?

Each model is built twice: without weights, and really.  For each large parameter, mean and second moment of the law are
compared with those of the drawn weights; buffers, and parameters that nothing random is in, must be equal to the bit.

    python benchmarks/laws_scan.py timm hf --most 1.5e8 --out scan.json
"""

from __future__ import annotations

import argparse
import json
import math
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from criticality.weightless.building import build_without_weights
from criticality.weightless.laws import law_of, measured_law, unknown_laws
from criticality.weightless.weight import RandomWeight

STANDARD_ERRORS = 5.0
SAMPLE_NOISE = 0.003
"""Relative; of laws that are played by rejection."""

OUTLIER = 20.0
"""Standard deviations: timm's truncated normal, in single precision, draws one entry in 2^24 that is a hundred away."""

SHRUNK = {
    **dict.fromkeys(
        ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_encoder_layers", "encoder_layers"), 2
    ),
    **dict.fromkeys(("decoder_layers", "num_decoder_layers", "depth"), 2),
    **dict.fromkeys(("vocab_size",), 1024),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 8),
}


def disagreements(bare: nn.Module, real: nn.Module) -> list[str]:
    """What the model without weights says otherwise than the real one, a line each."""
    found = []
    theirs = dict(real.named_parameters(remove_duplicate=False))
    ours = dict(bare.named_parameters(remove_duplicate=False))
    if theirs.keys() != ours.keys():
        return [f"names differ: {sorted(theirs.keys() ^ ours.keys())[:3]}"]
    groups = [Counter(map(id, m.values())) for m in (ours, theirs)]
    if sorted(groups[0].values()) != sorted(groups[1].values()):
        found.append("ties differ")
    for name, weight in ours.items():
        other = theirs[name]
        if (weight.shape, weight.dtype, weight.requires_grad) != (other.shape, other.dtype, other.requires_grad):
            found.append(f"{name}: {weight.shape} {weight.dtype} instead of {other.shape} {other.dtype}")
        elif isinstance(weight, RandomWeight):
            found += [f"{name}: {line}" for line in different_law(weight, other)]
    return found


def different_buffers(bare: nn.Module, real: nn.Module, again: nn.Module) -> Iterator[str]:
    """Buffers that are not equal to the bit, those aside that two real models have different too: they are random."""
    first, second = dict(real.named_buffers()), dict(again.named_buffers())
    for name, buffer in bare.named_buffers():
        if type(buffer) is not torch.Tensor or buffer.dtype != first[name].dtype or buffer.shape != first[name].shape:
            yield f"buffer {name} is {type(buffer).__name__} {buffer.dtype} {tuple(buffer.shape)}"
        elif not _equal(buffer, first[name]) and _equal(first[name], second[name]):
            yield f"buffer {name} of shape {tuple(buffer.shape)} differs"


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def different_law(weight: RandomWeight, real: torch.Tensor) -> Iterator[str]:
    law = law_of(weight)
    kept = (real.detach().double() - law.mean).abs() <= OUTLIER * law.variance**0.5  # all, where the law is constant
    actual = measured_law(real.detach()[kept] if law.variance > 0 and not kept.all() else real)
    number = weight.numel()
    spread = law.sample.square().std(correction=0).item()
    for what, a, b, scale in (
        ("mean", law.mean, actual.mean, law.variance**0.5),
        ("second moment", law.second_moment, actual.second_moment, spread),
    ):
        tolerance = STANDARD_ERRORS * scale / math.sqrt(number) + SAMPLE_NOISE * (scale if what == "mean" else abs(b))
        if not abs(a - b) <= tolerance + 1e-6 * abs(b) + 1e-12:
            yield f"{what} {a:.5g} instead of {b:.5g} (tolerance {tolerance:.2g})"


def compare(name: str, factory: Callable[[], nn.Module], most: float) -> dict[str, Any]:
    """One line of the table: what was built, how long it took, what is wrong."""
    row: dict[str, Any] = {"name": name}
    try:
        start = time.perf_counter()
        bare = build_without_weights(factory)
        row["seconds"] = round(time.perf_counter() - start, 2)
    except Exception as error:
        try:
            with torch.device("meta"):  # a model that fails there, too, is not to blame on the laws
                factory()
        except Exception:
            return row | {"result": "does not build at all", "why": f"{type(error).__name__}: {str(error)[:150]}"}
        return row | {"result": "FAILED", "why": traceback.format_exc()[-600:]}
    row["parameters"] = sum(p.numel() for p in bare.parameters())
    row["random"] = sum(isinstance(p, RandomWeight) for p in bare.parameters())
    row["drawn really"] = [
        n for n, p in bare.named_parameters() if p.numel() >= 16384 and not isinstance(p, RandomWeight) and p.std() > 0
    ][:5]
    row["unknown"] = unknown_laws(bare)
    if row["parameters"] > most:
        return row | {"result": "built; too large to compare"}
    torch.manual_seed(1)
    real = factory()
    wrong = disagreements(bare, real)
    if any(not _equal(a, b) for a, b in zip(bare.buffers(), real.buffers(), strict=True)):
        wrong += different_buffers(bare, real, factory())
    return row | {"result": "WRONG" if wrong else "right", "why": wrong[:6]}


def timm_models() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """The smallest-named model of each module."""
    import timm

    for module in timm.list_modules():
        names = timm.list_models(module=module)
        if names:
            name = min(
                names,
                key=lambda n: (not any(k in n for k in ("tiny", "atto", "nano", "small", "_s_", "18")), len(n), n),
            )
            yield f"timm {module}: {name}", lambda name=name: timm.create_model(name)  # type: ignore[misc]


def hugging_face_models() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Every type that ``AutoModel`` knows, two layers of its default configuration."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoModel

    for kind in sorted(CONFIG_MAPPING):
        try:
            if CONFIG_MAPPING[kind] in MODEL_MAPPING:
                yield f"hf {kind}", lambda kind=kind: AutoModel.from_config(consistent(CONFIG_MAPPING[kind]))  # type: ignore[misc]
        except Exception as error:
            print(f"hf {kind}: {type(error).__name__}")


def consistent(kind: type) -> Any:
    """The shrunk configuration, or the default one where a model cannot even be laid out with the shrunk one."""
    from transformers import AutoModel

    try:
        with torch.device("meta"):
            AutoModel.from_config(shrunk(kind()))
        return shrunk(kind())
    except Exception:
        return kind()


def shrunk(config: Any) -> Any:
    """The configuration with two layers and small tables, where it is still consistent."""
    for name, value in SHRUNK.items():
        old = getattr(config, name, None)
        if isinstance(old, int) and old > value:
            try:
                setattr(config, name, value)
            except Exception:
                continue
    kinds, layers = getattr(config, "layer_types", None), getattr(config, "num_hidden_layers", None)
    if isinstance(kinds, list) and isinstance(layers, int) and isinstance(vars(config).get("layer_types"), list):
        config.layer_types = kinds[:layers]
    padding = getattr(config, "pad_token_id", None)
    if isinstance(padding, int) and padding >= SHRUNK["vocab_size"]:
        config.pad_token_id = 0
    for nested in vars(config).values():
        if hasattr(nested, "to_dict"):
            shrunk(nested)
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="+", choices=("timm", "hf"))
    parser.add_argument("--only", default="")
    parser.add_argument("--most", type=float, default=1.5e8, help="parameters of a model that is also built really")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = []
    for source in options.sources:
        for name, factory in {"timm": timm_models, "hf": hugging_face_models}[source]():
            if options.only in name:
                rows.append(compare(name, factory, options.most))
                print(json.dumps(rows[-1]), flush=True)
    print(Counter(row["result"] for row in rows))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
