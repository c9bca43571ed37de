"""Draw the library's floors from its imports, and write them into CONTRIBUTING.md: ``python docs/make_map.py``.

A room is a folder of ``src/criticality``. It stands one floor above the highest room that it imports from, inside functions too;
what all rooms stand on (``schema``, ``errors`` and the other single files) is the ground.
"""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from criticality.reports import STYLE, save_figure

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "criticality"
PAGE = ROOT / "CONTRIBUTING.md"
START, END = "<!-- floors: docs/make_map.py -->", "<!-- end of floors -->"

Imports = dict[str, set[str]]


def imports_of(room: Path) -> set[str]:
    """Rooms that a room imports from; what is imported for annotations alone is left out."""
    found = set()
    for path in room.rglob("*.py"):
        tree = ast.parse(path.read_text())
        annotations = {
            node
            for branch in ast.walk(tree)
            if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
            for node in ast.walk(branch)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node not in annotations:
                found |= set(re.findall(r"^criticality\.(\w+)", node.module or ""))
    return found


def rooms() -> Imports:
    """Every room and the other rooms that it imports from."""
    folders = {path.parent.name: path.parent for path in SOURCE.glob("*/__init__.py")}
    return {name: (imports_of(folder) & set(folders)) - {name} for name, folder in folders.items()}


def floors(imports: Imports) -> list[list[str]]:
    """Rooms from the ground up, each as low as what it imports lets it be.

    Raises:
        ValueError: rooms that import from each other in a circle.
    """
    found: list[list[str]] = []
    left = dict(imports)
    while left:
        floor = sorted(name for name, below in left.items() if not below & set(left))
        if not floor:
            raise ValueError(f"rooms must not import in a circle: {', '.join(sorted(left))}")
        found.append(floor)
        for name in floor:
            del left[name]
    return found


def direct(imports: Imports) -> list[tuple[str, str]]:
    """Arrows down that no way over another room says already."""

    def below(name: str) -> set[str]:
        return imports[name].union(*(below(other) for other in imports[name]))

    return [
        (name, other)
        for name in imports
        for other in sorted(imports[name])
        if not any(other in below(between) for between in imports[name])
    ]


def places(imports: Imports) -> dict[str, tuple[float, float]]:
    """Across: in the middle of what a room imports directly, apart from its neighbours; up: its floor."""
    found: dict[str, tuple[float, float]] = {}
    arrows = direct(imports)
    for height, floor in enumerate(floors(imports)):
        below = {name: [found[other][0] for one, other in arrows if one == name] for name in floor}
        middle = {name: sum(below[name]) / max(1, len(below[name])) for name in floor}
        x = -math.inf
        for number, name in enumerate(sorted(floor, key=middle.__getitem__)):
            x = max(x + 1.0, middle[name] if height else number - (len(floor) - 1) / 2)
            found[name] = x, float(height)
    return found


def picture(imports: Imports) -> Figure:
    """Floors as rows, rooms as boxes, direct imports as arrows."""
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(5.2, 6.4), layout="constrained")
        axes = figure.subplots()
        axes.set_axis_off()
        place, box = places(imports), {"boxstyle": "round,pad=0.45", "fc": "white", "ec": "#0072B2", "lw": 1.2}
        boxes = {
            name: axes.text(x, y, name, ha="center", va="center", bbox=box).get_bbox_patch()
            for name, (x, y) in place.items()
        }
        for name, other in direct(imports):
            ends = {"patchA": boxes[name], "patchB": boxes[other], "shrinkA": 1, "shrinkB": 1}
            style = {"arrowstyle": "-|>", "color": "#777777", "lw": 1, **ends}
            axes.annotate("", place[other], place[name], arrowprops=style)
        x = [at[0] for at in place.values()]
        axes.set(xlim=(min(x) - 0.6, max(x) + 0.6), ylim=(-0.5, max(at[1] for at in place.values()) + 0.5))
    return figure


def written(imports: Imports) -> str:
    """The floors as they are in CONTRIBUTING.md, the highest first."""
    found = floors(imports)
    rows = [f"| {number} | {', '.join(f'`{name}`' for name in floors_)} |" for number, floors_ in enumerate(found)]
    return "\n".join([START, "| floor | rooms |", "|---|---|", *reversed(rows), END])


def main() -> None:
    imports = rooms()
    page = PAGE.read_text()
    before, _, rest = page.partition(START)
    PAGE.write_text(before + written(imports) + rest.partition(END)[2])
    save_figure(picture(imports), ROOT / "docs" / "figures" / "map")[1].unlink()


if __name__ == "__main__":
    main()
