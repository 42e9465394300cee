"""A training program for many ranks, and how to run it: on gloo, on the CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

PROGRAM = """\
import os, sys
import torch
import torch.distributed as dist
from torch import nn

torch.set_num_threads(1)
wrapper, seeds = sys.argv[1:3]
at_rank_1 = sys.argv[3] if len(sys.argv) > 3 else ""
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.inputs, self.outputs = nn.Linear(32, 64), nn.Linear(64, 1)
        self.drop = nn.Dropout(p)
        if wrapper == "sp":
            self.norm = nn.LayerNorm(32)

    def forward(self, x):
        if wrapper == "sp":
            return self.outputs(torch.relu(self.inputs(self.drop(self.norm(x)))))
        return self.outputs(self.drop(torch.relu(self.inputs(x))))


net = Net(0.4 if at_rank_1 == "other p" and rank == 1 else 0.2)
if at_rank_1 == "wrong scale" and rank == 1:
    net.drop = type("Dropout", (nn.Module,), {})()
    net.drop.p = 0.2
    net.drop.forward = lambda x: x * (torch.rand_like(x) > 0.2)
if wrapper == "ddp":
    model = nn.parallel.DistributedDataParallel(net)
elif wrapper == "fsdp":
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    model = fully_shard(net, mesh=init_device_mesh("cpu", (world,)))
elif wrapper == "sp":  # rows are spread over the ranks where dropout is
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel
    from torch.distributed.tensor.parallel import SequenceParallel, parallelize_module
    rows = SequenceParallel(sequence_dim=0)
    parts = {"norm": rows, "drop": rows, "inputs": ColwiseParallel(input_layouts=Shard(0))}
    parts["outputs"] = RowwiseParallel(output_layouts=Shard(0))
    mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("tp",))
    model = parallelize_module(net, mesh, parts)
elif wrapper == "2d":  # data parallel over ranks 0, 2 and 1, 3; tensor parallel over the others
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel
    from torch.distributed.tensor.parallel import parallelize_module
    from torch.distributed.fsdp import fully_shard
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    parts = {"inputs": ColwiseParallel(), "outputs": RowwiseParallel()}
    parallelize_module(net, mesh["tp"], parts)
    model = fully_shard(net, mesh=mesh["dp"])
else:
    model = net
if seeds == "own":
    torch.manual_seed(1 + rank)
elif seeds == "of data":
    torch.manual_seed(1 + rank // 2)
if at_rank_1.startswith("block"):  # an audit of the script's own
    import dropaudit
    audits = at_rank_1 == "block" or rank == 0
    audit = dropaudit.audit(model) if audits else None
    if audits:
        audit.start()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
data = torch.Generator().manual_seed(100 + rank // (2 if wrapper == "2d" else 1))
for step in range(6):
    x = torch.randn(16, 32, generator=data)
    if at_rank_1 == "dies" and rank == 1 and step == 3:
        os.kill(os.getpid(), 9)
    if at_rank_1 == "shorter" and rank == 1:
        x = x[:8]
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
model.eval()
with torch.no_grad():
    total = model(torch.ones(4, 32)).sum().item()
if at_rank_1.startswith("block") and audits:
    audit.stop()
    print("reported", audit.report.trace.joined, flush=True)
os.write(1, f"{rank}: {total:.9f} {torch.rand(()).item():.9f}\\n".encode())  # in one piece
if at_rank_1 == "silent" and rank == 1:
    os._exit(0)
dist.destroy_process_group()
"""


@dataclass(frozen=True)
class Ranks:
    """What the processes of all ranks printed, and how they ended."""

    codes: tuple[int, ...]
    stdout: str
    stderr: str


def by_hand(folder: Path, *arguments: str, world: int = 2, options: tuple[str, ...] = ()) -> Ranks:
    """Start each rank as a process of its own, with the environment that torch asks for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = _written(folder)
    base = {name: v for name, v in os.environ.items() if not name.startswith("TORCHELASTIC")}
    base |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    base |= {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "dropaudit", "run", *options, str(script), *arguments]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    command, env=base | {"RANK": str(n)}, text=True, stdout=-1, stderr=-1
                )
            )
            for n in range(world)
        ]
        try:
            outputs = [process.communicate(timeout=90) for process in processes]
        finally:
            for process in processes:
                process.kill()
    return Ranks(
        tuple(process.returncode for process in processes),
        "".join(out for out, _ in outputs),
        "".join(err for _, err in outputs),
    )


def torchrun(
    folder: Path,
    *arguments: str,
    world: int = 2,
    options: tuple[str, ...] = (),
    audited: bool = True,
) -> Ranks:
    """`torchrun --nproc-per-node WORLD -m dropaudit run OPTIONS program.py ARGUMENTS`."""
    script = str(_written(folder))
    program = ["-m", "dropaudit", "run", *options, script] if audited else [script]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(world), *program, *arguments]
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return Ranks((done.returncode,), done.stdout, done.stderr)


def _written(folder: Path) -> Path:
    script = folder / "program.py"
    script.write_text(PROGRAM)
    return script
