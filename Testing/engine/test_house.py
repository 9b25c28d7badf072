"""The rules of the house: which package may import what, and what may lie in the repository."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "INRRegistration"

SLICER_SIDE = [*sorted((MODULE / "INRRegistrationLib").rglob("*.py")), MODULE / "INRRegistration.py"]
ENGINE = sorted((MODULE / "inrreg").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The top-level names of all packages that a file imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def relative(path: Path) -> str:
    return str(path.relative_to(MODULE))


@pytest.mark.parametrize("path", ENGINE, ids=relative)
def test_engine_never_imports_slicer(path):
    assert not imported(path) & {"qt", "ctk", "vtk", "vtkmodules", "slicer", "mrml", "PySide6", "INRRegistrationLib"}


@pytest.mark.parametrize("path", SLICER_SIDE, ids=relative)
def test_slicer_side_never_imports_torch(path):
    if not path.exists():
        pytest.skip(f"{path.name} is not written yet")
    assert not imported(path) & {"torch", "torchvision"}


BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "numpy", "SimpleITK", "safetensors", "typer", "rich"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Block())
from inrreg import protocol
print(*protocol.presets())
"""


def test_presets_are_listed_with_nothing_installed():
    command = [sys.executable, "-c", BLOCKED]
    answer = subprocess.run(command, cwd=MODULE, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    from inrreg import protocol

    assert answer.stdout.split() == list(protocol.presets())
    assert protocol.DEFAULT_PRESET in protocol.presets()


def test_importing_the_package_imports_nothing_else():
    code = "import sys; before = set(sys.modules); import inrreg; print(*sorted(set(sys.modules) - before))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=MODULE, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["inrreg"]


def test_only_the_module_file_lies_at_module_level():
    assert {path.name for path in MODULE.glob("*.py")} <= {"INRRegistration.py"}


def test_no_large_file_is_tracked():
    answer = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode:
        pytest.skip(f"not a git checkout: {answer.stderr.strip()}")
    paths = [ROOT / name for name in answer.stdout.split("\0") if name]
    assert [str(path) for path in paths if path.is_file() and path.stat().st_size > 2**20] == []


def test_lint_is_part_of_make_test():
    answer = subprocess.run(["make", "--dry-run", "test"], cwd=ROOT, capture_output=True, text=True, check=True)
    for command in ("ruff check", "ruff format --check", "pytest"):
        assert command in answer.stdout
