"""What cards hold and how fast they multiply, by their makers' datasheets.

Memory is what the driver reports of the card, in GiB. ``tflops`` are dense products of bfloat16 (float16 where a card
has no bfloat16) with sums in float32; datasheets print twice as much where they count on zeros ("with sparsity").
Left out: cards that nobody asked for. One that is not in the table has no share of its peak.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from mmkit.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Device:
    """A kind of card. names: as PyTorch tells them. half: in what ``tflops`` are."""

    name: str
    names: tuple[str, ...]
    memory_gib: float
    tflops: float
    half: str = "bf16"


DEVICES = (
    # NVIDIA HGX B200 datasheet: 36 PFLOP/s of bf16 on 8 cards with sparsity, 2,250 dense on one; 180 GB
    Device(name="b200", names=("NVIDIA B200",), memory_gib=179.0, tflops=2250),
    # NVIDIA H200 datasheet: 1,979 with sparsity; 141 GB
    Device(name="h200", names=("NVIDIA H200",), memory_gib=140.4, tflops=989.5),
    # NVIDIA H100 datasheet, SXM: 1,979 with sparsity, 80 GB; PCIe: 1,513 with sparsity, 80 GB
    Device(name="h100", names=("NVIDIA H100 80GB HBM3",), memory_gib=79.6, tflops=989.5),
    Device(name="h100-pcie", names=("NVIDIA H100 PCIe",), memory_gib=79.6, tflops=756.5),
    # NVIDIA A100 datasheet: 312 dense, for both forms
    Device(name="a100-80", names=("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"), memory_gib=80.0, tflops=312),
    Device(name="a100-40", names=("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"), memory_gib=39.6, tflops=312),
    # NVIDIA L40S datasheet: 362 dense, 48 GB; L4: 242 with sparsity, 24 GB
    Device(name="l40s", names=("NVIDIA L40S",), memory_gib=45.0, tflops=362),
    Device(name="l4", names=("NVIDIA L4",), memory_gib=22.5, tflops=121),
    # NVIDIA RTX A6000 datasheet (Ampere GA102 whitepaper): 154.8 dense, 48 GB
    Device(name="a6000", names=("NVIDIA RTX A6000",), memory_gib=48.0, tflops=154.8),
    # NVIDIA A10 datasheet: 125 dense; A10G, of AWS: 70 dense; 24 GB
    Device(name="a10", names=("NVIDIA A10",), memory_gib=22.5, tflops=125),
    Device(name="a10g", names=("NVIDIA A10G",), memory_gib=22.5, tflops=70),
    # NVIDIA Ada GPU architecture whitepaper: 165.2 dense with float32 sums; Ampere GA102 whitepaper: 71
    Device(name="rtx4090", names=("NVIDIA GeForce RTX 4090",), memory_gib=24.0, tflops=165.2),
    Device(name="rtx3090", names=("NVIDIA GeForce RTX 3090",), memory_gib=24.0, tflops=71),
    # NVIDIA V100 datasheet: 125 of float16; no bfloat16
    Device(name="v100", names=("Tesla V100-SXM2-16GB",), memory_gib=16.0, tflops=125, half="fp16"),
    Device(name="v100-32", names=("Tesla V100-SXM2-32GB",), memory_gib=32.0, tflops=125, half="fp16"),
    # NVIDIA T4 datasheet: 65 of float16
    Device(name="t4", names=("Tesla T4",), memory_gib=15.0, tflops=65, half="fp16"),
)  # fmt: skip


def find(name: str) -> Device:
    """The kind of card that a user names; UserError for one that is not in the table."""
    known = {device.name: device for device in DEVICES}
    if (found := known.get(name.lower().replace("_", "-"))) is None:
        near = difflib.get_close_matches(name.lower(), known, n=1)
        raise UserError(
            f"--device {name}: not in the table{f'; did you mean {near[0]}?' if near else '.'} It has "
            f"{', '.join(known)}, and cpu; of another card give --memory GiB and --tflops"
        )
    return found


def peak_of(name: str, precision: str) -> float | None:
    """Operations a second of the card that PyTorch calls ``name``, in "bf16" or "fp16"; None for all that is unknown.

    float32 ("no") has none: its products may run on several kinds of units.
    """
    found = next((device for device in DEVICES if name in device.names), None)
    if found is None or precision not in ("bf16", "fp16") or (found.half == "fp16" and precision == "bf16"):
        return None
    return found.tflops * 1e12
