"""Alphas that are kept: each a transform of its own, with what is known of it."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from inrreg.protocol import UserError

from . import embedded, hierarchy, results
from .results import ALPHA, RESULT
from .tuner import METRICS, Tuner

OF = "INRRegistration.PinOf"
"""Role of a pin's reference to the transform that it was pinned from."""
KEPT = (hierarchy.OUTPUT, RESULT, "INRRegistration.Preset", "INRRegistration.Version", ALPHA, METRICS)
"""Attributes that a pin takes over."""


def pin(tuner: Tuner) -> Any:
    """Keep what the tuner shows as a new transform node. Raises `UserError` where there is nothing exact to keep."""
    transform = tuner.transform
    if transform is None or not tuner.settled:
        raise UserError("alpha", "The field at this alpha is not computed yet.", "Wait a moment.")
    name = _("{transform}, alpha {alpha:.2f}").format(transform=transform.GetName(), alpha=tuner.alpha)
    scene = slicer.mrmlScene
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", scene.GenerateUniqueName(name))
    with slicer.util.NodeModify(node):
        for attribute in KEPT:
            node.SetAttribute(attribute, transform.GetAttribute(attribute))
        for role in (hierarchy.FIXED, hierarchy.MOVING):
            node.SetNodeReferenceID(role, transform.GetNodeReferenceID(role))
        node.SetNodeReferenceID(OF, transform.GetID())
        embedded.share(transform, node)
        node.SetAndObserveTransformNodeID(transform.GetTransformNodeID())
        shown = transform.GetTransformFromParent()
        node.SetAndObserveTransformFromParent(results.sharing(shown) if tuner.exact else results.copied(shown))
    return node


def of(transform: Any) -> list[Any]:
    """The pins of a transform, the oldest first."""
    if transform is None:
        return []
    nodes = slicer.util.getNodesByClass("vtkMRMLGridTransformNode")
    return [node for node in nodes if node.GetNodeReferenceID(OF) == transform.GetID()]
