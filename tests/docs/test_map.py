"""The picture of the floors is drawn from the imports, and CONTRIBUTING has those of today."""

import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
sys.path.append(str(DOCS))

import make_map  # noqa: E402


def test_contributing_has_the_floors_of_today():
    assert make_map.written(make_map.rooms()) in make_map.PAGE.read_text(), "python docs/make_map.py writes them"


def test_a_room_stands_above_what_it_imports():
    imports = {"roof": {"wall", "ground"}, "wall": {"ground"}, "ground": set(), "garden": {"ground"}}
    assert make_map.floors(imports) == [["ground"], ["garden", "wall"], ["roof"]]
    assert make_map.direct(imports) == [("roof", "wall"), ("wall", "ground"), ("garden", "ground")]
    place = make_map.places(imports)
    assert all(place[name][1] > place[other][1] for name, below in imports.items() for other in below)
    assert len(set(place.values())) == 4


def test_a_circle_is_refused():
    with pytest.raises(ValueError, match="must not import in a circle: a, b"):
        make_map.floors({"a": {"b"}, "b": {"a"}, "c": set()})


def test_imports_inside_functions_count_and_those_for_annotations_do_not(tmp_path):
    (tmp_path / "one.py").write_text(
        "from typing import TYPE_CHECKING\nfrom criticality.theory.norms import Norm\n"
        "if TYPE_CHECKING:\n    from criticality.models import INITS\n"
        "def f():\n    from criticality.phases import ZOO\n"
    )
    assert make_map.imports_of(tmp_path) == {"theory", "phases"}
