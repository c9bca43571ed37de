"""What is built: a wheel and an sdist that hold the library and nothing else, on every Python that is to be had."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    hatchling = pytest.importorskip("hatchling.build")
    source = tmp_path_factory.mktemp("source")
    kept = shutil.ignore_patterns(
        ".git", ".venv", "build", "dist", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis"
    )
    shutil.copytree(ROOT, source / "criticality", ignore=kept)
    out = source / "dist"
    code = f"import hatchling.build as b; print(b.build_wheel({str(out)!r})); print(b.build_sdist({str(out)!r}))"
    out.mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=source / "criticality", check=True, capture_output=True, text=True)
    assert hatchling
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def test_the_wheel_holds_the_library_alone(built):
    with zipfile.ZipFile(built[0]) as wheel:
        sizes = {entry.filename: entry.file_size for entry in wheel.infolist()}
        metadata = message_from_string(wheel.read(next(name for name in sizes if name.endswith("METADATA"))).decode())
    modules = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    assert modules <= sizes.keys()
    assert {
        "criticality/py.typed",
        "criticality/reports/report.html.jinja",
    } <= sizes.keys()
    assert {name.partition("/")[0].partition("-")[0] for name in sizes} == {"criticality"}
    assert not [name for name, size in sizes.items() if size > 100_000]
    page = str(metadata.get_payload())
    assert not re.findall(r"\]\((?!https?://)", page)  # nothing that an index cannot resolve
    assert "![" not in page
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_sdist_builds_and_carries_no_results_of_the_docs(built):
    with tarfile.open(built[1]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CITATION.cff",
        "SECURITY.md",
        "CHANGELOG.md",
        "docs/package.md",
    } <= names
    assert {name.partition("/")[0] for name in names if "/" in name} == {"src", "tests", "docs"}
    assert [name for name in names if name.startswith("docs/")] == ["docs/package.md"]


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_every_file_compiles(version, tmp_path):
    python = next((str(path) for path in Path("/root/.pyenv/versions").glob(f"{version}.*/bin/python")), None)
    python = sys.executable if sys.version.startswith(version) else python or shutil.which(f"python{version}")
    if python is None:
        pytest.skip(f"no Python {version} here")
    code = (
        "import sys, pathlib\n"
        "for path in pathlib.Path(sys.argv[1]).rglob('*.py'):\n    compile(path.read_text(encoding='utf-8'), str(path), 'exec')"
    )
    subprocess.run([python, "-W", "error", "-c", code, str(ROOT / "src")], check=True)
