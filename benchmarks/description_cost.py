"""What does the exact description of ViT-L, ViT-H and a Llama of 70 billion parameters cost, beside importing what builds it?"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from side_by_side import machine, process_costs

LLAMA_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 8192,
    "hidden_act": "silu",
}

_DESCRIBE = """
from criticality.models import model_spec
model_spec({name!r}, **{changes!r}).read()
"""

_BUILD = """
import json, torch
from transformers import AutoModel, LlamaConfig
config = LlamaConfig(**json.load(open({path!r})))
with torch.device("meta"):
    AutoModel.from_config(config)
"""

_PREDICT = """
from criticality.cli.main import main
main(["predict", {name!r}, "--way", "exact", "--tokens", "16"], standalone_mode=False)
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(LLAMA_70B))
        llama, sizes = f"hf:{config}", {"ViT-L": "vit_large_patch16_224", "ViT-H": "vit_huge_patch14_224"}
        costs = process_costs(
            {
                "import torch": "import torch",
                "import torch, timm": "import torch, timm",
                **{
                    f"describe {size}": _DESCRIBE.format(name=f"timm:{name}", changes={})
                    for size, name in sizes.items()
                },
                "import LlamaModel": "import torch; from transformers.models.llama.modeling_llama import LlamaModel",
                "build Llama-70B on meta": _BUILD.format(path=str(config)),
                "describe Llama-70B": _DESCRIBE.format(name=llama, changes={"tokens": 16}),
                "predict Llama-70B": _PREDICT.format(name=llama),
            }
        )
    print(machine())
    print("a fresh process: seconds of processor time (share of what importing torch takes), peak MB")
    for name, (used, peak) in costs.items():
        print(f"{name:24s} {used:6.2f} s ({used / costs['import torch'][0]:5.2f}) {peak:7.0f} MB")
    for described, imported in (
        ("describe ViT-L", "import torch, timm"),
        ("describe ViT-H", "import torch, timm"),
        ("describe Llama-70B", "build Llama-70B on meta"),
        ("predict Llama-70B", "describe Llama-70B"),
    ):
        more = [a - b for a, b in zip(costs[described], costs[imported], strict=True)]
        print(f"{described} beyond {imported}: {more[0]:.2f} s, {more[1]:.0f} MB")


if __name__ == "__main__":
    main()
