"""How numbers are multiplied: mixed precision where the device has it, and the fastest true float32 product.

On a CPU without matrix tiles, ``torch.set_float32_matmul_precision("medium")`` makes torch take oneDNN's product in
place of MKL's, which there is float32 all the same and often much faster. On CUDA, or a CPU with tiles, the same
setting drops mantissa bits. So speed and error of a representative product are measured, and the setting is taken
only where the error stays that of float32.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from mmkit.config.experiment import Precision, Product
from mmkit.errors import UserError

MAX_ERROR = 1e-5
"""Relative, of a product over 512 terms: float32 has about 1e-6, TF32 and bf16 from 1e-4 up."""

CLEARLY = 0.9
"""A backend is taken for its speed when it needs less than this share of the default's time."""

BF16_CPU = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16", "sve_bf16")


@dataclass(frozen=True, kw_only=True)
class ProductChoice:
    """A setting for ``torch.set_float32_matmul_precision``, and why."""

    name: str
    reason: str


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 by itself, not by emulation.

    What the processor has, oneDNN may be told to leave alone (``ONEDNN_MAX_CPU_ISA``): it then takes many times as
    long as in float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return any(name in has and has[name] for name in BF16_CPU) and _library_has_bf16(has["architecture"])
    return False


def _library_has_bf16(architecture: object) -> bool:
    return architecture != "x86_64" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def choose_precision(setting: Precision, device: torch.device) -> str:
    """The name that Accelerate takes, "no", "bf16" or "fp16"; UserError for what the device cannot do."""
    if setting == "auto":
        return "bf16" if has_bf16(device) else "no"
    if setting == "fp16" and device.type == "cpu":
        raise UserError('run.precision = "fp16" needs a GPU; on the CPU use "bf16", "no" or "auto"')
    if setting == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError('run.precision = "bf16": this GPU does not have it; use "fp16", "no" or "auto"')
    return setting


def choose_product(setting: Product, device: torch.device) -> ProductChoice:
    """The float32 product for this device; leaves torch's setting as it was."""
    if setting != "auto":
        return ProductChoice(name=setting, reason="as configured")
    if device.type != "cpu":
        return ProductChoice(name="highest", reason="true float32")
    before = torch.get_float32_matmul_precision()
    try:
        return _measure()
    finally:
        torch.set_float32_matmul_precision(before)


def _measure() -> ProductChoice:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 512, generator=generator)
    weight = torch.randn(512, 512, generator=generator)
    exact = x[:128].double() @ weight.double()
    seconds = {"highest": float("inf"), "medium": float("inf")}
    error = 0.0
    for _ in range(9):  # in turn, and the best of each, so that a busy machine harms both alike
        for name in seconds:
            torch.set_float32_matmul_precision(name)
            start = time.perf_counter()
            product = x @ weight
            seconds[name] = min(seconds[name], time.perf_counter() - start)
            if name == "medium":
                error = max(error, _relative_error(product[:128], exact))
    share = seconds["medium"] / seconds["highest"]
    measured = f"{1 / share:.2f} x the speed of the default, error {error:.0e}"
    if error > MAX_ERROR:
        return ProductChoice(name="highest", reason=f"the other backend is not float32 here (error {error:.0e})")
    if share < CLEARLY:
        return ProductChoice(name="medium", reason=f"oneDNN, true float32 here: {measured}")
    return ProductChoice(name="highest", reason=f"oneDNN is not clearly faster here: {measured}")


def _relative_error(product: Tensor, exact: Tensor) -> float:
    return float((product.double() - exact).norm() / exact.norm())
