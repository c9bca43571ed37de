"""The source's grids at ViT-S size on one card in half an hour, and what kernels and monitor cost there: see README.md."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from criticality.laboratory import FashionMNIST, Images, fashion_mnist
from criticality.measurement import measure
from criticality.models import initialize, replace_norms
from criticality.prescription import Monitor
from criticality.schema import whole_or_absent

SHARE_OF_TRAINING = 0.8
"""Of the minutes; the rest is for benchmarks and evaluation."""


@dataclass(frozen=True)
class Setting:
    """One run: norm, alpha (``None`` for LayerNorm), blocks, factor of the MLPs' weights, peak rate, warm-up (share of steps)."""

    grid: str
    norm: str
    alpha: float | None
    depth: int = 12
    gain: float = 1.0
    rate: float = 1e-3
    warm_up: float = 0.0


@dataclass(frozen=True)
class Size:
    """Of model and batch."""

    width: int
    heads: int
    patch: int
    batch: int
    depth: int


FULL, TOY = Size(384, 6, 4, 256, 12), Size(32, 1, 16, 16, 2)


def grids(depth: int) -> Iterator[Setting]:
    """Of source.md 2.1 and 2.3, LayerNorm in each; ``depth`` is the base one."""
    norms: list[tuple[str, float | None]] = [("ln", None), ("dyt", 0.5), ("dyt", 1.0)]
    for rate in (1e-4, 3e-4, 1e-3, 3e-3):
        for norm, alpha in norms:
            yield Setting("rate", norm, alpha, depth, rate=rate)
    columns: list[tuple[str, float | None]] = [("ln", None), *(("derf", alpha) for alpha in (0.3, 0.5, 0.7, 0.9))]
    for norm, alpha in columns:
        for warm_up in (0.0, 0.03, 0.1, 0.3):
            yield Setting("warm-up", norm, alpha, depth, rate=1e-3, warm_up=warm_up)
        for deeper in (depth, 2 * depth):
            yield Setting("depth", norm, alpha, deeper, rate=3e-4, warm_up=0.1)
        for gain in (1.8, 3.4):
            yield Setting("gain", norm, alpha, depth, gain, rate=3e-4, warm_up=0.1)


def build(setting: Setting, size: Size, seed: int = 0) -> nn.Module:
    """A ViT without class token, fan-in weights, on 32 x 32 pixels."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(seed)
    model: nn.Module = VisionTransformer(
        img_size=32,
        patch_size=size.patch,
        in_chans=1,
        num_classes=10,
        embed_dim=size.width,
        depth=setting.depth,
        num_heads=size.heads,
        class_token=False,
        global_pool="avg",
    )
    initialize(model.blocks, "fan-in")  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("mlp.fc1.weight", "mlp.fc2.weight")):
                parameter.mul_(setting.gain)
    if setting.norm != "ln":
        replace_norms(model, setting.norm, setting.alpha)
    return model


class Data:
    """FashionMNIST on the device, padded to 32 x 32 and standardized."""

    def __init__(self, data: FashionMNIST, device: str):
        self.device = device
        self.train, self.test = (self._placed(data, part) for part in (data.train, data.test))

    def _placed(self, data: FashionMNIST, part: Images) -> tuple[Tensor, Tensor]:
        pixels = functional.pad(part.pixels.view(-1, 1, 28, 28), (2, 2, 2, 2))
        return ((pixels - data.mean) / data.deviation).to(self.device), part.labels.to(self.device)

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(0, len(self.train[1]), (size,), generator=generator).to(self.device)
        return self.train[0][chosen], self.train[1][chosen]


def stepper(model: nn.Module, rate: float) -> Any:
    """AdamW, and a function that takes one step on a batch at a rate and returns the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)

    def step(images: Tensor, labels: Tensor, now: float) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = now
        with torch.autocast(images.device.type, torch.bfloat16):
            loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def seconds_of_a_step(setting: Setting, size: Size, data: Data, rounds: int = 10) -> float:
    """Median over rounds, after three that warm up."""
    model = build(setting, size).to(data.device)
    step, draw = stepper(model, 1e-4), torch.Generator().manual_seed(0)
    batch, times = data.batch(size.batch, draw), []
    for _ in range(rounds + 3):
        synchronize(data.device)
        began = time.perf_counter()
        step(*batch, 1e-4)
        synchronize(data.device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[3:])


def run(setting: Setting, size: Size, data: Data, steps: int) -> dict[str, Any]:
    """Train; losses by tenths of the run, log J at both ends, test accuracy."""
    model = build(setting, size).to(data.device)
    draw = torch.Generator().manual_seed(1)
    probe = data.batch(16, torch.Generator().manual_seed(2))[0]
    before = float(measure(model, probe).log_apjn[0])
    step, losses = stepper(model, setting.rate), []
    for number in range(steps):
        rate = setting.rate * min(1.0, (number + 1) / max(1.0, setting.warm_up * steps))
        losses.append(step(*data.batch(size.batch, draw), rate))
    series = torch.stack(losses).float().cpu()
    finite = bool(torch.isfinite(series).all())
    found = {"log_apjn": before, "diverged": not finite, "largest_loss": float(series.nan_to_num(math.inf).max())}
    found["losses"] = [float(part.mean()) for part in series.chunk(10)] if finite else []
    if finite:
        found |= {"accuracy": accuracy(model, data), "log_apjn_last": float(measure(model, probe).log_apjn[0])}
    return found


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    right = 0
    for images, labels in zip(data.test[0].split(500), data.test[1].split(500), strict=True):
        with torch.autocast(images.device.type, torch.bfloat16):
            right += int((model(images).argmax(-1) == labels).sum())
    return right / len(data.test[1])


def benchmarks(size: Size, data: Data) -> dict[str, float]:
    """Time of a step with each norm over LayerNorm's, and of a record of the monitor in steps."""
    kinds = {"ln": None, "rms": None, "dyt": 0.5, "derf": 0.5, "none": None}
    times = {
        norm: seconds_of_a_step(Setting("bench", norm, alpha, size.depth), size, data) for norm, alpha in kinds.items()
    }
    found = {f"step_{norm}": seconds / times["ln"] for norm, seconds in times.items()} | {
        "step_seconds_ln": times["ln"]
    }
    model = build(Setting("bench", "dyt", 0.5, size.depth), size).to(data.device)
    monitor = Monitor(model, data.batch(4, torch.Generator().manual_seed(0))[0], budget=1e9)
    monitor.record(0)
    synchronize(data.device)
    began = time.perf_counter()
    monitor.record(1)
    synchronize(data.device)
    return found | {"monitor_record_in_steps": (time.perf_counter() - began) / times["dyt"]}


def write(results: dict[str, Any], out: Path) -> None:
    with whole_or_absent(out / "results.json") as file:
        Path(file).write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", help="folder with FashionMNIST's four idx files")
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="a model for a CPU, and two runs")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    data, size = Data(fashion_mnist(given.data_root), given.device), TOY if given.toy else FULL
    settings = list(grids(size.depth))[:2] if given.toy else list(grids(size.depth))
    path = given.out / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"runs": []}
    if "steps" not in results:
        results["benchmarks"] = benchmarks(size, data)
        results["device"] = torch.cuda.get_device_name() if given.device.startswith("cuda") else given.device
        depth_of_all = sum(setting.depth for setting in settings) / size.depth
        budget = 60 * given.minutes * SHARE_OF_TRAINING / results["benchmarks"]["step_seconds_ln"] / depth_of_all
        results["steps"] = max(20, min(10_000, int(budget)))
        write(results, given.out)
    finished = [row["setting"] for row in results["runs"]]
    for setting in settings:
        if asdict(setting) in finished:
            continue
        try:
            found = run(setting, size, data, results["steps"])
        except Exception as error:  # a row of its own: the other runs go on
            found = {"error": f"{type(error).__name__}: {error}"}
        results["runs"].append({"setting": asdict(setting), **found})
        write(results, given.out)
        print(json.dumps(results["runs"][-1]), flush=True)


if __name__ == "__main__":
    main()
