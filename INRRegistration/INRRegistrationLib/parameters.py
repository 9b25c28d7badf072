"""The panel's parameters, kept in the scene: a typed view of one vtkMRMLScriptedModuleNode."""

from __future__ import annotations

import json
from typing import Any

import slicer

from inrreg.protocol import DEFAULT_PRESET

MODULE = "INRRegistration"


class Value:
    """A parameter held as JSON text under its own name; its default where absent or damaged."""

    def __init__(self, default: Any, kind: type | None = None) -> None:
        self.default, self.kind = default, kind or type(default)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, parameters: Parameters, owner: type | None = None) -> Any:
        try:
            value = json.loads(parameters.node.GetParameter(self.name))
        except ValueError:
            return self.default
        return value if type(value) is self.kind else self.default

    def __set__(self, parameters: Parameters, value: Any) -> None:
        parameters.node.SetParameter(self.name, json.dumps(value))


class Node:
    """A parameter that refers to a node of the scene, or to none."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, parameters: Parameters, owner: type | None = None) -> Any:
        return parameters.node.GetNodeReference(self.name)

    def __set__(self, parameters: Parameters, node: Any) -> None:
        parameters.node.SetNodeReferenceID(self.name, node.GetID() if node else None)


class Parameters:
    """What a registration from the panel needs. `segments` are the ids of the chosen ones, None for all."""

    fixed, moving = Node(), Node()
    fixed_mask, moving_mask = Node(), Node()
    fixed_mask_segments, moving_mask_segments = Value(None, list), Value(None, list)
    fixed_labels, moving_labels = Node(), Node()
    sliding, rigid, exclude = Node(), Node(), Node()
    sliding_segments, rigid_segments, exclude_segments = Value(None, list), Value(None, list), Value(None, list)
    fixed_landmarks, moving_landmarks = Node(), Node()
    guides = Value([])
    """Ids of the fixed control points whose pairs pull the next registration."""
    fixed_structures, moving_structures = Node(), Node()
    """What judges a result; where there is none, the labels do."""
    tolerances = Value({})
    """Tolerances that differ from the verdict's own, by name."""
    initial_transform = Node()
    output_transform, output_volume = Node(), Node()
    resample, preview = Value(True), Value(True)
    prealign = Value("none")
    preset = Value(DEFAULT_PRESET)
    overrides = Value({})
    """Settings that differ from the preset's, by preset and name."""
    device = Value("auto")
    threads, seed = Value(0), Value(0)
    time_budget = Value(0.0)
    prior = Value("")
    """A file, for the presets that take one."""
    series, series_landmarks = Node(), Node()
    series_reference, series_mask = Value(0), Value("")
    """The number of the item that the others are registered to, and how its mask is found, "" for none."""
    apply_grid = Node()
    """The volume onto whose grid other images are resampled."""

    def __init__(self, node: Any) -> None:
        self.node = node

    @classmethod
    def of_scene(cls) -> Parameters:
        """The scene's own parameters, made where there are none yet."""
        scene = slicer.mrmlScene
        node = scene.GetSingletonNode(MODULE, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = scene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            node.UnRegister(None)
            node.SetSingletonTag(MODULE)
            node.SetName(scene.GenerateUniqueName(MODULE))
            node = scene.AddNode(node)
        # Closing a scene keeps singletons but takes their attributes.
        node.SetAttribute("ModuleName", MODULE)
        return cls(node)
