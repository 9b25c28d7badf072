"""Products with the weights of a hidden layer: most of a network's arithmetic, and the part that bears rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def hidden_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x` (..., n) times the transpose of `weight` (m, n), plus `bias` (m,).

    While a network is optimized on a CUDA GPU its tensor cores multiply here in TF32, operands rounded to 11 bits,
    gradients too, which leaves registrations as accurate as they are (`benchmarks.cheap`). What comes of it is
    evaluated exactly, and so is all that holds positions: at 11 bits a voxel's number in a large image is none.
    """
    if x.is_cuda and weight.requires_grad and torch.is_grad_enabled():
        product = TensorCoreProduct.apply(x, weight)
        return product if bias is None else product + bias
    return F.linear(x, weight, bias)


class TensorCoreProduct(torch.autograd.Function):
    """x (..., n) times the transpose of weight (m, n) in TF32, and so its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        with tensor_cores():
            return x @ weight.T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return TensorCoreProduct.apply(grad, weight.T), TensorCoreProduct.apply(
            grad.flatten(0, -2).T, x.flatten(0, -2).T
        )


@contextmanager
def tensor_cores() -> Iterator[None]:
    """Let CUDA's float32 matrix products use TF32; afterwards as before."""
    products = torch.backends.cuda.matmul
    # since torch 2.9 the first name, before it the second; either refuses to be mixed with the other
    name, coarse = ("fp32_precision", "tf32") if hasattr(products, "fp32_precision") else ("allow_tf32", True)
    before = getattr(products, name)
    setattr(products, name, coarse)
    try:
        yield
    finally:
        setattr(products, name, before)
