"""How long one ALBEF pre-training step takes, part by part: seconds, samples per second, peak memory.

    python benchmarks/train_step.py --setting cpu-small
    python benchmarks/train_step.py --setting paper --device cuda --precision bf16 --compile

Variants run in turns within one process, so that a noisy machine disturbs all of them alike; ratios are to the first
variant, over the medians of paired steps. Weights and data are random: speed does not depend on what they mean.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.models.sizes.albef import albef
from mmkit.task import Task
from mmkit.types import Batch, MaskedText


@dataclass(frozen=True)
class Setting:
    """One workload."""

    model: dict[str, int]
    image_size: int
    batch: int
    queue: int
    tokens: int = 25
    fewest: int = 10
    vocab: int = 30_522


SMALL = {"image_width": 384, "image_heads": 6, "text_width": 384, "text_heads": 6, "embed_dim": 256}
SETTINGS = {
    "cpu-small": Setting(model=SMALL, image_size=128, batch=16, queue=4096),
    "paper": Setting(model={}, image_size=256, batch=64, queue=65_536),
}


def random_batch(s: Setting, seed: int = 0) -> Batch:
    """Texts of ``fewest`` to ``tokens`` words, 15 % of them hidden."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(s.fewest, s.tokens + 1, (s.batch,), generator=g)
    length = int(lengths.max())
    mask = torch.arange(length) < lengths[:, None]
    ids = torch.randint(1000, s.vocab, (s.batch, length), generator=g).where(mask, 0)
    hidden = (torch.rand(s.batch, length, generator=g) < 0.15) & mask
    hidden[:, 0] = False
    most = int(hidden.sum(1).max())
    positions = hidden.int().sort(dim=1, descending=True, stable=True).indices[:, :most]
    real = torch.arange(most) < hidden.sum(1, keepdim=True)
    masked = MaskedText(
        ids=ids.masked_fill(hidden, 103), positions=positions.where(real, 0),
        index=real.flatten().nonzero().flatten(), labels=ids.gather(1, positions)[real],
    )  # fmt: skip
    pairs = torch.arange(s.batch) + s.batch * seed
    return Batch(
        pixels=torch.randn(s.batch, 3, s.image_size, s.image_size, generator=g), ids=ids, mask=mask,
        image_id=pairs, caption_id=pairs, masked=masked,
    )  # fmt: skip


class Clock:
    """Seconds by name since the last ``reset``; on a GPU after waiting for the device."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.parts: dict[str, float] = {}

    def now(self) -> float:
        """Seconds, with all work done."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def time(self, name: str, what: Callable[[], object]) -> None:
        """Runs something and adds its seconds to a part."""
        start = self.now()
        what()
        self.parts[name] = self.parts.get(name, 0.0) + self.now() - start

    def watch(self, name: str, module: nn.Module) -> None:
        """Adds the seconds of each forward pass of a module to a part."""
        started: list[float] = []
        module.register_forward_pre_hook(lambda *_: started.append(self.now()))

        def stop(*_: object) -> None:
            self.parts[name] = self.parts.get(name, 0.0) + self.now() - started.pop()

        module.register_forward_hook(stop)


class Step:
    """A task with its optimizer, in one precision and matrix product backend."""

    def __init__(self, s: Setting, device: str, precision: str, compiled: bool) -> None:
        torch.manual_seed(0)
        model = albef(s.vocab, image_size=s.image_size, max_tokens=512, **s.model)
        heads = {"itc": ITC(model.spec, s.queue), "itm": ITM(model.spec), "mlm": MLM(model.spec)}
        self.task = Task(model, heads, alpha=0.4).to(device).train()
        self.clock = Clock(device)
        for who, tower in (("student", self.task.model), ("teacher", self.task.ema["model"])):
            for part in ("image", "text", "fusion"):
                self.clock.watch(f"  {who} {part}", getattr(tower, part))
        if compiled:
            self.task.compile_blocks()
        trained = [p for p in self.task.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, 1e-4, weight_decay=0.02, fused=True)
        self.device, self.precision = device, precision
        filler = torch.nn.functional.normalize(torch.randn(s.queue, model.spec.embed_dim), dim=-1).to(device)
        ids = -1 - torch.arange(s.queue, device=device)
        heads["itc"].queue.push({"image": filler, "text": filler.flip(0), "image_id": ids, "caption_id": ids})

    def __call__(self, batch: Batch) -> dict[str, float]:
        """One step; seconds by part, and in all."""
        torch.set_float32_matmul_precision("medium" if self.precision == "float32-medium" else "highest")
        clock, out = self.clock, []
        clock.parts = {}
        start = clock.now()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"):
            clock.time("forward", lambda: out.append(self.task(batch, 1)))
        clock.time("backward", out[0].loss.backward)
        clock.time("AdamW", self.optimizer.step)
        clock.time("zero_grad", self.optimizer.zero_grad)
        clock.time("EMA and queue", lambda: self.task.after_step([out[0].carry]))
        return {**clock.parts, "step": clock.now() - start}


def peak_memory(device: str) -> float:
    """GiB: of the device, or of the process on the CPU (which holds all variants)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    scale = 1024 if platform.system() != "Darwin" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**30


def measure(s: Setting, device: str, precisions: list[str], compiled: bool, steps: int) -> dict[str, dict[str, float]]:
    """Median seconds of every part for each precision, steps taken in turns; the first two of each are not counted."""
    variants = {precision: Step(s, device, precision, compiled) for precision in precisions}
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for i in range(steps + 2):
        batch = random_batch(s, seed=i).to(device)
        for name, step in variants.items():
            parts = step(batch)
            if i >= 2:
                seen[name].append(parts)
    return {
        name: {part: statistics.median(p[part] for p in parts) for part in parts[0]} for name, parts in seen.items()
    } | {
        "ratios": {
            n: statistics.median(a["step"] / b["step"] for a, b in zip(seen[precisions[0]], seen[n], strict=True))
            for n in seen
        }
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="cpu-small")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", nargs="+", default=["float32", "float32-medium", "bf16"])
    parser.add_argument("--compile", action="store_true", help="compile the transformer blocks")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, help="instead of the setting's")
    parser.add_argument("--json", help="write the numbers to this file")
    args = parser.parse_args()
    setting = SETTINGS[args.setting]
    if args.batch:
        setting = replace(setting, batch=args.batch)
    found = measure(setting, args.device, args.precision, args.compile, args.steps)
    ratios = found.pop("ratios")
    print(
        f"{args.setting}, {args.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"compile {args.compile}"
    )
    for name, parts in found.items():
        print(
            f"\n{name}: {parts['step'] * 1000:.0f} ms a step, {setting.batch / parts['step']:.1f} samples/s, "
            f"{ratios[name]:.2f} x the speed of {args.precision[0]}"
        )
        for part, seconds in parts.items():
            if part != "step":
                print(f"  {part:<22}{seconds * 1000:8.1f} ms {seconds / parts['step']:6.1%}")
    print(f"\npeak memory {peak_memory(args.device):.2f} GiB")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(
                {"setting": args.setting, "seconds": found, "ratios": ratios, "peak_gib": peak_memory(args.device)},
                file,
            )


if __name__ == "__main__":
    main()
