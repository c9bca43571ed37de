"""How does the cost grow with depth, width, tokens and batch: of the theory, exact and sampled, of a measurement, of the model?

A ViT with DyT, six heads; one of its four sizes is doubled at a time.  Processor time of one thread, the least of a few rounds.
Writes the figure, and its part of the README, with exponents: of the last doubling, and between which sizes it is near 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from criticality.measurement import measure
from criticality.models import ViTSpec
from criticality.reports.figures import COLOURS, DASHES, MARKERS, STYLE, save_figure
from criticality.theory import propagate
from criticality.weightless import predict_sampled
from side_by_side import machine, seconds

HERE = Path(__file__).parent
START, END = "<!-- scaling: benchmarks/scaling.py -->", "<!-- end of scaling -->"
BASE = {"depth": 4, "width": 192, "tokens": 101, "batch": 2}
SIZES = {
    "depth": (2, 4, 8, 16, 32),
    "width": (96, 192, 384, 768),
    "tokens": (50, 101, 197, 401),
    "batch": (1, 2, 4, 8, 16),
}
PIXELS = {50: 112, 101: 160, 197: 224, 401: 320}
"""Of images of so many patches and a class token."""

LINEAR = 0.15
"""How far an exponent may be from 1 for what is called linear: timings of a loaded machine differ by a tenth."""

Costs = Mapping[str, Sequence[float]]


def calls(depth: int, width: int, tokens: int, batch: int) -> dict[str, Callable[[], object]]:
    description = ViTSpec(
        "vit_tiny_patch16_224", norm="dyt", depth=depth, width=width, heads=6, image_size=PIXELS[tokens]
    )
    network, kernels = description.read()
    model = description.build().eval()
    images = torch.randn(batch, 3, PIXELS[tokens], PIXELS[tokens], generator=torch.Generator().manual_seed(0))

    def forward() -> object:
        with torch.inference_mode():
            return model(images)

    return {
        "forward pass": forward,
        "measurement": lambda: measure(model, images),
        "exact theory": lambda: propagate(network, (kernels * batch)[:batch]),
        "sampled theory": lambda: predict_sampled(description.create, images, 1),
    }


def costs(name: str) -> dict[str, list[float]]:
    """Seconds of each call at each size of one kind."""
    each = {size: calls(**{**BASE, name: size}) for size in SIZES[name]}
    by_name = {f"{call} {size}": run for size, runs in each.items() for call, run in runs.items()}
    taken = seconds(by_name, 4, clock=time.process_time, of=min)  # all sizes take turns
    return {call: [taken[f"{call} {size}"] for size in each] for call in each[SIZES[name][0]]}


def exponents(sizes: Sequence[int], taken: Sequence[float]) -> list[float]:
    """Of each step from one size to the next."""
    return [math.log(taken[i + 1] / taken[i]) / math.log(sizes[i + 1] / sizes[i]) for i in range(len(sizes) - 1)]


def linear_range(sizes: Sequence[int], found: Sequence[float]) -> str:
    """The sizes between which the cost is proportional to them."""
    inside = [number for number, exponent in enumerate(found) if abs(exponent - 1) <= LINEAR]
    return "nowhere" if not inside else f"{sizes[inside[0]]} to {sizes[inside[-1] + 1]}"


def section(found: Mapping[str, Costs]) -> str:
    rows = [
        f"| {name} {', '.join(map(str, SIZES[name]))} | {call} | {', '.join(f'{1000 * value:.0f}' for value in taken)} | "
        f"{', '.join(f'{one:.2f}' for one in exponents(SIZES[name], taken))} | "
        f"{linear_range(SIZES[name], exponents(SIZES[name], taken))} |"
        for name, of_calls in found.items()
        for call, taken in of_calls.items()
    ]
    base = ", ".join(f"{name} {size}" for name, size in BASE.items())
    return "\n".join(
        [
            START,
            f"A ViT with DyT and six heads ({base}), one size changed at a time; processor time on {machine()}.",
            f"An exponent is that of the step to the next size; linear is 1 within {LINEAR:g}.",
            "",
            "![Cost against depth, width, tokens and batch, on logarithmic axes](../docs/figures/scaling.png)",
            "",
            "| size | of what | ms | exponents | linear from |",
            "|---|---|---|---|---|",
            *rows,
            END,
        ]
    )


def picture(found: Mapping[str, Costs]) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3), layout="constrained")
        panels = figure.subplots(1, len(found), sharey=True)
        for axes, (name, of_calls) in zip(panels, found.items(), strict=True):
            sizes = SIZES[name]
            for number, (call, taken) in enumerate(of_calls.items()):
                axes.loglog(
                    sizes, taken, color=COLOURS[number], marker=MARKERS[number], dashes=DASHES[number], ms=4, label=call
                )
            least = min(taken[0] for taken in of_calls.values())
            axes.loglog(sizes, [0.5 * least * size / sizes[0] for size in sizes], color="#888888", lw=1, label="linear")
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.minorticks_off()
            axes.set_xlabel(name)
        panels[0].set_ylabel("seconds of processor time")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def main() -> None:
    torch.set_num_threads(1)
    found = {name: costs(name) for name in SIZES}
    text = section(found)
    print(text)
    readme = HERE / "README.md"
    before, _, rest = readme.read_text().partition(START)
    readme.write_text(before + text + rest.partition(END)[2])
    save_figure(picture(found), HERE.parent / "docs" / "figures" / "scaling")[1].unlink()


if __name__ == "__main__":
    main()
