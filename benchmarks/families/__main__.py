"""Does the prediction without weights agree with the measurement, for every model type of transformers, every module of timm, and
models of other libraries?

    python benchmarks/families hf timm --store docs/data/families.jsonl
    python benchmarks/families hf --only llama,t5 --store /tmp/some.jsonl
    python benchmarks/families libraries --installed FOLDER --store docs/data/families.jsonl

Each model is tried in a process of its own, with a limit of time and of memory; one line of JSON each, and what is in the
store is not tried again (``--again`` results).  ``docs/make_families.py`` makes the page.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from subprocess import run
from typing import Any

MEMORY = 6 * 2**30
WAITING = 20.0
"""Limit of time that passes, in limits of processor time: other processes may be busy."""
Say = Callable[..., None]


def in_process(task: Callable[[Say], None], seconds: float) -> dict[str, Any]:
    """What ``task`` says, in a forked process with limits."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _child(task, writer, seconds)
    os.close(writer)
    row: dict[str, Any] = {}
    start, rest = time.perf_counter(), b""
    while True:
        left = WAITING * seconds - (time.perf_counter() - start)
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            os.kill(child, signal.SIGKILL)
            row |= {"result": "timeout", "error": f"took more than {WAITING * seconds:g} s"}
            break
        chunk = os.read(reader, 2**16)
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            row |= json.loads(line)
    os.close(reader)
    _, status, used = os.wait4(child, 0)
    if "result" not in row and os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        row |= {"result": "timeout", "error": f"took more than {seconds:g} s of processor time"}
    elif "result" not in row:
        row |= {"result": "crashed", "error": f"process ended with status {status}"}
    return row | {"seconds": round(used.ru_utime + used.ru_stime, 1)}


def _child(task: Callable[[Say], None], writer: int, seconds: float) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))

    def say(**facts: Any) -> None:
        os.write(writer, json.dumps(facts).encode() + b"\n")

    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        task(say)
    except BaseException as error:
        stage = getattr(error, "stage", "")
        kind = {"not run": "not run", "not built": "not built"}.get(stage, "raised")
        said = (str(error).strip().splitlines() or [""])[0][:400]
        at = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)[-6:]]
        say(result=kind, error=f"{type(error).__name__}: {said}", at=at if kind == "raised" else [])
    os._exit(0)


def cases(sources: list[str], only: set[str]) -> Iterator[tuple[str, str, Callable[[Say], None]]]:
    """Source, name and task of each model."""
    from compare import tried
    from libraries import library_cases, library_model
    from sources import HYBRIDS, timm_model, timm_modules, transformers_model, transformers_types

    if "hf" in sources:
        for kind in transformers_types():
            if not only or kind in only:
                yield "hf", kind, lambda say, kind=kind: tried(lambda w: transformers_model(kind, w), say, (256, 512))  # type: ignore[misc]
    if "timm" in sources:
        for module, name in [*timm_modules().items(), *(("hybrid", name) for name in HYBRIDS)]:
            if not only or module in only:
                yield "timm", f"{module}: {name}", lambda say, name=name: tried(lambda w: timm_model(name), say, (0,))  # type: ignore[misc]
    if "libraries" in sources:
        for library, name, build, inputs in library_cases():
            if not only or library in only or name in only:
                ready = partial(library_model, library, build, inputs)
                yield "libraries", f"{library}, {name}", lambda say, ready=ready: tried(lambda w: ready(), say, (0,))  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="+", choices=("hf", "timm", "libraries"))
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--installed", default="", help="folder of packages that are not of the environment")
    parser.add_argument("--only", default="", help="names, comma separated")
    parser.add_argument("--again", default="", help="results that are tried again, comma separated")
    parser.add_argument("--limit", type=float, default=100.0, help="seconds of processor time for each model")
    parser.add_argument("--until", default="", help="stop at this time of day, HH:MM")
    options = parser.parse_args()
    sys.path += filter(None, [options.installed])
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    import torch
    import transformers  # noqa: F401  (before the fork)

    torch.set_num_threads(1)
    rows = [json.loads(line) for line in options.store.read_text().splitlines()] if options.store.exists() else []
    again = set(filter(None, options.again.split(",")))
    done = {(row["source"], row["name"]) for row in rows if row["result"] not in again}
    commit = run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout
    about = {"commit": commit.strip(), **{name: version(name) for name in ("torch", "transformers", "timm")}}
    counts: Counter[str] = Counter()
    gc.freeze()
    for source, name, task in cases(options.sources, set(filter(None, options.only.split(",")))):
        if (source, name) in done and not options.only:
            continue
        if options.until and time.strftime("%H:%M") >= options.until:
            break
        row = {"source": source, "name": name, **in_process(task, options.limit), **about}
        counts[row["result"]] += 1
        with options.store.open("a") as store:
            store.write(json.dumps(row) + "\n")
        print(
            name,
            row["result"],
            row.get("stage", ""),
            row["seconds"],
            row.get("error", ""),
            row.get("excess", ""),
            flush=True,
        )
    print(dict(counts))


if __name__ == "__main__":
    sys.exit(main())
