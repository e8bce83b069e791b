"""How long one ALBEF pre-training step takes, part by part, beside the official one: seconds, samples/s, peak memory.

    python benchmarks/train_step.py --setting cpu-small --threads 2 --json step.json
    python benchmarks/train_step.py --memory
    python benchmarks/train_step.py --variants bf16 --profile step.trace.json
    python benchmarks/train_step.py --setting paper --device cuda --variants bf16 --compile --peak-tflops 989

Variants run in turns within one process, so that a noisy machine disturbs all of them alike; ratios are medians of
paired steps. ``official`` is the published step (``official.py``) in float32, ``official-bf16`` the same in autocast;
``float32`` and ``bf16`` are ours, ``float32-medium`` with oneDNN's products, or TF32 on CUDA. Weights and data are
random: speed does not depend on what they mean. ``--memory`` gives each variant a process of its own.

To time a part of a step, a GPU must have nothing left to do at its ends, and then waits for what comes next. So steps
are taken a second time without looking inside; their median is the step, which the parts may exceed together.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import truediv
from pathlib import Path

import torch
from official import Draws, OfficialALBEF, Sizes, hide, optimizer_of
from torch import Tensor, nn

from mmkit.allocator import advice, allocator, begin_anew
from mmkit.data.collate import Collator
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.models.sizes.albef import albef
from mmkit.nn.adamw import AdamW
from mmkit.nn.packing import rounded
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


PAD, CLS, MASK = 0, 101, 103
VARIANTS = ("official", "float32", "float32-medium", "bf16", "official-bf16")
AGAINST = {"official": "float32", "official-bf16": "bf16"}

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
    ids[:, 0] = CLS
    most = rounded(int(hidden.sum(1).max()), Collator.multiple)
    positions = hidden.int().sort(dim=1, descending=True, stable=True).indices[:, :most]
    real = torch.arange(most) < hidden.sum(1, keepdim=True)
    masked = MaskedText(
        ids=ids.masked_fill(hidden, MASK), positions=positions.where(real, 0),
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
    """A step in one precision: ``forward`` gives the loss, the rest is the same for ours and the official one."""

    optimizer: torch.optim.Optimizer

    def __init__(self, device: str, variant: str) -> None:
        torch.manual_seed(0)
        self.device, self.variant = device, variant
        self.clock = Clock(device)

    def forward(self, batch: Batch) -> Tensor:
        """The loss."""
        raise NotImplementedError

    def after(self) -> None:
        """What follows the optimizer."""

    def __call__(self, batch: Batch) -> dict[str, float]:
        """One step; seconds by part, and in all."""
        torch.set_float32_matmul_precision("medium" if self.variant == "float32-medium" else "highest")
        clock, losses = self.clock, []
        clock.parts = {}
        start = clock.now()
        clock.time("zero_grad", self.optimizer.zero_grad)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.variant.endswith("bf16")):
            clock.time("forward", lambda: losses.append(self.forward(batch)))
        clock.time("backward", losses[0].backward)
        clock.time("AdamW", self.optimizer.step)
        clock.time("EMA and queue", self.after)
        return {**clock.parts, "step": clock.now() - start}


class Ours(Step):
    """A task with its optimizer."""

    def __init__(self, s: Setting, device: str, variant: str, compiled: bool) -> None:
        super().__init__(device, variant)
        model = albef(s.vocab, image_size=s.image_size, max_tokens=512, **s.model)
        heads = {"itc": ITC(model.spec, s.queue), "itm": ITM(model.spec), "mlm": MLM(model.spec)}
        self.task = Task(model, heads, alpha=0.4).to(device).train()
        for who, tower in (("student", self.task.model), ("teacher", self.task.ema["model"])):
            for part in ("image", "text", "fusion"):
                self.clock.watch(f"  {who} {part}", getattr(tower, part))
        if compiled:
            self.task.compile_blocks()
        trained = [p for p in self.task.parameters() if p.requires_grad]
        self.optimizer = AdamW(trained, 1e-4, weight_decay=0.02, fused=True)
        filler = torch.nn.functional.normalize(torch.randn(s.queue, model.spec.embed_dim), dim=-1).to(device)
        ids = -1 - torch.arange(s.queue, device=device)
        heads["itc"].queue.push({"image": filler, "text": filler.flip(0), "image_id": ids, "caption_id": ids})

    def forward(self, batch: Batch) -> Tensor:
        """The loss; what goes to the queue is kept."""
        out = self.task(batch, 1)
        self.carry = out.carry
        return out.loss

    def after(self) -> None:
        """The teacher and the queue."""
        self.task.after_step([self.carry])


class Official(Step):
    """The published step, whose teacher and queue change in its forward pass."""

    def __init__(self, s: Setting, device: str, variant: str) -> None:
        super().__init__(device, variant)
        names = {"text_width": "width", "text_heads": "heads", "embed_dim": "embed"}
        sizes = {names.get(name, name): value for name, value in s.model.items()}
        sizes = Sizes(s.vocab, s.image_size, queue=s.queue, **sizes)
        self.model = OfficialALBEF(replace(sizes, hidden=4 * sizes.width)).to(device).train()
        for name in ("visual_encoder", "text_encoder"):
            self.clock.watch(f"  student {name}", self.model.get_submodule(name))
            self.clock.watch(f"  teacher {name}", self.model.get_submodule(f"{name}_m"))
        self.optimizer = optimizer_of(self.model, 1e-4)
        self.vocab = s.vocab

    def forward(self, batch: Batch) -> Tensor:
        """The loss; words are hidden here, as published."""
        masked = hide(batch.ids, Draws.new(batch.ids, self.vocab), MASK, (PAD, CLS))
        return sum(self.model(batch.pixels, batch.ids, batch.mask.long(), masked, 0.4))


def make_step(s: Setting, device: str, variant: str, compiled: bool) -> Step:
    """The variant of this name."""
    return Official(s, device, variant) if variant in AGAINST else Ours(s, device, variant, compiled)


def peak_memory(device: str) -> float:
    """GiB: of the device, or of the process on the CPU (which holds all variants)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    scale = 1024 if platform.system() != "Darwin" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**30


@dataclass(frozen=True)
class Measured:
    """Median seconds of every part for each variant, those of each whole step in order, and operations of a step."""

    seconds: dict[str, dict[str, float]]
    whole: dict[str, list[float]]
    flops: int

    def ratios(self, to: str) -> dict[str, float]:
        """How many times as fast as the variant ``to`` the others are: medians over paired steps."""
        return {
            name: statistics.median(map(truediv, self.whole[to], seconds))
            for name, seconds in self.whole.items()
            if name != to
        }


def count_flops(step: Step, batch: Batch) -> int:
    """Floating-point operations of the products of one step: towers, teacher, heads, and the way back."""
    from torch.utils.flop_counter import FlopCounterMode  # which takes memory

    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        step(batch)
    return counter.get_total_flops()


def measure(variants: dict[str, Step], s: Setting, steps: int, warmup: int) -> Measured:
    """Steps taken in turns; the first ``warmup`` of each are not counted."""
    device = next(iter(variants.values())).device
    ours = [step for step in variants.values() if isinstance(step, Ours)]
    flops = count_flops(ours[0], random_batch(s).to(device)) if ours else 0
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
    return Measured(
        seconds={
            name: {part: statistics.median(parts[part] for parts in found) for part in found[0]}
            | {"step": statistics.median(whole[name])}
            for name, found in taken[True].items()
        },
        whole=whole,
        flops=flops,
    )


def profile(step: Step, batch: Batch, file: Path) -> str:
    """Three steps as a trace that chrome://tracing and ui.perfetto.dev open, and where they spend their time."""
    step.clock.looking = False
    with torch.profiler.profile() as seen:
        for _ in range(3):
            step(batch)
    seen.export_chrome_trace(str(file))
    sort = "self_device_time_total" if step.device == "cuda" else "self_cpu_time_total"
    return seen.key_averages().table(sort_by=sort, row_limit=25, max_name_column_width=70)


def measure_memory(variants: list[str], options: list[str]) -> dict[str, float]:
    """GiB at the peak of a process that holds one variant and takes four steps."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in variants:
            file = Path(folder, f"{name}.json")
            command = [sys.executable, __file__, *options, "--variants", name, "--alone", "--json", str(file)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            peaks[name] = json.loads(file.read_text())["peak_gib"]
    return peaks


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="cpu-small")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=["official", "float32", "bf16", "official-bf16"]
    )
    parser.add_argument("--compile", action="store_true", help="compile our transformer blocks")
    parser.add_argument("--threads", type=int, help="of the CPU; PyTorch's choice where it is not given")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2, help="steps before those that count")
    parser.add_argument("--peak-tflops", type=float, help="of the machine in this precision: gives the share of it")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="a trace of the first variant, in place of times")
    parser.add_argument("--memory", action="store_true", help="the peak of each variant, in place of times")
    parser.add_argument("--alone", action="store_true", help="only the peak of this process, after four steps")
    parser.add_argument("--batch", type=int, help="instead of the setting's")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    return parser.parse_args()


def main() -> None:
    """The command."""
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    setting = SETTINGS[args.setting]
    if args.batch:
        setting = replace(setting, batch=args.batch)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{args.setting}, {args.device}, {where}, torch {torch.__version__}, compile {args.compile}")
    print(f"batch {setting.batch}, {advice(allocator())}")
    facts: dict[str, object] = {"setting": args.setting, "batch": setting.batch, "threads": torch.get_num_threads()}
    if args.memory:
        facts |= report_memory(args)
    else:
        steps = {name: make_step(setting, args.device, name, args.compile) for name in args.variants}
        if args.profile:
            first = next(iter(steps.values()))
            print(profile(first, random_batch(setting).to(args.device), args.profile))
        elif args.alone:
            for i in range(4):
                for step in steps.values():
                    step(random_batch(setting, seed=i).to(args.device))
            facts["peak_gib"] = peak_memory(args.device)
        else:
            facts |= report(measure(steps, setting, args.steps, args.warmup), setting, args)
    if args.json:
        args.json.write_text(json.dumps(facts))


def report_memory(args: argparse.Namespace) -> dict[str, object]:
    """Prints the peaks, and each as a share of the official code's in its precision."""
    options = ["--setting", args.setting, "--device", args.device, *(["--compile"] if args.compile else [])]
    for name in ("threads", "batch"):
        options += [f"--{name}", str(value)] if (value := getattr(args, name)) else []
    peaks = measure_memory(args.variants, options)
    against = {ours: official for official, ours in AGAINST.items()}
    shares = {name: peaks[name] / peaks[of] for name, of in against.items() if {name, of} <= peaks.keys()}
    for name, peak in peaks.items():
        print(f"{name:<16}{peak:6.2f} GiB" + (f"  {shares[name]:.2f} of the official" if name in shares else ""))
    return {"peak_gib": peaks, "peak_shares": shares}


def report(found: Measured, setting: Setting, args: argparse.Namespace) -> dict[str, object]:
    """Prints every variant; the numbers, with ratios to the official step, or to the first where it is not there."""
    bases = [name for name in AGAINST if name in found.seconds] or args.variants[:1]
    ratios = {to: found.ratios(to) for to in bases}
    if found.flops:
        print(f"{found.flops / setting.batch / 1e9:.1f} GFLOP a sample in products of ours")
    for name, parts in found.seconds.items():
        faster = [f"{ratios[to][name]:.2f} x the speed of {to}" for to in bases if to != name]
        milliseconds, rate = parts["step"] * 1000, found.flops / parts["step"] / 1e12
        print(
            f"\n{name}: {', '.join([f'{milliseconds:.0f} ms a step', *faster])}; "
            f"{setting.batch / parts['step']:.1f} samples/s"
            + (f", {rate:.1f} TFLOP/s, {rate / args.peak_tflops:.1%} of the peak" if args.peak_tflops else "")
        )
        for part, seconds in parts.items():
            if part != "step":
                print(f"  {part:<26}{seconds * 1000:8.1f} ms {seconds / parts['step']:6.1%}")
    peak = peak_memory(args.device)
    print(f"\npeak memory {peak:.2f} GiB" + (" with all variants in one process" if len(found.seconds) > 1 else ""))
    facts: dict[str, object] = {"seconds": found.seconds, "ratios": ratios[bases[0]], "peak_gib": peak}
    if "official" in found.seconds:
        facts["official"] = found.seconds["official"]["step"]
    if "official-bf16" in ratios:
        facts["ratios_to_official_bf16"] = ratios["official-bf16"]
    return facts | {"flops": found.flops}


if __name__ == "__main__":
    begin_anew()  # as `mmkit train` does; all variants have the same allocator
    main()
