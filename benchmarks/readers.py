"""What other programs make of an exported result: each file, read by each of them, against the model.

    python -m benchmarks.readers [--output readers.json]

A phantom is registered and exported in every format, forward and inverse. 100 random points of the fixed image then go
through SimpleITK, transformix (itk-elastix), ANTs (antspyx) and MRML (slicer-core), as far as each reads the format;
the largest distance from the model stands beside the error that the export stated. Inverses take the mapped points
back. What is not installed is left out, by name.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from inrreg.deformation import Deformation, load_transform
from inrreg.export import export, points_in
from inrreg.phantom import thorax
from inrreg.protocol import Job, write_json
from inrreg.registration import register

MRML = """
import sys, numpy as np, slicer
scene = slicer.vtkMRMLScene()
node, storage = slicer.vtkMRMLTransformNode(), slicer.vtkMRMLTransformStorageNode()
scene.AddNode(node), scene.AddNode(storage)
storage.SetFileName(sys.argv[1])
assert storage.ReadData(node) == 1
there, flip = node.GetTransformFromParent(), np.array([-1.0, -1.0, 1.0])
np.save(sys.argv[2], [flip * there.TransformPoint(point) for point in flip * np.load(sys.argv[2])])
"""


def by_itk(path: Path, points: np.ndarray, folder: Path) -> np.ndarray:
    if path.suffix in (".h5", ".tfm"):
        transform = sitk.ReadTransform(str(path))
    else:
        transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    return np.array([transform.TransformPoint(point) for point in points.tolist()])


def by_transformix(path: Path, points: np.ndarray, folder: Path) -> np.ndarray:
    import itk

    text = "\n".join(" ".join(map(repr, point)) for point in points.tolist())
    (folder / "points.txt").write_text(f"point\n{len(points)}\n{text}\n")
    image = itk.image_from_array(np.zeros((4, 4, 4), np.float32))
    parameters = itk.ParameterObject.New()
    parameters.AddParameterMap(
        {
            "Transform": ["DeformationFieldTransform"],
            "DeformationFieldFileName": [str(path)],
            "DeformationFieldInterpolationOrder": ["1"],
            "NumberOfParameters": ["0"],
            "InitialTransformParameterFileName": ["NoInitialTransform"],
            "HowToCombineTransforms": ["Compose"],
            "FixedImageDimension": ["3"],
            "MovingImageDimension": ["3"],
            "FixedInternalImagePixelType": ["float"],
            "MovingInternalImagePixelType": ["float"],
            "Size": ["4", "4", "4"],
            "Index": ["0", "0", "0"],
            "Spacing": ["1", "1", "1"],
            "Origin": ["0", "0", "0"],
            "Direction": ["1", "0", "0", "0", "1", "0", "0", "0", "1"],
            "UseDirectionCosines": ["true"],
        }
    )
    itk.transformix_filter(
        image,
        parameters,
        fixed_point_set_file_name=str(folder / "points.txt"),
        output_directory=str(folder),
        log_to_console=False,
    )
    lines = (folder / "outputpoints.txt").read_text().splitlines()
    return np.array([line.split("OutputPoint = [")[1].split("]")[0].split() for line in lines], float)


def by_ants(path: Path, points: np.ndarray, folder: Path) -> np.ndarray:
    import ants
    import pandas

    frame = pandas.DataFrame(points, columns=list("xyz"))
    return ants.apply_transforms_to_points(3, frame, [str(path)])[list("xyz")].to_numpy()


def by_mrml(path: Path, points: np.ndarray, folder: Path) -> np.ndarray:
    np.save(folder / "points.npy", points)
    subprocess.run([sys.executable, "-c", MRML, str(path), str(folder / "points.npy")], check=True, capture_output=True)
    return np.load(folder / "points.npy")


def by_us(path: Path, points: np.ndarray, folder: Path) -> np.ndarray:
    return load_transform(path).map(points)


READERS: dict[str, tuple[str, tuple[str, ...], Callable[[Path, np.ndarray, Path], np.ndarray]]] = {
    "inrreg": ("torch", (".h5", ".tfm", ".nrrd", ".nii.gz"), by_us),
    "SimpleITK": ("SimpleITK", (".h5", ".tfm", ".nrrd", ".nii.gz"), by_itk),
    "transformix": ("itk", (".nrrd", ".nii.gz"), by_transformix),
    "ANTs": ("ants", (".h5", ".tfm", ".nii.gz"), by_ants),
    "MRML": ("slicer", (".h5", ".tfm", ".nrrd", ".nii.gz"), by_mrml),
}
"""The package that each needs, and the formats that it reads."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows = measured(Path(temporary))
    readers = [name for name, (package, _, _) in READERS.items() if importlib.util.find_spec(package)]
    print(f"{'file':16}{'stated':>9}" + "".join(f"{name:>13}" for name in readers) + "   (mm)")
    for row in rows:
        figures = "".join(f"{row[name]:13.3f}" if name in row else f"{'-':>13}" for name in readers)
        print(f"{row['file']:16}{row['stated']:9.3f}{figures}")
        if "in_mask" in row:
            print(f"{'':16}in the mask: 99 % {row['in_mask']['p99']:.3f}, largest {row['in_mask']['max']:.3f}")
    print("not installed:", ", ".join(sorted(set(READERS) - set(readers))) or "none")
    if arguments.output:
        write_json(arguments.output, rows)


def measured(folder: Path) -> list[dict]:
    """One row a file: what was stated of it, and how far each reader is from the model."""
    phantom = thorax((60, 50, 60), (4.8, 4.8, 4.8), seed=2, amplitude=20.0)
    names = ("fixed", "moving", "fixed_mask")
    files = {name: str(folder / f"{name}.nrrd") for name in names}
    for name, path in files.items():
        sitk.WriteImage(getattr(phantom, name), path)
    register(Job(**files, prealign="affine"), folder / "result")
    model = Deformation.load(folder / "result")
    random = np.random.default_rng(0).random((100, 3))
    points = model.grid.to_world(random * (np.array(model.grid.size) - 1))
    moved, rows = model.map(points), []
    for inverse in (False, True):
        for ending in (".h5", ".tfm", ".nrrd", ".nii.gz"):
            path = folder / f"{'inverse' if inverse else 'forward'}{ending}"
            mask = points_in(files["fixed_mask"]) if inverse else None
            figures = export(model, path, inverse=inverse, mask=mask)
            stated = figures["return_error"]["max"] if inverse else figures["interpolation_error"]
            row = {"file": path.name, "stated": stated, "spacing": figures["spacing"]}
            row |= {"in_mask": figures["in_mask"]} if inverse else {}
            start, end = (moved, points) if inverse else (points, moved)
            for name, (package, endings, read) in READERS.items():
                if ending in endings and importlib.util.find_spec(package):
                    found = read(path, start, folder)
                    row[name] = float(np.linalg.norm(found - end, axis=1).max())
            rows.append(row)
    return rows


if __name__ == "__main__":
    main()
