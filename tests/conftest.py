import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

if "PYTEST_XDIST_WORKER" in os.environ:  # one core each; the process that waits for them needs no torch
    import torch

    torch.set_num_threads(1)

settings.register_profile("criticality", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("criticality")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def fashion_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with made-up images in the four files of FashionMNIST."""
    from fashion import made_up_fashion

    return made_up_fashion(tmp_path_factory.mktemp("fashion"))
