"""Write data/families.json: the exact engine against the measurement, ``python docs/make_exact_families.py``.

About ten minutes on two cores.  Results are kept below ``docs/data/families`` while it runs, and taken up again.
``make_families.py`` makes the page.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from criticality import __version__
from criticality.studies.compare import Comparison, compare, summary

DOCS = Path(__file__).parent
WORK = Path(tempfile.gettempdir()) / "criticality-families"

FAMILIES = [
    ("ViT", "timm:vit_small_patch16_224", {"image_size": 112}),
    ("DeiT", "timm:deit_small_distilled_patch16_224", {"image_size": 224}),
    ("DeiT-III", "timm:deit3_small_patch16_224", {"image_size": 112}),
    ("EVA-02", "timm:eva02_small_patch14_224", {"image_size": 112}),
    ("ViT, rotary", "timm:vit_small_patch16_rope_224", {"image_size": 112}),
    ("GPT-2", "hf:gpt2", {"width": 384}),
    ("Llama", "hf:llama", {"width": 512}),
    ("Mistral", "hf:mistral", {"width": 512}),
    ("Qwen2", "hf:qwen2", {"width": 512}),
    ("Qwen3", "hf:qwen3", {"width": 512}),
    ("BERT", "hf:bert", {"width": 384}),
    ("ViT (Hugging Face)", "hf:vit", {"width": 384, "image_size": 112}),
]


def llama_config(width: int) -> Path:
    """A Llama-2-70B in all but width, its weights scaled so that fan_in Var(W) is kept."""
    folder = WORK / f"llama-70b-{width}"
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": 80,
        "num_attention_heads": width // 64 if width < 8192 else 64,
        "num_key_value_heads": max(1, width // 512) if width < 8192 else 8,
        "intermediate_size": width * 7 // 2,
        "initializer_range": 0.02 * (8192 / width) ** 0.5,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def main() -> None:
    rows = []
    for label, model, changes in FAMILIES:
        comparison = Comparison(
            model,
            norms=("own", "dyt", "derf"),
            alphas=(0.5, 1.0),
            inits=("own",),
            depth=12,
            seeds=6,
            samples=32,
            **changes,
        )
        folder = WORK / model.replace(":", "-")
        for case in summary(compare(comparison, folder))["cases"]:
            rows.append({"family": label, "model": model, **changes, **case})
            print(label, case["norm"], case["alpha"], case["verdict"], case["largest_deviation"], flush=True)
    trend = []
    for width in (128, 256, 512):
        comparison = Comparison(f"hf:{llama_config(width)}", norms=("own",), inits=("own",), seeds=4, samples=16)
        (case,) = summary(compare(comparison, WORK / f"llama-{width}"))["cases"]
        trend.append({"width": width, **case})
        print(width, case["log_apjn_predicted"][0], case["log_apjn_measured"][0], case["log_apjn_se"][0], flush=True)
    (DOCS / "data").mkdir(exist_ok=True)
    record = {"criticality": __version__, "families": rows, "llama_70b": trend}
    (DOCS / "data" / "families.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
