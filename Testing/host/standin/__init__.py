"""A stand-in for the part of Slicer that is not in the slicer-core wheel: the Qt shell around MRML.

It offers `qt`, `ctk`, `slicer.app`, the qMRML widgets and the module classes that our panel uses, over
PySide6, as PythonQt offers them: properties are attributes, C++ objects take no new ones, and what
PythonQt does not have is not there. MRML, its transforms and writers and `slicer.util` are the real ones.
For tests only, never packaged; written from the documented interfaces.
"""
