"""How long one ALBEF pre-training step takes, part by part: seconds, samples per second, peak memory.

    python benchmarks/train_step.py --setting cpu-small
    python benchmarks/train_step.py --setting paper --device cuda --precision bf16 --compile --peak-tflops 989

Variants run in turns within one process, so that a noisy machine disturbs all of them alike; ratios are to the first
variant, over the medians of paired steps. Weights and data are random: speed does not depend on what they mean.

To time a part of a step, a GPU must have nothing left to do at its ends, and then waits for what comes next. So steps
are taken a second time without looking inside; their median is the step, which the parts may exceed together.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from operator import truediv

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

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
    """Seconds by name since ``parts`` was emptied, while ``looking``; on a GPU after waiting for the device."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.looking = True
        self.parts: dict[str, float] = {}

    def now(self) -> float:
        """Seconds, with all work done."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def time(self, name: str, what: Callable[[], object]) -> None:
        """Runs something and adds its seconds to a part."""
        if not self.looking:
            what()
            return
        start = self.now()
        what()
        self.parts[name] = self.parts.get(name, 0.0) + self.now() - start

    def watch(self, name: str, module: nn.Module) -> None:
        """Adds the seconds of each forward pass of a module to a part."""
        started: list[float] = []

        def begin(*_: object) -> None:
            if self.looking:
                started.append(self.now())

        def stop(*_: object) -> None:
            if self.looking:
                self.parts[name] = self.parts.get(name, 0.0) + self.now() - started.pop()

        module.register_forward_pre_hook(begin)
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


@dataclass(frozen=True)
class Measured:
    """Median seconds of every part for each variant, ratios to the first, and operations of a step."""

    seconds: dict[str, dict[str, float]]
    ratios: dict[str, float]
    flops: int


def count_flops(step: Step, batch: Batch) -> int:
    """Floating-point operations of the products of one step: towers, teacher, heads, and the way back."""
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        step(batch)
    return counter.get_total_flops()


def measure(variants: dict[str, Step], s: Setting, steps: int, warmup: int) -> Measured:
    """Steps taken in turns; the first ``warmup`` of each are not counted."""
    device = next(iter(variants.values())).device
    flops = max(count_flops(step, random_batch(s).to(device)) for step in variants.values())
    taken: dict[bool, dict[str, list[dict[str, float]]]] = {}
    for looking in (True, False) if device == "cuda" else (True,):
        taken[looking] = {name: [] for name in variants}
        for i in range(steps + warmup):
            batch = random_batch(s, seed=i).to(device)
            for name, step in variants.items():
                step.clock.looking = looking
                parts = step(batch)
                if i >= warmup:
                    taken[looking][name].append(parts)
    whole = {name: [parts["step"] for parts in found] for name, found in taken[min(taken)].items()}
    first = whole[next(iter(variants))]
    return Measured(
        seconds={
            name: {part: statistics.median(parts[part] for parts in found) for part in found[0]}
            | {"step": statistics.median(whole[name])}
            for name, found in taken[True].items()
        },
        ratios={name: statistics.median(map(truediv, first, seconds)) for name, seconds in whole.items()},
        flops=flops,
    )


def profile(step: Step, batch: Batch, rows: int) -> str:
    """Where three steps spend the time of the device, by its operations, and that of the host."""
    step.clock.looking = False
    with torch.profiler.profile() as seen:
        for _ in range(3):
            step(batch)
    sort = "self_device_time_total" if step.device == "cuda" else "self_cpu_time_total"
    return seen.key_averages().table(sort_by=sort, row_limit=rows, max_name_column_width=70)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="cpu-small")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", nargs="+", default=["float32", "float32-medium", "bf16"])
    parser.add_argument("--compile", action="store_true", help="compile the transformer blocks")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2, help="steps before those that count")
    parser.add_argument("--peak-tflops", type=float, help="of the machine in this precision: gives the share of it")
    parser.add_argument("--profile", type=int, metavar="ROWS", help="also profile the first precision")
    parser.add_argument("--batch", type=int, help="instead of the setting's")
    parser.add_argument("--json", help="write the numbers to this file")
    args = parser.parse_args()
    setting = SETTINGS[args.setting]
    if args.batch:
        setting = replace(setting, batch=args.batch)
    variants = {name: Step(setting, args.device, name, args.compile) for name in args.precision}
    found = measure(variants, setting, args.steps, args.warmup)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{args.setting}, {args.device}, {where}, torch {torch.__version__}, compile {args.compile}")
    print(f"batch {setting.batch}, {found.flops / setting.batch / 1e9:.1f} GFLOP a sample in products")
    for name, parts in found.seconds.items():
        show(name, parts, found, setting, args)
    print(f"\npeak memory {peak_memory(args.device):.2f} GiB")
    if args.json:
        facts = {"setting": args.setting, "batch": setting.batch, "peak_gib": peak_memory(args.device)}
        with open(args.json, "w") as file:
            json.dump(facts | asdict(found), file)
    if args.profile:
        print(profile(variants[args.precision[0]], random_batch(setting).to(args.device), args.profile))


def show(name: str, parts: dict[str, float], found: Measured, setting: Setting, args: argparse.Namespace) -> None:
    """One variant."""
    rate = found.flops / parts["step"] / 1e12
    print(
        f"\n{name}: {parts['step'] * 1000:.0f} ms a step, {setting.batch / parts['step']:.1f} samples/s, "
        f"{found.ratios[name]:.2f} x the speed of {args.precision[0]}; {rate:.2f} TFLOP/s"
        + (f", {rate / args.peak_tflops:.1%} of {args.peak_tflops:g}" if args.peak_tflops else "")
    )
    for part, seconds in parts.items():
        if part != "step":
            print(f"  {part:<22}{seconds * 1000:8.1f} ms {seconds / parts['step']:6.1%}")


if __name__ == "__main__":
    main()
