"""A package, so that pytest does not put this folder on Python's path: `Testing/slicer` would become a part of Slicer's."""
