"""Programs on many ranks, under one audit: two and four gloo processes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from dropaudit.runtime.judge import judge
from dropaudit.runtime.trace import Trace
from tests.runtime.rank_programs import by_hand, torchrun

OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7)
NO_FSDP = pytest.mark.skipif(OLD, reason="FSDP2 of torch 2.6 does not run on a CPU")
WRAPPERS = ["ddp", pytest.param("fsdp", marks=NO_FSDP), "sp"]
SHARED = "DRP305 mask-shared-across-ranks (error)"


def lines(text: str) -> list[str]:
    return sorted(line for line in text.splitlines() if line[1:2] == ":")


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_ranks_that_share_a_seed_are_named(tmp_path: Path, wrapper: str) -> None:
    """One report for all, and a trace that can be judged again."""
    file = tmp_path / "trace.json"
    done = torchrun(tmp_path, wrapper, "one", options=("--json", str(file)))
    assert done.codes == (1,)
    assert done.stderr.count("dropout audit: 6 steps") == 1
    assert "on 2 ranks" in done.stderr and done.stderr.count(SHARED) == 1
    trace = Trace.from_json(file.read_text())
    assert [f.code for f in judge(trace)] == ["DRP305"]
    assert "on ranks 0-1 in 4 of 4 steps" in judge(trace)[0].message
    (site,) = trace.sites
    assert site.training.calls == 12 and site.backward.calls == 12
    assert site.training.draws < 6 * 16 * 64 * 0.75  # of two equal samples, one


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_reseed_before_the_first_forward_is_fine(tmp_path: Path, wrapper: str) -> None:
    """Equal seeds are for the weights; what the program computes is the same bit for bit."""
    done = torchrun(tmp_path, wrapper, "own")
    assert done.codes == (0,), done.stderr
    assert "Checked 1 site, found nothing." in done.stderr
    assert lines(done.stdout) == lines(torchrun(tmp_path, wrapper, "own", audited=False).stdout)
    assert not list(tmp_path.glob("dropaudit-*"))


@NO_FSDP
def test_of_a_mesh_each_dimension_has_its_policy(tmp_path: Path) -> None:
    """Four ranks: tensor-parallel ranks that share a mask are fine, unless the user says not."""
    file = tmp_path / "trace.json"
    done = torchrun(tmp_path, "2d", "of data", world=4, options=("--json", str(file)))
    assert done.codes == (0,), done.stderr
    trace = json.loads(file.read_text())
    found = {(g["name"], tuple(g["ranks"]), g["policy"]) for g in trace["groups"]}
    assert found >= {("tp", (0, 1), "ignore"), ("tp", (2, 3), "ignore")}
    assert {(a["first"], a["second"]) for a in trace["across"]} == {(0, 2), (1, 3)}


def test_torchrun_tells_when_a_rank_dies(tmp_path: Path) -> None:
    """What the others saw is reported, and who is missing."""
    begun = time.monotonic()
    done = torchrun(tmp_path, "ddp", "own", "dies")
    assert done.codes[0] != 0
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("end", ["dies", "silent"])
def test_a_rank_that_never_reports_ends_the_audit(tmp_path: Path, end: str) -> None:
    """With an error that names it, and no deadlock: killed in the middle, or gone at the end."""
    done = by_hand(tmp_path, "ddp", "own", end, options=("--patience", "2"))
    assert done.codes[0] == 1
    assert "the dropout audit heard nothing from rank 1 of 2" in done.stderr
    assert "on 1 of 2 ranks" in done.stderr and "rank 1 was not checked" in done.stderr


def test_without_torchrun_there_is_one_report_too(tmp_path: Path) -> None:
    """The process groups are gone when the script ends: then it is files. Nothing is left."""
    done = by_hand(tmp_path, "ddp", "one")
    assert done.codes == (1, 0), done.stderr
    assert "on 2 ranks" in done.stderr and done.stderr.count(SHARED) == 1
    assert not list(tmp_path.glob("dropaudit-*"))


def test_the_user_s_policy_comes_first(tmp_path: Path) -> None:
    """Ranks that share a mask, on purpose."""
    assert by_hand(tmp_path, "none", "one", options=("--ranks", "0,1=identical")).codes == (0, 0)


def test_masks_that_have_to_be_identical_are_compared(tmp_path: Path) -> None:
    """And are not here."""
    done = by_hand(tmp_path, "none", "own", options=("--ranks", "identical"))
    assert done.codes == (1, 0)
    assert SHARED in done.stderr and "must share one" in " ".join(done.stderr.split())


def test_an_audit_in_the_script_is_one_for_all_ranks(tmp_path: Path) -> None:
    """Rank 0 raises for all."""
    done = torchrun(tmp_path, "ddp", "one", "block", audited=False)
    assert "DropoutAuditError" in done.stderr and "on ranks 0-1" in done.stderr
    assert "reported True" not in done.stdout


def test_an_audit_of_rank_0_alone_is_no_error(tmp_path: Path) -> None:
    """It waits for the others only briefly; the report says that they were not audited."""
    done = torchrun(tmp_path, "ddp", "own", "block on rank 0", audited=False)
    assert done.codes == (0,), done.stderr
    assert done.stdout.count("reported True") == 1
