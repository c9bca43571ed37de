import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

import forks

os.environ.setdefault("DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD", "forkserver")
"""Processes of sweeps import Dask once; tests that kill and interrupt them start them as the library does."""

gc.disable()  # while torch, timm and transformers are imported, of which nothing is garbage

if "PYTEST_XDIST_WORKER" in os.environ:  # one core each; the process that waits for them needs no torch
    import torch

    torch.set_num_threads(1)

settings.register_profile("criticality", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("criticality")


def pytest_collection_finish() -> None:
    """What is there before the first test is not looked through again and again for garbage: a tenth of the time of the tests."""
    gc.freeze()
    gc.set_threshold(20_000)
    gc.enable()
    forks.serve()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The CPU's numbers; for cards that are not in use, ``torch.manual_seed`` would keep the stack of the call, formatted."""
    import torch

    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


@pytest.fixture(scope="session")
def fashion_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with made-up images in the four files of FashionMNIST."""
    from fashion import made_up_fashion

    return made_up_fashion(tmp_path_factory.mktemp("fashion"))
