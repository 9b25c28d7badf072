"""A package, so that pytest does not put this folder on Python's path: there `slicer` would be taken for Slicer's."""
