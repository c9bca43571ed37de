"""The site: built with warnings as errors, and looked at in a browser that cannot reach the network."""

import html
import json
import os
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

import forks

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Of its notebooks the tutorial is executed, for its figure and outputs; of the others see ``test_code_of_pages_runs``.
    ``CRITICALITY_SITE`` in the environment names a site that is built already."""
    if "CRITICALITY_SITE" in os.environ:
        return Path(os.environ["CRITICALITY_SITE"]).resolve()
    shared = (
        tmp_path_factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else tmp_path_factory.getbasetemp()
    )
    out = shared / "site"
    with FileLock(shared / "site.lock"):  # one build for all worker processes
        if not (shared / "site.built").exists():
            environment = {**os.environ, "CRITICALITY_NOT_EXECUTED": "howto/*"}
            build = ("-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", ROOT / "docs", out)
            built = forks.run(*build, env=environment)
            assert built.returncode == 0, built.stderr[-3000:]
            (shared / "site.built").touch()
    return out


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "howto").glob("*.md")), ids=lambda page: page.stem)
def test_code_of_pages_runs(page):
    """In this process: a notebook's own would import torch and the libraries of models again."""
    cells = re.findall(r"```\{code-cell\} python\n(?::[^\n]*\n)*(.*?)```", page.read_text(), re.S)
    assert cells
    names: dict = {"__name__": "__main__"}
    for cell in cells:
        exec(compile(cell, page.name, "exec"), names)


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium: apt install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(context, path):
    """The page, its errors and what it asked of the network."""
    page, errors, requests = context.new_page(), [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda r: requests.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
    page.goto(path.as_uri(), timeout=120_000)
    page.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true)")
    return page, errors, requests


@pytest.fixture(scope="session")
def article(site, browser):
    """The article at one size, opened once for all tests, as ``opened`` gives it: drawing its figures takes five seconds."""
    return cache(
        lambda width, height: opened(
            browser.new_context(viewport={"width": width, "height": height}), site / "article.html"
        )
    )


NEW_LOOKS = """
(seen) => {
  const behind = new Map([[null, ""]]), found = new Map();
  const ground = (e) => {
    if (!behind.has(e)) {
      const s = getComputedStyle(e);
      const own = [s.backgroundColor, s.backgroundImage, s.opacity, s.position === "static" ? "" : e.className].join();
      behind.set(e, ground(e.parentElement) + (own === "rgba(0, 0, 0, 0),none,1," ? "" : own));
    }
    return behind.get(e);
  };
  for (const e of document.querySelectorAll("body, body *")) {
    const text = [...e.childNodes].filter((n) => n.nodeType === Node.TEXT_NODE).map((n) => n.data.trim()).join("");
    if (text.length < 2 || !e.checkVisibility({visibilityProperty: true})) continue;
    const s = getComputedStyle(e), look = [s.color, s.fontSize, s.fontWeight, ground(e)].join();
    if (seen.includes(look)) continue;
    found.set(look, (found.get(look) || 0) + 1);
    if (found.get(look) <= 3) e.dataset.look = "new";
  }
  return [...found.keys()];
}
"""
"""Contrast follows from the look of a text: color, size, weight and what lies behind it. Axe is asked of three texts of each look,
on the first page that has it: of all texts of all pages it is nine tenths of axe's time."""

CONFIGURE = """
axe.configure({rules: [{id: "color-contrast", selector: "[data-look]"}, {id: "region", enabled: false}]});
"""
"""Regions are of moderate impact, which is no problem here."""


def test_pages_are_accessible_and_stay_on_the_machine(site, browser, article):
    from axe_playwright_python.sync_playwright import Axe

    axe = Axe()
    axe.axe_script += CONFIGURE
    pages = [p for p in sorted(site.rglob("*.html")) if not {"_static", "_modules"} & set(p.relative_to(site).parts)]
    assert {"index.html", "article.html", "tutorial.html", "api.html", "cli.html"} <= {p.name for p in pages}
    found = {}
    for size in (DESKTOP, PHONE):
        context, looks = browser.new_context(viewport=size), []
        for path in pages if size is DESKTOP else [site / "article.html", site / "tutorial.html", site / "index.html"]:
            page, errors, requests = article(**size) if path == site / "article.html" else opened(context, path)
            wide = page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth")
            problems = [f"console: {error}" for error in errors] + [f"request: {url}" for url in requests]
            problems += [f"{wide} pixels wider than the window"] if wide > 0 else []
            looks += page.evaluate(NEW_LOOKS, looks)
            report = axe.run(page, options={"resultTypes": ["violations"], "preload": False}).response
            problems += [
                f"axe: {v['id']}: {v['nodes'][0]['html'][:200]}"
                for v in report["violations"]
                if v["impact"] in ("serious", "critical")
            ]
            if problems:
                found[f"{path.relative_to(site)} at {size['width']}"] = problems
            if page.context is context:
                page.close()
        context.close()
        assert len(looks) > 30
    assert not found, json.dumps(found, indent=1)


def test_signatures_show_shapes_and_no_bounds(site):
    signatures = {}
    for page in (site / "api").glob("*.html"):
        for text in re.findall(r'<dt class="sig sig-object py"[^>]*>(.*?)</dt>', page.read_text(), re.S):
            shown = " ".join(html.unescape(re.sub("<[^>]+>", "", text)).split())
            signatures[shown.partition("(")[0].removeprefix("class ")] = shown
    assert (
        "alpha: Float[ndarray, 'alphas'], gain: Float[ndarray, 'gains'] | None = None, tokens: int = 64"
        in (signatures["criticality.phases.transformer_map"])
    )
    unread = ("Annotated[", "_Buffer", "~", "TypeAliasForwardRef")
    assert [text for text in signatures.values() if any(part in text for part in unread)] == []


def test_sliders_show_what_the_library_computes(article):
    """By keyboard; the value on the page against the recursion itself."""
    from criticality.phases import ResidualStep, amplification
    from criticality.theory import make_norm

    page, errors, _ = article(**DESKTOP)
    figure = page.locator('.explorer[data-explorer="residual"]')
    alpha, sigma_w = figure.locator('input[name="alpha"]'), figure.locator('input[name="sigma_w"]')
    readout = figure.locator(".explorer-readout")
    before = readout.inner_text()
    alpha.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")  # from 1 to 2
    sigma_w.focus()
    page.keyboard.press("ArrowLeft")  # from 1 to 2^-1/2
    assert alpha.get_attribute("aria-valuetext") == "2"
    assert readout.inner_text() != before
    for name, norm, value in (("DyT", "dyt", 2.0), ("Derf", "derf", 2.0), ("LayerNorm", "ln", None)):
        line = next(text for text in readout.inner_text().splitlines() if text.startswith(f"{name}:"))
        shown = float(line.split("log J(0 → 64) = ")[1].split(",")[0])
        expected = amplification(ResidualStep(make_norm(norm, value), 0.5), [64])[0]
        assert shown == pytest.approx(expected, rel=1e-3)
        drawn = figure.locator(".explorer-plot").first.evaluate(
            "(plot, name) => { const t = plot.data.find((t) => t.name === name); return t.y[t.x.indexOf(64)]; }", name
        )
        assert drawn == pytest.approx(expected, rel=1e-4)
    assert figure.locator(".explorer-still").is_hidden()
    assert not errors


def test_the_phase_diagram_tells_ordered_from_chaotic(article):
    page, errors, _ = article(**PHONE)
    figure = page.locator('.explorer[data-explorer="mlp"]')
    readout, weights = figure.locator(".explorer-readout"), figure.locator('input[name="sigma_w"]')
    weights.fill("0")
    assert "ordered" in readout.inner_text()
    weights.fill("20")
    assert "chaotic" in readout.inner_text()
    assert not errors


def test_the_window_shows_what_passes(article):
    """The slider of alpha sqrt(K); the moment on the page against quadrature written here."""
    import numpy as np

    page, errors, _ = article(**PHONE)
    figure = page.locator('.explorer[data-explorer="window"]')
    deviation, readout = figure.locator('input[name="deviation"]'), figure.locator(".explorer-readout")
    z = np.linspace(-10, 10, 200_001)
    for presses in (0, 6):  # from 1 to 8
        deviation.focus()
        for _ in range(presses):
            page.keyboard.press("ArrowRight")
        s = float(deviation.get_attribute("aria-valuetext"))
        expected = np.trapezoid(np.cosh(s * z) ** -4.0 * np.exp(-z * z / 2), z) / np.sqrt(2 * np.pi)
        dyt = next(text for text in readout.inner_text().splitlines() if text.startswith("DyT:"))
        assert float(dyt.split("= ")[1].split(";")[0]) == pytest.approx(expected, rel=1e-3)
    assert s == 8
    assert not errors


def test_the_block_shows_what_the_library_computes(article):
    from criticality.phases import BlockStep, amplification
    from criticality.pointwise import Pointwise
    from criticality.theory import MLP, Attention, Linear, make_norm, transformer

    page, errors, _ = article(**DESKTOP)
    figure = page.locator('.explorer[data-explorer="block"]')
    for name, key in (("alpha", "ArrowLeft"), ("alpha", "ArrowLeft"), ("gain", "ArrowRight"), ("tokens", "ArrowLeft")):
        figure.locator(f'input[name="{name}"]').focus()
        page.keyboard.press(key)  # alpha 1/2, gain sqrt 2, 64 tokens
    lines = figure.locator(".explorer-readout").inner_text().splitlines()
    block = transformer(
        make_norm("dyt", 0.5), Attention(output=Linear(2.0)), MLP(Pointwise("gelu"), down=Linear(4.0)), 1
    )
    expected = amplification(BlockStep(block, 64, 0.3), [48])[0]
    dyt = next(text for text in lines if text.startswith("DyT:"))
    assert float(dyt.split("log J(0 → 48) = ")[1].split(",")[0]) == pytest.approx(expected, rel=1e-3)
    assert not errors


def test_without_javascript_a_picture_stays(site, browser):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto((site / "article.html").as_uri())
    for name in ("residual", "mlp", "window", "block"):
        figure = page.locator(f'.explorer[data-explorer="{name}"]')
        assert figure.locator(".explorer-still").is_visible()
        assert figure.locator(".explorer-controls").is_hidden()
