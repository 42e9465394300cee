"""Planted faults get the right code, right programs none: a part of `benchmarks/faults.py`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.runtime.fault_programs import Setting, codes_of
from tests.runtime.faults import FAULTS, Fault
from tests.runtime.twins import TWINS, Twin

OTHERS = (torch.bfloat16, torch.float16, torch.float64)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are no faster on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def marked(fault: Fault) -> object:
    return pytest.param(fault, id=str(fault))


@pytest.mark.parametrize("fault", [marked(fault) for fault in FAULTS])
def test_a_planted_fault_gets_its_code(fault: Fault) -> None:
    """That code and no other."""
    assert codes_of(fault.faulty, Setting(torch.float32, fault.shapes[0]), 0) == [fault.code]


@pytest.mark.parametrize("fault", [marked(fault) for fault in FAULTS])
def test_precision_hides_no_fault(fault: Fault) -> None:
    """The same in another precision and shape; the whole matrix is the benchmark's."""
    dtype = OTHERS[FAULTS.index(fault) % len(OTHERS)]
    assert codes_of(fault.faulty, Setting(dtype, fault.shapes[-1]), 1) == [fault.code]


HEALTHY = list({id(fault.healthy): fault for fault in FAULTS}.values())
"""Faults of one kind share a twin."""


@pytest.mark.parametrize("fault", HEALTHY, ids=str)
def test_nothing_is_said_of_the_healthy_twin(fault: Fault) -> None:
    """Neither an error nor a warning."""
    for seed, dtype in enumerate((torch.float32, *OTHERS)):
        assert codes_of(fault.healthy, Setting(dtype, fault.shapes[-1]), seed) == []


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
def test_nothing_is_said_of_what_only_looks_wrong(twin: Twin) -> None:
    """Programs that are unusual on purpose."""
    for seed, dtype in enumerate((torch.float32, *OTHERS)):
        assert set(codes_of(twin.build, Setting(dtype, twin.shape), seed)) <= set(twin.spared)


def test_names_tell_faults_apart() -> None:
    """The rows of the table."""
    assert len({str(fault) for fault in FAULTS}) == len(FAULTS)
