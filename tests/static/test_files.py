"""Which files a scan reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from dropaudit.static.files import DEFAULT_EXCLUDE, FileSelection, NoSuchPath, discover

ALL = FileSelection()


@pytest.fixture(autouse=True)
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, being the current directory."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    return project


def write(*files: str, text: str = "") -> None:
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(text)


def shown(paths: Sequence[str] = (".",), selection: FileSelection = ALL) -> list[str]:
    return [found.display for found in discover(paths, selection)]


def test_python_stubs_and_notebooks_are_found_in_order() -> None:
    """Sorted by path, whatever the order on disk; other files are left."""
    write("b.py", "a/z.pyi", "a/nb.ipynb", "c.txt", "d.pyc", "Makefile")
    assert shown() == ["a/nb.ipynb", "a/z.pyi", "b.py"]


def test_an_explicit_file_is_taken_as_it_is() -> None:
    """Any name, also an excluded one."""
    write("script", "build/a.py")
    assert shown(["script", "build/a.py"]) == ["build/a.py", "script"]


def test_each_file_comes_once() -> None:
    """However often and by whatever path it is named."""
    write("a/b.py")
    Path("link.py").symlink_to("a/b.py")
    assert shown([".", "a", "a/b.py", "./a/../a/b.py"]) == ["a/b.py"]
    assert shown(["link.py"]) == ["link.py"]


def test_a_path_outside_is_shown_whole(cwd: Path) -> None:
    """Relative below the current directory, else absolute."""
    write("../other/a.py", "here.py")
    assert shown(["../other", str(cwd)]) == sorted([f"{cwd.parent}/other/a.py", "here.py"])


@pytest.mark.parametrize("path", ["missing.py", "a.py/below", "nul\0byte"])
def test_a_path_that_does_not_exist_raises(path: str) -> None:
    """The error names what was asked for."""
    write("a.py")
    with pytest.raises(NoSuchPath, match=r"no such|not a path"):
        discover([path], ALL)


@pytest.mark.parametrize("name", DEFAULT_EXCLUDE)
def test_the_default_excludes_hold_at_every_level(name: str) -> None:
    """As in ruff."""
    write(f"{name}/a.py", f"x/{name}/a.py", "x/a.py", f"x/{name}ed.py")
    assert shown() == sorted(["x/a.py", f"x/{name}ed.py"])


FILES = ["a.py", "x/a.py", "x/y/a.py", "x/y/b.py", "x/gen_1.py"]
PATTERNS = {
    "a.py": ["x/gen_1.py", "x/y/b.py"],
    "x": ["a.py"],
    "x/": ["a.py"],
    "./x": ["a.py"],
    "y": ["a.py", "x/a.py", "x/gen_1.py"],
    "x/y": ["a.py", "x/a.py", "x/gen_1.py"],
    "y/a.py": FILES,
    "x/*.py": ["a.py"],
    "**/y/a.py": ["a.py", "x/a.py", "x/gen_1.py", "x/y/b.py"],
    "**/a.py": ["x/gen_1.py", "x/y/b.py"],
    "gen_?.py": ["a.py", "x/a.py", "x/y/a.py", "x/y/b.py"],
    "gen_[!0].py": ["a.py", "x/a.py", "x/y/a.py", "x/y/b.py"],
    "{b,gen_{0,1}}.py": ["a.py", "x/a.py", "x/y/a.py"],
}


@pytest.mark.parametrize(("pattern", "left"), PATTERNS.items(), ids=PATTERNS)
def test_a_pattern_is_a_name_or_a_place(pattern: str, left: list[str]) -> None:
    """Without a slash any component; with one, from the project root."""
    write(*FILES)
    assert shown(selection=FileSelection(exclude=(pattern,))) == sorted(left)
    assert shown(selection=FileSelection(extend_exclude=(pattern,))) == sorted(left)


def test_places_count_from_the_project_root(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the scan starts below it."""
    write(*FILES)
    monkeypatch.chdir(cwd / "x")
    assert shown(selection=FileSelection(exclude=("x/y",), root=str(cwd))) == ["a.py", "gen_1.py"]


def test_force_exclude_holds_for_explicit_paths() -> None:
    """By the name of the file or of a directory above it, below the root."""
    write("build/a.py", "a.py", "x/y/b.py")
    forced = FileSelection(extend_exclude=("x/y",), force_exclude=True)
    assert shown(["build/a.py", "a.py", "x/y/b.py", "build", "x/y"], forced) == ["a.py"]


IGNORES = {
    "a name": ({".gitignore": "a.py\n"}, ["b.py", "x/b.py"]),
    "a rooted name": ({".gitignore": "/a.py\n"}, ["b.py", "x/a.py", "x/b.py"]),
    "a directory": ({".gitignore": "x/\n"}, ["a.py", "b.py"]),
    "a directory's pattern does not hit files": (
        {".gitignore": "a.py/\n"},
        ["a.py", "b.py", "x/a.py", "x/b.py"],
    ),
    "negation": ({".gitignore": "*.py\n!b.py\n"}, ["b.py", "x/b.py"]),
    "nothing returns below an ignored directory": (
        {".gitignore": "x/\n!x/b.py\n"},
        ["a.py", "b.py"],
    ),
    "a nested file": ({"x/.gitignore": "b.py\n"}, ["a.py", "b.py", "x/a.py"]),
    "a nested file has the last word": (
        {".gitignore": "a.py\n", "x/.gitignore": "!a.py\n"},
        ["b.py", "x/a.py", "x/b.py"],
    ),
    "info/exclude": ({".git/info/exclude": "b.py\n"}, ["a.py", "x/a.py"]),
    "a .gitignore goes before info/exclude": (
        {".git/info/exclude": "b.py\n", "x/.gitignore": "!b.py\n"},
        ["a.py", "x/a.py", "x/b.py"],
    ),
    "comments and blanks": ({".gitignore": "# a.py\n\n"}, ["a.py", "b.py", "x/a.py", "x/b.py"]),
}


@pytest.mark.parametrize(("ignore", "left"), IGNORES.values(), ids=IGNORES)
def test_what_git_ignores_is_left(ignore: dict[str, str], left: list[str]) -> None:
    """As git reads its ignore files."""
    Path(".git").mkdir()
    write("a.py", "b.py", "x/a.py", "x/b.py")
    for name, text in ignore.items():
        write(name, text=text)
    assert shown() == left
    everything = ["a.py", "b.py", "x/a.py", "x/b.py"]
    assert shown(selection=FileSelection(respect_gitignore=False)) == everything


def test_ignore_files_above_count_up_to_the_repository(
    cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan that starts below the root of the repository hears its ignores; none above it."""
    Path(".git").mkdir()
    write("x/y/a.py", "x/y/b.py")
    write(".gitignore", text="a.py\n")
    write("../.gitignore", text="b.py\n")
    monkeypatch.chdir(cwd / "x" / "y")
    assert shown() == ["b.py"]


def test_without_a_repository_no_ignore_file_counts() -> None:
    """As in ruff."""
    write("a.py")
    write(".gitignore", text="a.py\n")
    assert shown() == ["a.py"]


def test_what_is_ignored_but_asked_for_is_read() -> None:
    """An explicit file or directory."""
    Path(".git").mkdir()
    write("x/a.py", "x/b.py")
    write(".gitignore", text="x/\n")
    assert shown(["x/a.py"]) == ["x/a.py"]
    assert shown(["x"]) == ["x/a.py", "x/b.py"]


def test_links_cannot_loop_or_lead_out(cwd: Path) -> None:
    """Directory links are not followed, file links only inside, dangling ones are nothing."""
    write("x/a.py", "../out/secret.py", "x/data.txt")
    Path("x/loop").symlink_to("..")
    Path("out").symlink_to(cwd.parent / "out")
    Path("secret.py").symlink_to(cwd.parent / "out" / "secret.py")
    Path("x/dangling.py").symlink_to("nowhere.py")
    Path("x/self.py").symlink_to("self.py")
    Path("also.py").symlink_to("x/a.py")
    Path("text.py").symlink_to("x/data.txt")
    assert shown() == ["text.py", "x/a.py"]


def test_special_files_are_not_opened() -> None:
    """A pipe in a tree is no source file; one that is asked for is said not to be."""
    os.mkfifo("pipe.py")
    assert shown() == []
    (found,) = discover(["pipe.py"], ALL)
    assert found.problem == "is not a regular file"


def test_a_directory_that_cannot_be_listed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record will be a DRP000; the rest is found."""
    write("a.py", "closed/b.py")
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = discover(["."], ALL)
    assert [(f.display, f.problem) for f in found] == [
        ("a.py", ""),
        ("closed", "cannot be listed: Permission denied"),
    ]
