"""The Slicer side of the extension: panel, scene and worker process. Never imports torch."""
