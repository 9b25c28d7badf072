"""The slider over alpha, in the panel over the real MRML: how soon the slices answer, and how right they are.

    python -m benchmarks.slider [--set KEY=VALUE ...] [--threads 2] [--positions 200] [--output DIR]

Registers a 256 x 256 x 120 pair (the built-in phantom, resampled) with `cidir-light` and live previews, in the stand-in
for Slicer's shell with the real worker. Then it drags the slider over `--positions` alphas. `ours` is from the slider's
signal to the modified grid, `slices` until the three slice images are recomputed by MRML's slice logics, in ms by the
clock and, as `alone`, less the time that this thread waited for a processor that other programs had (Linux). `rest` is
from the last change to the exact field in the scene, in s, 250 ms of rest included, and `worker` the processor time
that the worker took for it (Linux); `error` is the 99th percentile over the mask, in mm, of the distance between
interpolated and exact field. `first` is from
a click on Register, with `fast`, to the first deformation of the moving volume, in s, the volumes written and read,
with a worker that has registered before. `stop` is the longest stop of the event loop in processor time of its thread,
with no volume in the views: drawing and reslicing are Slicer's own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from inrreg import protocol

ROOT = Path(__file__).resolve().parents[1]
SIZE, SPACING = (256, 256, 120), (1.35, 1.15, 2.4)
SCHEDULE = Path("/proc/thread-self/schedstat")
CHECKED = (0.03, 0.22, 0.38, 0.57, 0.73, 0.97)
"""Alphas at which the interpolated field is held against the exact one."""
POINTS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--set", nargs="*", default=["steps=40, 40, 30"], help="settings of cidir-light")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--positions", type=int, default=200)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    sys.path[:0] = [str(ROOT / "Testing" / "module"), str(ROOT / "Testing" / "host")]
    import conftest
    from conftest import User, application

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        mask = write_pair(folder)
        slicer = application.start(folder / "Slicer")
        user = User(slicer)
        conftest.SCREENSHOTS = arguments.output or folder
        nodes = [application.load_volume(folder / f"{name}.nrrd") for name in ("fixed", "moving")]
        for node in nodes:
            node.GetDisplayNode().SetAutoWindowLevel(False)
            node.GetDisplayNode().SetWindowLevel(1500, -250)
        user.window.show_volumes(*nodes)
        results = register(user, nodes, arguments)
        results |= drag(user, slicer, nodes, arguments.positions)
        results |= compare(user, slicer, mask)
        user.screenshot("slider")
        results["first_s"] = first_deformation(user, nodes)
        user.leave()
    print(json.dumps(results, indent=2))
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "slider.json").write_text(json.dumps(results, indent=2) + "\n")


def write_pair(folder: Path) -> np.ndarray:
    """The phantom at `SIZE`; points of its fixed mask, (N, 3) RAS."""
    from inrreg.phantom import thorax

    made = thorax((86, 72, 72), (4.0, 4.0, 4.0), seed=0, amplitude=25.0)
    for name, kind in (
        ("fixed", sitk.sitkLinear),
        ("moving", sitk.sitkLinear),
        ("fixed_mask", sitk.sitkNearestNeighbor),
    ):
        image = getattr(made, name)
        resampler = sitk.ResampleImageFilter()
        resampler.SetSize(SIZE)
        resampler.SetOutputSpacing(SPACING)
        resampler.SetOutputOrigin(image.GetOrigin())
        resampler.SetOutputDirection(image.GetDirection())
        resampler.SetInterpolator(kind)
        resampler.SetDefaultPixelValue(-1000 if "mask" not in name else 0)
        image = resampler.Execute(image)
        sitk.WriteImage(image, str(folder / f"{name}.nrrd"))
    inside = np.argwhere(sitk.GetArrayViewFromImage(image) > 0)[:, ::-1]
    inside = inside[np.random.default_rng(0).permutation(len(inside))[:POINTS]]
    return (np.array(image.GetOrigin()) + inside * SPACING) * [-1, -1, 1]


def register(user, nodes, arguments) -> dict:
    """Register with previews; the longest stop of the event loop, ms, and what the previews cost."""
    user.choose(*nodes, "cidir-light", **protocol.assignments(arguments.set))
    user.ui.threadsSpinBox.setValue(arguments.threads)
    # Drawing and reslicing are Slicer's own; what is measured is ours.
    user.window.show_volumes(None)
    user.gaps.start()
    start = time.perf_counter()
    user.register(timeout=3600)
    seconds = time.perf_counter() - start
    tuner = user.panel.sections[0].tuner
    user.wait(lambda: tuner.fields is not None, 60)
    worst = user.gaps.stop()
    user.window.show_volumes(*nodes)
    log = [line for line in user.ui.logText.plainText.splitlines() if "previews" in line]
    shape = tuner.fields.vectors.shape
    return {
        "registration_s": seconds,
        "stop_ms": worst,
        "stop_wall_ms": user.gaps.wall,
        "previews": log,
        "fields": shape,
    }


def drag(user, slicer, nodes, count: int) -> dict:
    """There and back again over all alphas."""
    slider, tuner = user.panel.sections[0].ui.alphaSlider, user.panel.sections[0].tuner
    layout = slicer.app.layoutManager()
    logics = [layout.sliceWidget(name).sliceLogic() for name in layout.sliceViewNames()]
    low, high = slider.minimum, slider.maximum
    places = low + (high - low) * (0.5 - 0.5 * np.cos(np.linspace(0.03, 2 * np.pi - 0.03, count)))
    rows = []
    for place in np.round(places).astype(int):
        if place == slider.value:
            place += 1
        begin = clocks()
        slider.setValue(int(place))
        ours = clocks()
        for logic in logics:
            logic.GetImageDataConnection().GetProducer().Update()
        rows.append(np.concatenate([ours - begin, clocks() - begin]))
        slicer.app.processEvents()
    user.wait(lambda: tuner.exact, 120)
    seconds, worked = [], []
    for place in (300, 700, 500):
        before = processor_time(user.process.process_id)
        slider.setValue(place)
        rest = time.perf_counter()
        user.wait(lambda: tuner.exact, 120)
        seconds.append(round(time.perf_counter() - rest, 3))
        worked.append(round(processor_time(user.process.process_id) - before, 3))
    user.window.show_volumes(None)
    user.gaps.start()
    for place in range(low, high, max(1, (high - low) // 50)):
        slider.setValue(place)
        slicer.app.processEvents()
    user.wait(lambda: tuner.exact, 120)
    found = {"rest_s": seconds, "worker_s": worked}
    found |= {"drag_stop_ms": user.gaps.stop(), "drag_stop_wall_ms": user.gaps.wall}
    user.window.show_volumes(*nodes)
    names = ("ours", "ours_alone", "slices", "slices_alone")
    for name, column in zip(names, 1000 * np.array(rows).T, strict=True):
        found[name] = {f"p{q}": round(float(np.percentile(column, q)), 2) for q in (50, 95, 100)}
    return found


def processor_time(process: int) -> float:
    """What a process has had so far, s; NaN where the system does not tell (Linux does)."""
    file = Path(f"/proc/{process}/stat")
    if not file.exists():
        return float("nan")
    fields = file.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def clocks() -> np.ndarray:
    """The time, and the same less what this thread has waited for a processor, s."""
    now = time.perf_counter()
    waited = int(SCHEDULE.read_text().split()[1]) / 1e9 if SCHEDULE.exists() else 0.0
    return np.array([now, now - waited])


def compare(user, slicer, points: np.ndarray) -> dict:
    """Interpolated against exact fields, mm."""
    slider, tuner = user.panel.sections[0].ui.alphaSlider, user.panel.sections[0].tuner
    errors = []
    for alpha in CHECKED:
        slider.setValue(round(1000 * alpha))
        coarse = mapped(tuner.transform, points)
        user.wait(lambda: tuner.exact, 120)
        errors.append(np.linalg.norm(coarse - mapped(tuner.transform, points), axis=1))
    return {"error_mm": {"p99": [round(float(np.quantile(each, 0.99)), 3) for each in errors]}}


def first_deformation(user, nodes, times: int = 3) -> list[float]:
    """From a click to the first transform over the moving volume, s; each registration is then cancelled."""
    user.choose(*nodes, "fast")
    found = []
    for _ in range(times):
        user.ui.transformSelector.setCurrentNode(None)
        nodes[1].SetAndObserveTransformNodeID(None)
        start = time.perf_counter()
        user.click()
        user.wait(lambda: nodes[1].GetTransformNodeID() is not None, 120)
        found.append(round(time.perf_counter() - start, 3))
        user.click()
        user.wait_for_end()
    return found


def mapped(node, points: np.ndarray) -> np.ndarray:
    transform = node.GetTransformFromParent()
    return np.array([transform.TransformPoint(point) for point in points])


if __name__ == "__main__":
    main()
