"""Models that ``fully_shard`` shards over two processes give the numbers of the whole model, and keep what is written to them."""

import sys
from pathlib import Path

import pytest

import forks

PROCESS = """
import sys
import warnings

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from criticality.errors import InputsError
from criticality.measurement import measure
from criticality.models import replace_norms, write_weights
from criticality.prescription import Monitor, Prescription, apply_prescription, schedule_from_data
from criticality.prescription.solve import alpha_edits
from criticality.prescription.tune import tune
from criticality.stream import stream
from criticality.theory import BranchGain, WeightGain
from criticality.weightless import laws_of, predict_sampled
from criticality.weightless.initializing import initialize

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
WIDTH = 64


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        return x + self.b(nn.functional.gelu(self.a(self.norm(x))))


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


def tower(sharded):
    torch.manual_seed(0)
    model = Tower().double()
    replace_norms(model, "tanh", 1.0)
    if sharded:
        for block in model.blocks:
            fully_shard(block)
        fully_shard(model)
    return model


def whole(parameter):
    return parameter.detach().full_tensor() if hasattr(parameter, "full_tensor") else parameter.detach()


def numbers(model):
    return [round(float(whole(one).square().sum()), 9) for one in model.parameters()]


def prescription(alphas=(), final_alpha=None, branch_scale=1.0, gain=1.0):
    edits = (*alpha_edits(alphas, final_alpha), BranchGain(branch_scale), WeightGain(gain))
    return Prescription("constant", 1.0, edits, 1.0, 1.0, 1.0, 0.5, "")


def alike(model):
    sent = [numbers(model)]
    dist.broadcast_object_list(sent)  # what is not sharded is of this process alone
    assert any(hasattr(one, "full_tensor") for one in model.parameters()) <= (sent[0] == numbers(model))
    return sent[0]


def watched(model):
    # Losses are those of a training without it, and what it sees is what the whole model shows.
    other, monitor = tower(hasattr(next(model.parameters()), "full_tensor")), Monitor(model, x, every=1)
    losses = []
    for step in range(2):
        pair = []
        for one in (model, other):
            loss = one(x).square().mean()
            loss.backward()
            with torch.no_grad():
                for parameter in one.parameters():
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
            pair.append(loss.item())
        assert pair[0] == pair[1]
        losses.append(round(pair[0], 9))
        assert monitor.step(step) is not None
    return losses, monitor.dataset().log_apjn.values.round(9).tolist(), monitor.dataset().alpha.values.round(9).tolist()


def written(model):
    file = write_weights(model, f"{sys.argv[2]}.{rank}.safetensors")
    return {name: round(float(one.square().sum()), 9) for name, one in load_file(file).items()}


x = torch.randn(2, 8, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TASKS = {
    "measure": lambda model: [round(float(one), 9) for one in measure(model, x).log_apjn.values.ravel()],
    "stream": lambda model: str(stream(model, x)).replace("FSDP", "").split(),
    "laws": lambda model: [round(law.second_moment, 12) for law in laws_of(model).values()],
    "predict": lambda model: [round(float(one), 9) for one in predict_sampled(model, x, 2, at_least=4096).log_apjn.values.ravel()],
    "schedule": lambda model: (str(schedule_from_data(model, x, 2.0)), numbers(model)),
    "tune": lambda model: (tune(model, x, 1.0).converged, numbers(model)),
    "alphas": lambda model: (str(apply_prescription(prescription(alphas=(2.0, 3.0, 4.0)), model, x)), numbers(model)),
    "scale": lambda model: (str(apply_prescription(prescription(branch_scale=0.5), model, x)), numbers(model)),
    "initialize": lambda model: (torch.manual_seed(rank), initialize(model, "fan-in"), alike(model))[1:],
    "monitor": watched,
    "write": written,
    "gain": lambda model: (str(apply_prescription(prescription(gain=0.5), model, x)), numbers(model)),
}
for name, task in TASKS.items():
    one, other = task(tower(False)), task(tower(True))
    assert one == other, (name, one, other)
    print(name)

mine = torch.randn(2, 8, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))  # each its own data
model = tower(True)
told = str(schedule_from_data(model, mine, 2.0))
both = [None, None]
dist.all_gather_object(both, (told, numbers(model)))
assert both[0] == both[1]
print("own data")

flat = FullyShardedDataParallel(tower(False), device_id=torch.device("cpu"))
assert TASKS["measure"](flat) == TASKS["measure"](tower(False))
for name in ("predict", "tune", "scale", "initialize"):
    try:
        TASKS[name](flat)
    except InputsError as error:
        assert "before it is wrapped" in str(error)
    else:
        raise AssertionError(name)
print("flat")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file")
def test_a_sharded_model_is_the_whole_model(tmp_path: Path) -> None:
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    running = [forks.start(script, rank, tmp_path / "meeting") for rank in range(2)]
    told = [one.communicate(timeout=900) for one in running]
    assert [one.returncode for one in running] == [0, 0], told[0][1][-3000:]
    assert told[0][0].split("\n")[-2:] == ["flat", ""]
