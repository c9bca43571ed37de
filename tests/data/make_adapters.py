"""Profiles of the networks that readers of single families gave, by attribute names, before the reader of the data flow took
their place (commit 0c7cb6b): what it is held to.  Runs on that commit with ``criticality.reader`` beside it; the models of timm
with the second moments that ``law_of`` gives since truncated normals have those of their law, 2e-4 from what it gave then."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from criticality.models import huggingface_network, vit_network  # type: ignore[attr-defined]
from criticality.weightless import build_without_weights
from criticality.weightless.laws import law_of
from reader.families import FAMILIES, description, profile

if __name__ == "__main__":
    found = {}
    for name, norm in FAMILIES:
        model = build_without_weights(description(name, norm).create)
        read = huggingface_network if name.startswith("hf:") else vit_network
        found[f"{name} {norm}"] = profile(read(model, lambda p: law_of(p).second_moment))
    Path(__file__).with_name("adapters.json").write_text(json.dumps(found, indent=0))
