"""What does a sampled prediction cost, beside one forward and backward pass of the model with its weights?

``ViT-B``: 197 tokens, one photograph and two, one seed, building included; processor time of one thread, which other
processes on the machine change less than wall time.  ``Llama-70B``: from its config, sequences of 16 tokens, a process of its own:
processor time without imports, and the peak of memory with them.

    python benchmarks/sampled_cost.py             # both
    python benchmarks/sampled_cost.py llama 1     # one sequence of 16 tokens: the last number printed is the peak in bytes
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from criticality.models import ViTSpec, model_spec, photographs
from criticality.weightless import build_without_weights, predict_sampled
from side_by_side import machine, seconds

LLAMA_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 28672,
}


def vit(count: int, rounds: int = 5) -> None:
    """One line of the table: a sampled prediction beside the model's own passes, ``count`` photographs."""
    description = ViTSpec("vit_base_patch16_224")
    images = torch.from_numpy(photographs()[:count])
    model = description.build().eval().requires_grad_(False)

    def passes() -> object:
        x = images.clone().requires_grad_()
        return torch.autograd.grad(model(x).sum(), x)

    candidates = {"passes": passes, "sampled": lambda: predict_sampled(description.create, images, 1)}
    taken = seconds(candidates, rounds, clock=time.process_time)
    print(
        f"{count:>12d}{taken['passes']:12.2f}{taken['sampled']:12.2f}{taken['sampled'] / taken['passes']:8.2f}",
        flush=True,
    )


def llama(sequences: int) -> None:
    """Predict, and print times and the peak of memory."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(LLAMA_70B))
        description = model_spec(f"hf:{folder}", tokens=16)
        inputs = {name: tokens[:sequences] for name, tokens in description.inputs().items()}
        before = _peak()
        start = time.process_time()
        build_without_weights(description.create)
        built = time.process_time()
        found = predict_sampled(description.create, inputs, 1)
        done = time.process_time()
    print(
        f"{sequences} x 16 tokens: log J {float(found.log_apjn[0]):.2f}, {built - start:.2f} s to build,"
        f" {done - built:.1f} s to predict, {before / 2**30:.2f} GB imported, peak in bytes: {_peak()}"
    )


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    if len(sys.argv) > 1:
        llama(int(sys.argv[2]))
        return
    torch.set_num_threads(1)
    print(__doc__, machine(), sep="\n")
    print(f"\n{'photographs':>12s}{'passes s':>12s}{'sampled s':>12s}{'ratio':>8s}")
    for count in (1, 2):
        vit(count)
    for sequences in (1, 2):
        subprocess.run([sys.executable, __file__, "llama", str(sequences)], check=True)


if __name__ == "__main__":
    main()
