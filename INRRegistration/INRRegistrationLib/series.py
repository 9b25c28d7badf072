"""The DICOM series that a volume came from, as Slicer's DICOM database knows it."""

from __future__ import annotations

from typing import Any

import slicer


def of_volume(node: Any) -> dict[str, Any] | None:
    """The files of a volume's series and its own instances among them, for the worker; None where they are not known.

    Two questions to the database, however many slices there are: each takes a millisecond or so.
    """
    instances = (node.GetAttribute("DICOM.instanceUIDs") or "").split() if node is not None else []
    database = getattr(slicer, "dicomDatabase", None)
    if not instances or database is None:
        return None
    first = database.fileForInstance(instances[0])
    files = list(database.filesForSeries(database.seriesForFile(first))) if first else []
    return {"files": files, "instances": instances} if files else None
