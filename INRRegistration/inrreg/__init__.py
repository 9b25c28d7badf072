"""Deformable image registration with implicit neural representations.

This package imports nothing by itself, so that `inrreg.protocol` can be read where torch,
numpy and SimpleITK are not installed (in Slicer, before the user first registers).
"""

__version__ = "0.1.0"
