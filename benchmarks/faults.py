"""The fault matrix: planted faults by site and precision, and their healthy twins over many seeds.

    python benchmarks/faults.py [--only TEXT] [--dtypes float32,bfloat16] [--seeds 200] [--jobs 2]

A cell shows the code that was found, MISSED (with what came instead), or EXTRA. Twins are right
programs; nothing may be said of them. The exit code is 1 if a cell or a twin is wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the table, which the tests share

from tests.runtime.fault_programs import Setting, codes_of
from tests.runtime.faults import FAULTS, Fault
from tests.runtime.twins import TWINS

DTYPES = ("float64", "float32", "bfloat16", "float16")
Task = tuple[str, int, str, str, int, int]
"""Table, row, dtype, shape, first seed, seeds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows that contain this text")
    parser.add_argument("--dtypes", default=",".join(DTYPES))
    parser.add_argument("--seeds", type=int, default=200, help="of each healthy twin, all dtypes")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    dtypes = options.dtypes.split(",")
    began = time.perf_counter()
    with ProcessPoolExecutor(
        options.jobs, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        wrong = matrix(pool, options.only, dtypes)
        wrong += healthy(pool, options.only, dtypes, options.seeds)
    print(f"\n{wrong} wrong, {time.perf_counter() - began:,.0f} s")
    return 1 if wrong else 0


def matrix(pool: ProcessPoolExecutor, only: str, dtypes: Sequence[str]) -> int:
    """The planted faults: a row each and shape, a column a dtype. How many cells are wrong."""
    rows = [(n, f, shape) for n, f in enumerate(FAULTS) if only in str(f) for shape in f.shapes]
    tasks = [("fault", n, dtype, shape, 0, 1) for n, _, shape in rows for dtype in dtypes]
    results = pool.map(run, tasks)
    width = max((len(str(f)) for _, f, _ in rows), default=0)
    print(f"{'fault / site':<{width}} {'shape':<10}", *(f"{dtype:<17}" for dtype in dtypes))
    wrong = 0
    for _, fault, shape in rows:
        cells = [cell(fault, found) for found in islice(results, len(dtypes))]
        wrong += sum(text.startswith(("MISSED", "EXTRA", "CRASH")) for text in cells)
        print(f"{fault!s:<{width}} {shape:<10}", *(f"{text:<17}" for text in cells), flush=True)
    count = len(tasks)
    print(f"\n{len({f.name for _, f, _ in rows})} faults, {len(rows)} rows, {count} cells")
    return wrong


def cell(fault: Fault, found: dict[str, int]) -> str:
    """What a cell of the table shows."""
    shown = " ".join(sorted(code.removeprefix("DRP") for code in found))
    if any(code.startswith("CRASH") for code in found):
        return "CRASH"
    if fault.code not in found:
        return f"MISSED {shown}".strip()
    return shown if len(found) == 1 else f"EXTRA {shown}"


def healthy(pool: ProcessPoolExecutor, only: str, dtypes: Sequence[str], seeds: int) -> int:
    """The healthy programs: seeds that were run, and what was said of them."""
    share = -(-seeds // len(dtypes))
    tasks: list[Task] = []
    names: list[tuple[str, str]] = []
    seen: set[tuple[int, str]] = set()  # faults of one kind share their twin
    for n, fault in enumerate(FAULTS):
        for shape in fault.shapes:
            if only not in str(fault) or (id(fault.healthy), shape) in seen:
                continue
            seen.add((id(fault.healthy), shape))
            tasks += [("fault twin", n, dtype, shape, 1, share) for dtype in dtypes]
            names += [(f"twin of {fault}", shape)] * len(dtypes)
    for n, twin in enumerate(TWINS):
        if only in twin.name:
            tasks += [("twin", n, dtype, twin.shape, 1, share) for dtype in dtypes]
            names += [(twin.name, twin.shape)] * len(dtypes)
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    runs: Counter[tuple[str, str]] = Counter()
    print(f"\n{'healthy program':<60} {'shape':<10} {'seeds':>6}  findings")
    for last, (name, said) in enumerate(zip(names, pool.map(run, tasks), strict=True), 1):
        found[name].update(said)
        runs[name] += share
        if last == len(names) or names[last] != name:
            text = ", ".join(f"{code} x {n}" for code, n in sorted(found[name].items())) or "-"
            print(f"{name[0]:<60} {name[1]:<10} {runs[name]:>6}  {text}", flush=True)
    print(f"\n{len(runs)} healthy programs, {sum(runs.values()):,} runs")
    return sum(1 for counts in found.values() if counts)


def run(task: Task) -> dict[str, int]:
    """The codes that one cell's runs gave, each with the number of runs that gave it."""
    table, row, dtype, shape, first, seeds = task
    setting = Setting(getattr(torch, dtype), shape)
    if table == "twin":
        build, spared = TWINS[row].build, TWINS[row].spared
    else:
        fault, spared = FAULTS[row], ()
        build = fault.faulty if table == "fault" else fault.healthy
    codes: Counter[str] = Counter()
    for seed in range(first, first + seeds):
        try:
            codes.update(set(codes_of(build, setting, seed)) - set(spared))
        except Exception as error:  # a cell that cannot run is a result too
            codes[f"CRASH {type(error).__name__}: {error}"[:100]] += 1
    return dict(codes)


if __name__ == "__main__":
    sys.exit(main())
