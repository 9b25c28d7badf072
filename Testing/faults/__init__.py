"""Faults, bad input and hostile files: what is in `docs/faults.md`, held."""

import sys
from pathlib import Path

# The Slicer side is not installed as a package.
sys.path.append(str(Path(__file__).resolve().parents[2] / "INRRegistration"))
