"""Settings in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from dropaudit.config import ConfigError, keys, load, load_file


def pyproject(directory: Path, text: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "pyproject.toml"
    file.write_text(text, "utf-8")
    return file


def test_every_key_is_read(tmp_path: Path) -> None:
    """Arrays are tuples, tables are pairs; paths start at the file."""
    pyproject(
        tmp_path,
        """
        [tool.dropaudit]
        select = ["DRP2"]
        exclude = ["a"]
        unsafe-fixes = true
        output-format = "concise"
        always-on = ["*Prenet"]
        [tool.dropaudit.per-file-ignores]
        "tests/**" = ["DRP201"]
        """,
    )
    config = load([str(tmp_path)], tmp_path)
    assert config.root == tmp_path
    assert config.select == ("DRP2",)
    assert config.exclude == ("a",)
    assert config.unsafe_fixes is True
    assert config.always_on == ("*Prenet",)
    assert config.per_file_ignores == (("tests/**", ("DRP201",)),)


def test_the_nearest_file_that_has_settings_counts(tmp_path: Path) -> None:
    """A pyproject.toml without a section for dropaudit is passed over."""
    pyproject(tmp_path, "[tool.dropaudit]\nselect = ['DRP1']\n")
    pyproject(tmp_path / "a", "[tool.dropaudit]\nselect = ['DRP2']\n")
    pyproject(tmp_path / "a" / "b", "[project]\nname = 'dropaudit-user'\n")
    assert load(["a/b"], tmp_path).select == ("DRP2",)
    assert load(["a", "."], tmp_path).select == ("DRP1",)
    (tmp_path / "a" / "b" / "dropaudit.toml").write_text("select = ['DRP3']\n")
    assert load(["a/b/net.py"], tmp_path).select == ("DRP3",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.dropaudit]\nselct = []", r"unknown key `selct`, did you mean `select`\?"),
        ("[tool.dropaudit]\nzzz = 1", "Valid keys: always-on, baseline, "),
        ("[tool.dropaudit]\nselect = 'DRP2'", "`select` must be an array of strings, not a string"),
        ("[tool.dropaudit]\nselect = [2]", "array of strings, not an array that holds a number"),
        ("[tool.dropaudit]\npreview = 'yes'", "`preview` must be true or false, not a string"),
        ("[tool.dropaudit]\ncache-dir = 1", "`cache-dir` must be a string, not a number"),
        ("[tool.dropaudit]\nper-file-ignores = {a = 1}", "must be a table of patterns"),
        ("[tool]\ndropaudit = 3", "`tool.dropaudit` must be a table, not a number"),
        ("[tool.dropaudit\n", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    """With the file and the key."""
    file = pyproject(tmp_path, text + "\n")
    with pytest.raises(ConfigError, match=said) as caught:
        load([], tmp_path)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_named_must_exist(tmp_path: Path) -> None:
    """`--config` of nothing is a mistake."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load_file(tmp_path / "none.toml")


def test_keys_are_written_with_hyphens() -> None:
    """As ruff's are."""
    assert all("_" not in key for key in keys())
