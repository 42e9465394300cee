"""`dropaudit run`: the script notices nothing, the audit sees everything."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

Done = subprocess.CompletedProcess[str]

# Everything that a program can see of how it was started.
PROBE = """\
import json, os, sys
main, code = sys.modules["__main__"], sys._getframe().f_code
print(json.dumps({
    "argv": sys.argv, "path": sys.path, "cwd": os.getcwd(), "flags": list(sys.flags),
    "is main": main.__dict__ is globals(), "names": sorted(n for n in globals() if n[0] == "_"),
    "name": __name__, "file": __file__, "package": __package__, "doc": __doc__,
    "spec": __spec__ and [__spec__.name, __spec__.origin, __spec__.parent],
    "loader": type(__loader__).__name__, "builtins": type(__builtins__).__name__,
    "code": [code.co_filename, code.co_flags], "hook": sys.excepthook is sys.__excepthook__,
    "modules": sorted({"torch", "numpy", "libcst", "rich"} & set(sys.modules)),
}, indent=1))
"""
COMMAND = [sys.executable, "-m", "dropaudit", "run", "-q"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of scripts, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    package = tmp_path / "package"
    package.mkdir()
    for name in ("__main__", "probe"):
        (package / f"{name}.py").write_text(PROBE)
    (package / "__init__.py").write_text("")
    with zipfile.ZipFile("app.zip", "w") as archive:
        archive.writestr("__main__.py", PROBE)
    Path("link.py").symlink_to("package/probe.py")
    return tmp_path


def run(*arguments: str, command: list[str] = COMMAND) -> Done:
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def python(*arguments: str) -> Done:
    return run(*arguments, command=[sys.executable])


STARTS = [
    "package/probe.py",
    "package/probe.py --lr 3 -m x --json y -q -- z --every",
    "./package/../package/probe.py",
    "link.py -h",
    "package -q",
    "app.zip --version",
    "-m package --every 3",
    "-m package.probe -- -m",
    "-mpackage.probe -m x",
]


@pytest.mark.parametrize("start", STARTS)
def test_a_script_sees_what_python_itself_gives_it(project: Path, start: str) -> None:
    """Arguments, `__main__`, path, directory, and no torch that it did not import."""
    expected, done = python(*start.split()), run(*start.split())
    assert json.loads(done.stdout) == json.loads(expected.stdout)
    assert (done.returncode, expected.returncode) == (0, 0)


@pytest.mark.parametrize("start", ["package/probe.py a", "package a", "-m package a"])
def test_the_installed_command_is_no_different(project: Path, start: str) -> None:
    """Its own directory does not stay on the path."""
    command = shutil.which("dropaudit", path=Path(sys.executable).parent)
    assert command is not None
    done = run(*start.split(), command=[command, "run", "-q"])
    assert json.loads(done.stdout) == json.loads(python(*start.split()).stdout)


def test_a_path_that_was_asked_to_be_safe_stays_safe(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`PYTHONSAFEPATH` keeps the directory of the script off it."""
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    expected = json.loads(python("package/probe.py").stdout)
    command = [shutil.which("dropaudit", path=Path(sys.executable).parent) or "", "run", "-q"]
    assert json.loads(run("package/probe.py", command=command).stdout) == expected


FAILURES = {
    "an exception": "def g():\n    raise OSError('x')\ntry:\n    1 / 0\nexcept Exception:\n    g()",
    "a syntax error": "def (",
    "a missing module": "import nothere_",
    "an exit code": "import sys; print('out'); sys.exit(7)",
    "an exit with a sentence": "import sys; sys.exit('bye')",
    "a quiet exit": "import sys; sys.exit()",
    "an assertion": "assert 1 == 2",
    "a hook": "import sys\nsys.excepthook = lambda *e: print('hooked', e[1])\nraise OSError('z')",
    "something else": "raise BaseException('odd')",
    "a future import": "x: 1 / 0 = 3\nfrom __future__ import annotations",
    "a declared encoding": "# -*- coding: latin-1 -*-\nprint('caf\u00e9')",
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_script_ends_as_under_python(project: Path, name: str) -> None:
    """Its exit code, its output, and its traceback without a frame of ours."""
    Path("fail.py").write_text(FAILURES[name])
    expected, done = python("fail.py"), run("fail.py")
    assert (done.returncode, done.stdout) == (expected.returncode, expected.stdout)
    assert done.stderr.replace(_verdict(done), "") == expected.stderr


def _verdict(done: Done) -> str:
    """What the audit adds below: that it saw nothing."""
    start = done.stderr.find("the dropout audit found")
    return done.stderr[start:] if start >= 0 else ""


def test_an_interrupt_gives_130(project: Path) -> None:
    """As a shell reports it."""
    Path("wait.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    with subprocess.Popen([*COMMAND, "wait.py"], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "KeyboardInterrupt" in stderr and "dropaudit/" not in stderr


def test_child_processes_find_the_script(project: Path) -> None:
    """Spawned children import `__main__` again; what runs at exit can pickle from it."""
    Path("pool.py").write_text(
        "import atexit, multiprocessing, os, pickle, sys\n"
        "class Item: pass\n"
        "def work(item): return type(item).__name__\n"
        "def end(): print('end', len(pickle.dumps(Item())) > 0, sys.argv[1:])\n"
        "if __name__ == '__main__':\n"
        "    atexit.register(end)\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map(work, [Item()]))\n"
    )
    done = run("pool.py", "a")
    assert done.stdout == "['Item']\nend True ['a']\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("nothere.py", "no such file or directory: nothere.py"),
        ("-m nothere", "no module named nothere that could be run"),
        ("-m package.nothere", "no module named package.nothere that could be run"),
        ("", "give a script, or -m and a module"),
        ("-m", "requires an argument"),
        ("--every 0 link.py", "0 is not in the range"),
        ("--elements some link.py", "'some' is neither a positive number nor all"),
        ("--alpha 1 link.py", "1.0 is not in the range"),
        ("--json nothere/trace.json link.py", "nothere/trace.json cannot be written"),
        ("--nonsense link.py", "No such option"),
    ],
)
def test_mistakes_are_said_before_anything_runs(
    project: Path, arguments: str, sentence: str
) -> None:
    """In one sentence, with exit code 2."""
    done = run(*arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "absence",
    [
        "sys.modules['torch'] = None",
        "sys.path[:] = [p for p in sys.path if not os.path.isdir(p + '/torch/nn')]",
        "sys.path.insert(0, 'stub')",
    ],
)
def test_without_torch_there_is_one_sentence(project: Path, absence: str) -> None:
    """And exit code 2; the script does not run."""
    Path("stub").mkdir()
    Path("stub", "torch.py").write_text("raise ImportError('no torch here')")
    code = (
        "import os, sys, click\n"
        "from dropaudit.cli import main\n"
        "import dropaudit.commands.run, dropaudit.runtime.script, dropaudit.runtime.arrival\n"
        f"{absence}\n"
        "import dropaudit\n"
        "try:\n    dropaudit.audit\n"
        "except ImportError as error:\n    print(error)\n"
        "main(['run', 'link.py'])\n"
    )
    done = python("-c", code)
    assert done.returncode == 2, done.stderr
    assert done.stdout == "dropaudit.audit needs PyTorch: pip install 'dropaudit[torch]'\n"
    assert done.stderr == "Error: dropaudit run needs PyTorch: pip install 'dropaudit[torch]'\n"


def test_somebody_else_s_process_is_left_as_it_was(project: Path) -> None:
    """Called from Python, the command puts `__main__`, the arguments and the path back."""
    code = (
        "import sys\n"
        "from dropaudit.cli import main\n"
        "before = sys.modules['__main__'], sys.argv, list(sys.path)\n"
        "try:\n    main(['run', '-q', 'link.py'], standalone_mode=False)\n"
        "except SystemExit:\n    pass\n"
        "assert before == (sys.modules['__main__'], sys.argv, sys.path)\n"
        "print('same')\n"
    )
    assert python("-c", code).stdout.endswith("same\n")


TRAINING = """\
import sys
import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inputs, self.outputs = nn.Linear(16, 64), nn.Linear(64, 1)

    def forward(self, x):
        return self.outputs(F.dropout(self.inputs(x), 0.5{mode}))


torch.manual_seed(0)
net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
for _ in range(5):
    loss = net(torch.randn(32, 16)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
net.eval()
with torch.no_grad():
    print(f"{{net(torch.ones(4, 16)).sum().item():.6f}} {{torch.rand(()).item():.6f}}")
{end}
"""


def training(*, healthy: bool, end: str = "") -> None:
    mode = ", training=self.training" if healthy else ""
    Path("train.py").write_text(TRAINING.format(mode=mode, end=end))


def test_a_dropout_that_ignores_eval_gives_exit_code_1(project: Path) -> None:
    """The report goes to standard error; the script's own output is what it always was."""
    training(healthy=False)
    done = run("train.py", command=COMMAND[:-1])
    assert done.returncode == 1, done.stderr
    assert done.stdout == python("train.py").stdout
    assert "DRP201 functional-dropout-ignoring-mode (error)" in done.stderr
    assert "train.py:13" in done.stderr and "Found 1 error" in done.stderr


def test_its_healthy_twin_gives_exit_code_0(project: Path) -> None:
    """With the table of its sites, or in silence under -q."""
    training(healthy=True)
    done = run("train.py", command=COMMAND[:-1])
    assert done.returncode == 0, done.stderr
    assert done.stdout == python("train.py").stdout
    assert "Checked 1 site, found nothing." in done.stderr
    assert run("train.py").stderr == ""


@pytest.mark.parametrize(
    ("end", "code"), [("sys.exit(3)", 3), ("raise OSError", 1), ("sys.exit(0)", 1)]
)
def test_the_script_s_own_failure_wins(project: Path, end: str, code: int) -> None:
    """And the report is printed all the same."""
    training(healthy=False, end=end)
    done = run("train.py")
    assert done.returncode == code
    assert "DRP201" in done.stderr


def test_a_saved_trace_can_be_judged(project: Path) -> None:
    """Where the command was started, whatever directory the script goes to."""
    training(healthy=False, end="import os; os.makedirs('elsewhere'); os.chdir('elsewhere')")
    ran = run("--json", "trace.json", "--every", "1", "--elements", "all", "train.py")
    assert ran.returncode == 1
    assert [f.name for f in project.glob("*trace.json*")] == ["trace.json"]
    assert json.loads(Path("trace.json").read_text())["settings"]["elements"] is None
    judged = run("trace.json", command=[*COMMAND[:-2], "judge"])
    assert judged.returncode == 1
    assert "DRP201" in judged.stdout


def test_the_environment_is_set_before_torch_is_loaded(project: Path) -> None:
    """A script that chooses its threads must be the first to import torch."""
    Path("threads.py").write_text(
        "import os\nos.environ['OMP_NUM_THREADS'] = '1'\n"
        "import torch\nprint(torch.get_num_threads())\n"
    )
    if os.cpu_count() == 1:
        pytest.skip("there is one thread in any case")
    assert run("threads.py").stdout == "1\n"
