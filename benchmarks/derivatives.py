"""Cost of a field's derivatives: propagated forward in closed form, against nested autograd, in one run.

    python -m benchmarks.derivatives [--points 10000] [--threads 2] [--output derivatives.json]

Each figure is one optimizer step's forward and backward pass: the median of several, interleaved.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from inrreg.fields import Dual, Field, Siren
from inrreg.protocol import write_json


def nested(field: Field, x: Tensor, second: str) -> Tensor:
    """Sum of squares of the derivatives by autograd of autograd."""
    x = x.clone().requires_grad_(True)
    value, total = field.value(x), 0.0
    for i in range(3):
        (first,) = torch.autograd.grad(value[:, i].sum(), x, create_graph=True)
        if second == "jacobian":
            total = total + first.square().sum()
            continue
        rows = [torch.autograd.grad(first[:, j].sum(), x, create_graph=True)[0] for j in range(3)]
        hessian = torch.stack(rows, 1)
        parts = hessian.diagonal(dim1=1, dim2=2).sum(-1) if second == "laplacian" else hessian
        total = total + parts.square().sum()
    return total


def propagated(field: Field, x: Tensor, second: str) -> Tensor:
    """The same from the field's own jet."""
    jet = field.jet(x, 1 if second == "jacobian" else 2, trace=second == "laplacian")
    return getattr(jet, second).square().sum()


def step_time(build: Callable[[], Tensor]) -> float:
    """Seconds of one forward and backward pass."""
    start = time.perf_counter()
    build().backward()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    fields = {"siren 256 x 3": Siren(generator=generator), "dual 2 x 256 x 2": Dual(generator=generator)}
    fields["dual 2 x 256 x 2"].activate_fine(0.05)
    x = torch.rand(options.points, 3, generator=generator) * 2 - 1
    rows = []
    for name, field in fields.items():
        plain = statistics.median(step_time(lambda f=field: f.value(x).square().sum()) for _ in range(options.repeats))
        for second in ("jacobian", "laplacian", "hessian"):
            times: dict[str, list[float]] = {"propagated": [], "nested": []}
            for _ in range(options.repeats):
                times["propagated"].append(step_time(lambda f=field, s=second: propagated(f, x, s)))
                times["nested"].append(step_time(lambda f=field, s=second: nested(f, x, s)))
            medians = {key: statistics.median(values) for key, values in times.items()}
            rows.append({"field": name, "derivative": second, "value": plain, **medians})
    print(f"{options.points} points, {options.threads} threads; seconds a step (forward and backward)")
    print(f"{'field':18}{'derivative':12}{'value only':>12}{'propagated':>12}{'nested':>10}{'ratio':>8}")
    for row in rows:
        ratio = row["propagated"] / row["nested"]
        print(
            f"{row['field']:18}{row['derivative']:12}{row['value']:12.3f}{row['propagated']:12.3f}"
            f"{row['nested']:10.3f}{ratio:8.2f}"
        )
    if options.output:
        write_json(options.output, {"points": options.points, "threads": options.threads, "rows": rows})


if __name__ == "__main__":
    main()
