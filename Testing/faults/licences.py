"""The licences of what the package needs, from the metadata of what is installed: a table for docs/licences.md.

python -m Testing.faults.licences > docs/licences.md
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement

DIRECT = ("torch", "numpy", "SimpleITK", "safetensors", "typer", "rich", "matplotlib", "jinja2", "pydicom")
"""What pyproject.toml names for users; torch's CUDA libraries, where a system brings them, are NVIDIA's."""


def licence(name: str) -> tuple[str, str]:
    """Version and licence of an installed package, as it says itself."""
    found = distribution(name)
    meta = found.metadata
    classifiers = [
        text.split("::")[-1].strip() for text in meta.get_all("Classifier", []) if text.startswith("License")
    ]
    said = meta.get("License-Expression") or ", ".join(classifiers) or (meta.get("License") or "").strip()
    return found.version, said.splitlines()[0][:80] if said else "not stated"


def needed(names: tuple[str, ...]) -> dict[str, set[str]]:
    """All packages that some need, themselves included, and what needs each; those of other systems left out."""
    found: dict[str, set[str]] = {name: set() for name in names}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, requirements):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                other = re.sub(r"[-_.]+", "-", requirement.name).lower()
                key = next((known for known in found if known.lower() == other), other)
                if key not in found:
                    found[key] = set()
                    waiting.append(key)
                found[key].add(name)
    return found


def main() -> None:
    print("# Licences of the dependencies\n")
    print("Made by `python -m Testing.faults.licences` from the packages' own metadata.\n")
    print("| package | version | licence | needed by |\n|---|---|---|---|")
    for name, users in sorted(needed(DIRECT).items(), key=lambda item: item[0].lower()):
        try:
            version, text = licence(name)
        except PackageNotFoundError:
            version, text = "-", "not installed here"
        by = ", ".join(sorted(users, key=str.lower)) if name not in DIRECT else "INRRegistration"
        print(f"| {name} | {version} | {text} | {by} |")


if __name__ == "__main__":
    main()
