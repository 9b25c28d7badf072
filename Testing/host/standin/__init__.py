"""A stand-in for the part of Slicer that is not in the slicer-core wheel: the Qt shell around MRML.

It offers `qt`, `ctk`, `slicer.app`, the qMRML and ctk widgets and the module classes that our panel uses, over
PySide6, as PythonQt offers them: properties are attributes, C++ objects take no new ones, and what was not
looked up in PythonQt is refused to our module. MRML, its transforms and writers, its displayable managers, its
layouts and `slicer.util` are the real ones; views are rendered offscreen by EGL or OSMesa. There are no 3D views,
charts do not take the mouse, and selectors offer no actions such as creating a node. Without OpenGL slices show
volumes only, and charts nothing.
For tests only, never packaged; written from the documented interfaces.
"""
