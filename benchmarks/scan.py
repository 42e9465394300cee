"""Time `dropaudit scan` on a source tree, side by side with what else could read it.

    python benchmarks/scan.py TREE [--torchfix PATH] [--ruff PATH] [--repeat 5]

All contenders take turns, round after round, so that a busy machine is unfair to all of them alike.
Printed are the median wall time, its ratio to the bare parse, and the peak memory of the largest
process. The bare parse reads, in one process, just the files that dropaudit's prefilter lets pass.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

# Run as child processes: this one must stay small, or its own memory would count as theirs.
CANDIDATES = """
import sys
from dropaudit.catalogue import rules
from dropaudit.static.files import FileSelection, discover
from dropaudit.static.prefilter import prefilter

passes = prefilter(rules())
files = [f for f in discover([sys.argv[1]], FileSelection()) if f.path.suffix != ".ipynb"]
chosen = [f.path for f in files if passes(f.path.read_bytes())]
print(len(files), sum(f.path.stat().st_size for f in files))
print("\\n".join(str(path.resolve()) for path in chosen))
"""
BARE_PARSE = """
import sys
from pathlib import Path
import libcst

for line in Path(sys.argv[1]).read_text().splitlines():
    libcst.parse_module(Path(line).read_bytes())
"""
BASELINE = "bare libcst parse"
COLD = "dropaudit cold, -j 1"
COLD_2 = "dropaudit cold, -j 2"
WARM = "dropaudit warm"
RUFF = "ruff, no cache"
TORCHFIX = "TorchFix, --jobs 2"
RATIOS = ((COLD, BASELINE), (TORCHFIX, COLD_2), (WARM, RUFF))


@dataclass
class Contender:
    """A command, how often it runs, and what it took each time: seconds and bytes."""

    name: str
    command: Sequence[str]
    repeat: int
    seconds: list[float] = field(default_factory=list)
    memory: int = 0


def main() -> None:
    """Parse the command line, run every contender, print the table."""
    arguments = _arguments()
    tree = str(arguments.tree)
    with tempfile.TemporaryDirectory() as scratch:
        listing = Path(scratch, "files")
        count, size, paths = _candidates(tree)
        listing.write_text("\n".join(paths))
        contenders = _contenders(arguments, tree, scratch, str(listing))
        print(f"{tree}: {count} files, {size / 1e6:.1f} MB, {len(paths)} pass the prefilter")
        for turn in range(max(contender.repeat for contender in contenders)):
            for contender in contenders:
                if turn < contender.repeat:
                    _run(contender)
    _print(contenders)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("tree", type=Path)
    parser.add_argument("--repeat", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--torchfix", default=shutil.which("torchfix"), metavar="PATH")
    parser.add_argument("--torchfix-repeat", type=int, default=1, help="it is slow (default: 1)")
    parser.add_argument("--ruff", default=shutil.which("ruff"), metavar="PATH")
    arguments = parser.parse_args()
    if not arguments.tree.is_dir():
        parser.error(f"{arguments.tree} is not a folder")
    return arguments


def _candidates(tree: str) -> tuple[int, int, list[str]]:
    command = [sys.executable, "-c", CANDIDATES, tree]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    head, *paths = run.stdout.splitlines()
    count, size = head.split()
    return int(count), int(size), [path for path in paths if path]


def _contenders(
    arguments: argparse.Namespace, tree: str, scratch: str, listing: str
) -> list[Contender]:
    scan = [sys.executable, "-m", "dropaudit", "scan", "--isolated", "--exit-zero", tree]
    warm = [*scan, "--cache-dir", str(Path(scratch, "cache"))]
    subprocess.run(warm, stdout=subprocess.DEVNULL, check=True)  # fills the cache
    repeat = arguments.repeat
    found = [
        Contender(BASELINE, [sys.executable, "-c", BARE_PARSE, listing], repeat),
        Contender(COLD, [*scan, "--no-cache", "-j", "1"], repeat),
        Contender(COLD_2, [*scan, "--no-cache", "-j", "2"], repeat),
        Contender(WARM, warm, repeat),
    ]
    if arguments.ruff:
        ruff = [arguments.ruff, "check", "--isolated", "--no-cache", "--exit-zero", tree]
        found.append(Contender(RUFF, ruff, repeat))
    if arguments.torchfix:
        torchfix = [arguments.torchfix, "--jobs", "2", tree]
        found.append(Contender(TORCHFIX, torchfix, arguments.torchfix_repeat))
    return found


def _run(contender: Contender) -> None:
    start = time.perf_counter()
    process = subprocess.Popen(
        contender.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    contender.seconds.append(time.perf_counter() - start)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{contender.name} failed ({process.returncode}):\n{errors[-2000:]}")
    contender.memory = max(contender.memory, usage.ru_maxrss * (1 if _IS_MAC else 1024))


_IS_MAC = sys.platform == "darwin"


def _print(contenders: Sequence[Contender]) -> None:
    base = next(median(c.seconds) for c in contenders if c.name == BASELINE)
    print(f"{'':22}{'median s':>10}{'fastest s':>11}{'x parse':>9}{'MB':>7}{'runs':>6}")
    for contender in contenders:
        seconds = median(contender.seconds)
        print(
            f"{contender.name:22}{seconds:10.2f}{min(contender.seconds):11.2f}"
            f"{seconds / base:9.2f}{contender.memory / 1e6:7.0f}{len(contender.seconds):6}"
        )
    seconds_of = {contender.name: median(contender.seconds) for contender in contenders}
    for slower, faster in RATIOS:
        if slower in seconds_of and faster in seconds_of:
            print(f"{slower} / {faster}: {seconds_of[slower] / seconds_of[faster]:.2f}")


if __name__ == "__main__":
    main()
