"""What Slicer packages is what lies in the module's folder: no file forgotten, none listed that is gone."""

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "INRRegistration"


def listed(variable: str) -> list[str]:
    """The entries of one list in the module's CMakeLists.txt."""
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    (entries,) = re.findall(rf"^set\({variable}\b([^)]*)\)", text, flags=re.MULTILINE)
    return entries.split()


@pytest.fixture(scope="module")
def on_disk() -> list[str]:
    """The module's files that git tracks, or would on the next `git add`, relative to its folder."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "."]
    answer = subprocess.run(command, cwd=MODULE, capture_output=True, text=True, check=False)
    if answer.returncode:
        pytest.skip(f"not a git checkout: {answer.stderr.strip()}")
    names = sorted(set(answer.stdout.split("\0")) - {"", "CMakeLists.txt"})
    return [name for name in names if (MODULE / name).is_file()]


def test_scripts_are_the_python_files(on_disk):
    assert listed("MODULE_PYTHON_SCRIPTS") == [name for name in on_disk if name.endswith(".py")]


def test_resources_are_all_other_files(on_disk):
    assert listed("MODULE_PYTHON_RESOURCES") == [name for name in on_disk if not name.endswith(".py")]


def test_resources_lie_in_the_resources_folder():
    assert all(name.startswith("Resources/") for name in listed("MODULE_PYTHON_RESOURCES"))


def test_index_entry_and_build_name_the_same_extension():
    entry = json.loads((ROOT / "INRRegistration.json").read_text(encoding="utf-8"))
    build = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert "project(INRRegistration)" in build
    assert f'set(EXTENSION_HOMEPAGE "{entry["scm_url"]}")' in build
    assert f'set(EXTENSION_DEPENDS "{" ".join(entry["build_dependencies"])}")' in build
