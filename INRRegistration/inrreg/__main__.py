"""`python -m inrreg`: the command, also of a Python whose scripts are on no path, such as Slicer's."""

from inrreg.cli import main

main()
