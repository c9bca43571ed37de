"""Write families.md from what was measured and predicted, ``python docs/make_families.py``.

``data/families.jsonl`` is the store of ``benchmarks/families``, ``data/families.json`` that of ``make_exact_families.py``.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path.append(str(DOCS.parent / "benchmarks" / "families"))
LIBRARIES = {"hf": "transformers", "timm": "timm", "libraries": "other libraries"}
REFUSED: dict[str, dict[str, list[str]]] = json.loads((DOCS / "data" / "families_refused.json").read_text())
"""Of each model that is refused, by library: its kind, one of ``KINDS``, and what was found in it."""
KINDS = {
    "none": "No residual stream: nothing is added to a value that the whole network goes through",
    "no gradient": "No gradient from the input to the output",
    "lanes": "A stream of several lanes, or one around which other values go: not measured",
}

_GROUPS = {
    "Not finite, zero, or too small for single precision: refused": r"NotFiniteError|ZeroGradientError",
    "Law of a weight unknown: refused": r"UnknownLawError",
    "Past the limit of time or memory": r"took more than|process ended|memory",
    "The model's own code fails": r"ModelFailedError",
}


def rows(store: Path) -> list[dict[str, Any]]:
    """The last line of each model."""
    last = {(row["source"], row["name"]): row for row in map(json.loads, store.read_text().splitlines())}
    return [last[key] for key in sorted(last)]


def counts(of: list[dict[str, Any]]) -> dict[str, int]:
    """How many were tried, ran, were measured, predicted, and agree."""
    runs = [row for row in of if row["result"] not in ("not built", "not run")]
    return {
        "tried": len(of),
        "ran": len(runs),
        "measured": sum("measured" in row for row in runs),
        "predicted": sum("excess" in row for row in runs),
        "agree": sum(row["result"] == "agrees" for row in runs),
        "without": sum(refused(row) in ("none", "no gradient") for row in runs),
        "lanes": sum(refused(row) == "lanes" for row in runs),
    }


def refused(row: dict[str, Any]) -> str | None:
    """Of what kind a model is that is refused in a sentence."""
    if not re.search(r"StreamNotFoundError|InputsError", row.get("error", "")):
        return None
    return REFUSED[row["source"]].get(row["name"].partition(":")[0], [None])[0]


def page(store: list[dict[str, Any]], exact: dict[str, Any]) -> str:
    """The whole page."""
    parts = [_opening(store), _summary(store), _misses(store)]
    parts += [_table(source, [row for row in store if row["source"] == source]) for source in LIBRARIES]
    parts += [_not_tried(store), _exact(exact)]
    return "\n".join(line for part in parts for line in part) + "\n"


def _opening(store: list[dict[str, Any]]) -> Iterator[str]:
    about = {name: sorted({row[name] for row in store}) for name in ("torch", "transformers", "timm")}
    versions = ", ".join(f"{name} {' and '.join(found)}" for name, found in about.items())
    yield "# Families of models: predicted against measured"
    yield ""
    yield (
        "Every model type of Hugging Face transformers that `AutoModel` builds, and one small model of each module file of"
        " timm, with seven hybrids and DINOv3 models more, made small by the fields of its configuration (four layers, width"
        " 256), and models of seventeen other libraries, small by their arguments, on random inputs, each with its own"
        " initialization. *Measured*: really drawn weights, 3 seeds. *Predicted*: the"
        " model run without its weights, 3 other seeds. The residual stream is found in the data flow of each; nothing of a"
        " model's name, class or parameters is known to the library. A model agrees when |predicted − measured| ≤ 0.05 + 3"
        " combined standard errors at every boundary of blocks; one that does not is tried again with 8 + 8 seeds, and at twice"
        " the width. Where a value goes around many blocks, J is the partial derivative with it held fixed. Where no gradient"
        " passes from the inputs to the output, as behind the codes of audio codecs, the stream begins behind them."
    )
    yield ""
    yield f"Made by `benchmarks/families` ({versions}) and `docs/make_families.py`."
    others = sorted({row["way"].partition(",")[0] for row in store if row["source"] == "libraries" and "way" in row})
    yield f"Other libraries: {', '.join(others)}."
    yield ""


def _summary(store: list[dict[str, Any]]) -> Iterator[str]:
    yield (
        "| | tried | built small and ran | measured | predicted | agree, of those predicted | refused: no stream, or no gradient |"
        " refused: several lanes |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for source, library in LIBRARIES.items():
        number = counts([row for row in store if row["source"] == source])
        yield (
            f"| {library} | {number['tried']} | {number['ran']} | {number['measured']}"
            f" ({_percent(number['measured'], number['ran'])}) | {number['predicted']}"
            f" ({_percent(number['predicted'], number['ran'])}) | {number['agree']}"
            f" ({_percent(number['agree'], number['predicted'])}) | {number['without']} | {number['lanes']} |"
        )
    yield ""
    for source in ("hf", "timm"):
        yield from _against_goals(LIBRARIES[source], [row for row in store if row["source"] == source])
    compared = [row for row in store if "excess" in row]
    errors = sorted(max(map(abs, _errors(row))) for row in compared)
    differences = sorted(
        max(abs(a - b) for a, b in zip(row["predicted"], row["measured"], strict=True)) for row in compared
    )
    if compared:
        yield (
            f"Over the {len(compared)} models that were compared, the largest difference over all points of a model is"
            f" {_quantile(differences, 0.5):.3f} in the median and {_quantile(differences, 0.9):.3f} at the 90th percentile; the"
            f" largest combined standard error is {_quantile(errors, 0.5):.3f} and {_quantile(errors, 0.9):.3f}."
        )
        yield ""


def _against_goals(library: str, of: list[dict[str, Any]]) -> Iterator[str]:
    """What was aimed at before the scan, beside what came out; what is refused counts as not measured."""
    number = counts(of)
    seconds = sorted(row["seconds"] for row in of)
    apart = number["measured"], number["ran"] - number["without"]
    yield (
        f"- {library}, aimed at / reached: measured 98 % / {_percent(number['measured'], number['ran'])}, or"
        f" {_percent(*apart)} of those that have a stream, also of several lanes; predicted 90 % /"
        f" {_percent(number['predicted'], number['ran'])};"
        f" agreeing 90 % / {_percent(number['agree'], number['predicted'])} of those predicted. A model took"
        f" {_quantile(seconds, 0.5):.0f} s in the median and {_quantile(seconds, 0.9):.0f} s at the 90th percentile, with"
        " building, finding its stream, 3 measurements and 3 predictions: processor time of one core."
    )
    yield ""


def _errors(row: dict[str, Any]) -> list[float]:
    return [(a * a + b * b) ** 0.5 for a, b in zip(row["predicted_se"], row["measured_se"], strict=True)]


def _quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"


def _misses(store: list[dict[str, Any]]) -> Iterator[str]:
    yield "## What misses or is refused, and why"
    yield ""
    yield "In brackets how far it came; then the commit with which it was tried, which may be older than a cure of it."
    yield ""
    missed = [row for row in store if row["result"] == "misses"]
    if missed:
        yield "Predicted and measured differ by more than is allowed, also with more seeds:"
        yield ""
        for row in missed:
            at = row["worst"]
            yield (
                f"- {_name(row)}: {row['predicted'][at]:.3f} ± {row['predicted_se'][at]:.3f} predicted,"
                f" {row['measured'][at]:.3f} ± {row['measured_se'][at]:.3f} measured at point {at} of {len(row['measured']) - 1}."
                f"{' ' + row['reason'] if row.get('reason') else ''}"
            )
        yield ""
    failed = [row for row in store if row["result"] in ("raised", "timeout", "crashed")]
    for kind, title in KINDS.items():
        of_kind = [row for row in failed if refused(row) == kind]
        if of_kind:
            yield f"### {title}"
            yield ""
            for row in of_kind:
                yield f"- {_name(row)}: {REFUSED[row['source']][row['name'].partition(':')[0]][1]}."
            yield ""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in failed:
        if refused(row):
            continue
        fitting = [name for name, pattern in _GROUPS.items() if re.search(pattern, row["error"])]
        groups.setdefault(fitting[0] if fitting else "Other", []).append(row)
    for name in [*_GROUPS, "Other"]:
        if name in groups:
            yield f"### {name}"
            yield ""
            yield from (f"- {_name(row)}{_stage(row)}, {row['commit']}: {_clean(row['error'])}" for row in groups[name])
            yield ""


def _stage(row: dict[str, Any]) -> str:
    return f" ({row['stage']})" if row.get("stage") else ""


def _name(row: dict[str, Any]) -> str:
    return row["name"] if row["source"] == "libraries" else f"{row['name']} ({LIBRARIES[row['source']]})"


def _clean(error: str) -> str:
    """A message as text of a page, its kind left out."""
    said = re.sub(r"^\w+: ", "", error)
    return re.sub(r"([|<>*_`\[\]])", r"\\\1", said)[:300]


def _table(source: str, of: list[dict[str, Any]]) -> Iterator[str]:
    yield f"## {LIBRARIES[source]}"
    yield ""
    yield "log J from the first point of the stream to the last, with standard errors; *largest difference* over all points."
    yield ""
    yield "| model | stream | log J predicted | log J measured | largest difference | processor seconds, predicted and measured | |"
    yield "|---|---|---|---|---|---|---|"
    for row in of:
        if "excess" not in row:
            continue
        difference = max(abs(a - b) for a, b in zip(row["predicted"], row["measured"], strict=True))
        yield (
            f"| {row['name']} | {_stream(row)} | {row['predicted'][0]:.3f} ± {row['predicted_se'][0]:.3f} |"
            f" {row['measured'][0]:.3f} ± {row['measured_se'][0]:.3f} | {difference:.3f} | {row['time_predicted']:g},"
            f" {row['time_measured']:g} | {'' if row['result'] == 'agrees' else '**misses**'} |"
        )
    yield ""


def _stream(row: dict[str, Any]) -> str:
    """Number of blocks and most frequent kind of the chain that was measured, and how many others there are."""
    chain = next(one for one in row["chains"] if one["name"] == row["chain"])
    kind = Counter(chain["kinds"]).most_common(1)[0][0] if chain["kinds"] else "–"
    others = f", +{len(row['chains']) - 1}" if len(row["chains"]) > 1 else ""
    return f"{chain['blocks']} × {kind}{others}"


def _not_tried(store: list[dict[str, Any]]) -> Iterator[str]:
    """Types that this benchmark does not manage to build small or to run: no statement on the library."""
    left_out = [row for row in store if row["result"] in ("not built", "not run")]
    if not left_out:
        return
    yield "## Not compared"
    yield ""
    yield from _untried(store)
    yield (
        f"{len(left_out)} models could not be built small by the names of their fields, or not be run on random inputs, by"
        " `benchmarks/families`. This says nothing of the library."
    )
    yield ""
    yield from (
        f"- {_name(row)}, {row['result']}: {_clean(row['error']).removeprefix('does not run on random inputs: ')[:200]}"
        for row in left_out
    )
    yield ""


def _untried(store: list[dict[str, Any]]) -> Iterator[str]:
    """What the libraries have and the store has not."""
    from sources import timm_modules, transformers_types

    done = {(row["source"], row["name"].partition(":")[0]) for row in store}
    there = {"hf": transformers_types(), "timm": list(timm_modules())}
    for source, names in there.items():
        missing = [name for name in names if (source, name) not in done]
        if missing:
            yield f"Of {len(names)} in {LIBRARIES[source]}, {len(missing)} were not tried yet: {', '.join(missing)}."
            yield ""


def _exact(record: dict[str, Any]) -> Iterator[str]:
    yield "## Families that the exact engine describes"
    yield ""
    yield (
        "Made by `docs/make_exact_families.py`. Depth 12, each model's own initializer, real inputs (two photographs, or two"
        " stretches of 64 bytes of Python's standard library), 6 weight seeds. `own`: the norms that the model has. A case"
        " agrees when |log J theory − measured| ≤ 0.10 + 3 standard errors at every block boundary."
    )
    yield ""
    yield "| family | norm | α | log J theory | log J measured | largest deviation | its standard error | verdict |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in record["families"]:
        bold = "" if row["verdict"] == "agrees" else "**"
        yield (
            f"| {row['family']} | {row['norm']} | {row['alpha'] or '–'} | {row['log_apjn_predicted'][0]:.4f} |"
            f" {row['log_apjn_measured'][0]:.4f} ± {row['log_apjn_se'][0]:.4f} | {row['largest_deviation']:.4f} |"
            f" {row['log_apjn_se'][row['largest_deviation_block']]:.4f} | {bold}{row['verdict']}{bold} |"
        )
    yield ""
    yield from _EXACT_MISSES
    yield from _llama(record["llama_70b"])


_EXACT_MISSES = (
    "- **BERT with a pointwise function in the place of its post-norm.** After such a norm the stream is no sum of many",
    "  independent terms but φ of one, channel by channel; the theory takes it for Gaussian, and takes φ' of successive",
    "  layers for independent, while the skip connection carries the same channel on. Both hold while φ is nearly linear",
    "  on the stream (DyT here), and fail where its slope at 0 exceeds one and channels settle at two values (Derf at α = 1:",
    "  slope 2/√π).",
    "- **MLP-Mixer has no exact description.** Its token mixing shares weights between all channels, so that a branch's output",
    "  is correlated with its input; with independent branches the theory gave log J(0→L) = 1.48 against 1.88 ± 0.02",
    "  measured for mixer_s16 with LayerNorm, and with that correlation to first order 1.68. It is predicted without weights",
    "  (the table of timm above).",
    "- DeiT-III and the rotary ViT start with LayerScale at 1e-6 and 1e-5: log J is 0 to five digits, and so is the theory.",
    "",
)


def _llama(trend: Iterable[dict[str, Any]]) -> Iterator[str]:
    yield "### A Llama of 70 billion, from its config and from narrower ones"
    yield ""
    yield "80 layers, RMSNorm, rotary grouped-query attention, SwiGLU. Narrower models keep fan-in · Var(W), so the infinite-width"
    yield "theory of the blocks is the same; embeddings, which share the initializer's range, differ, and each width is predicted"
    yield "from its own config."
    yield ""
    yield "| width | log J theory | log J measured | largest deviation over all 81 boundaries |"
    yield "|---|---|---|---|"
    for row in trend:
        yield (
            f"| {row['width']} | {row['log_apjn_predicted'][0]:.3f} | {row['log_apjn_measured'][0]:.3f} ±"
            f" {row['log_apjn_se'][0]:.3f} | {row['largest_deviation']:.3f} at {row['largest_deviation_block']} |"
        )


def main() -> None:
    store = rows(DOCS / "data" / "families.jsonl")
    exact = json.loads((DOCS / "data" / "families.json").read_text())
    (DOCS / "families.md").write_text(page(store, exact))
    for source in LIBRARIES:
        print(LIBRARIES[source], counts([row for row in store if row["source"] == source]))


if __name__ == "__main__":
    main()
