"""What two and four processes do for test_engines.py, each in one launch."""

from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from mmkit.ranks import gather_objects, rank
from mmkit.train.engines import sharded
from tests.examples import batch
from tests.train.engines.steps import CASES, RATE, SAMPLES, join, rows, take


def look(engine, made):
    """What evaluators see: on each process as often as it likes, twice on the second one."""
    own = made.model, made.heads
    with engine.whole():
        assert made.model is not own[0] or engine.name == "ddp"
        seen = embedded(made)
        if rank() == 1:
            assert torch.equal(seen, embedded(made))
        kinds = {type(p) for p in (*made.model.parameters(), *made.heads.parameters())}
        scalar = made.model.temperature.value.shape
    assert (made.model, made.heads) == own
    return {"seen": seen, "plain": kinds == {nn.Parameter}, "scalar": tuple(scalar)}


@torch.no_grad()
def embedded(made):
    model, b = made.model.eval(), batch(5, seed=77)
    image, text = model.encode_image(b.pixels), model.encode_text(b.ids, b.mask)
    fused = model.fuse(text, [model.image_context(image)])
    found = torch.cat([model.embed_image(image), model.embed_text(text), fused.first], 1)
    made.train()
    return found


def by_hand(case):
    """The steps of ``take`` under PyTorch's own DistributedDataParallel and AdamW: what ddp has always been."""
    made = case.make().train()
    names = {n for n, p in made.named_parameters() if p.requires_grad}
    plain = [p for n, p in made.named_parameters() if n in names and (p.ndim <= 1 or n.endswith((".cls", ".table")))]
    plain += [p for n, p in made.named_parameters() if n in names and ".positions.weight" in n]
    rest = [p for n, p in made.named_parameters() if n in names and all(p is not q for q in plain)]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": rest}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, eps=1e-4, weight_decay=0.5, betas=(0.9, 0.999), fused=True)
    wrapped = nn.parallel.DistributedDataParallel(made, gradient_as_bucket_view=True)
    for step in range(case.steps):
        share = SAMPLES // dist.get_world_size()
        output = wrapped(rows(batch(SAMPLES, seed=step), rank() * share, (rank() + 1) * share), step)
        output.loss.backward()
        nn.utils.clip_grad_norm_([p for p in made.parameters() if p.grad is not None], 0.5)
        optimizer.step()
        optimizer.zero_grad()
        made.after_step([output.carry])
    return {name: value.clone() for name, value in made.state_dict().items() if isinstance(value, torch.Tensor)}


def half_precision():
    """The first step with weights gathered in bfloat16, and with float32 weights that autocast casts."""
    found = {}
    for name in ("albef", "siglip"):
        case = replace(CASES[name], precision="bf16", steps=1)
        found[name] = [take(case, "fsdp", gathered_as)]
        kept = dict(sharded.DTYPES)
        sharded.DTYPES.clear()
        found[name].append(take(case, "fsdp", gathered_as))
        sharded.DTYPES.update(kept)
    return found


def gathered_as(engine, made):
    """In which type the first block's weights are gathered, and the norms beside them."""
    block = made.model.image.blocks[0]
    block.attn.unshard()
    engine.root.unshard()
    found = str(block.attn.qkv.weight.dtype), str(block.norm1.weight.dtype)
    block.attn.reshard()
    engine.root.reshard()
    return found


def kept(engine, made):
    """What the engine says of its shards, and what it does when some are still gathered."""
    engine.root.unshard()
    try:
        engine.check()
        said = ""
    except RuntimeError as error:
        said = str(error)
    engine.root.reshard()
    state = engine.state()
    tensors = {name: v for name, v in state.task.items() if isinstance(v, torch.Tensor)}
    task_of = {name: (tuple(v.shape), isinstance(v, DTensor)) for name, v in tensors.items()}
    with engine.whole(first_only=True):
        first_only = [str(p.device) for p in made.model.parameters()]
    return {"said": said, "task": task_of, "told": engine.told, "devices": gather_objects(set(first_only))}


def on_two(rank: int, world: int, folder: Path) -> None:
    join(rank, world)
    looks = {"albef": look, "own head": kept}
    found = {"fsdp": {name: take(CASES[name], "fsdp", looks.get(name)) for name in CASES}}
    found["ddp"] = take(CASES["odd"], "ddp")
    found["by hand"] = by_hand(CASES["odd"])
    found["half"] = half_precision()
    if rank == 0:
        torch.save(found, folder / "found.pt")


def on_four(rank: int, world: int, folder: Path) -> None:
    join(rank, world)
    found = {
        "hsdp": take(replace(CASES["odd"], run={"shard_ranks": 2}), "hsdp", look),
        "fsdp": take(CASES["accumulated"], "fsdp"),
    }
    if rank == 0:
        torch.save(found, folder / "found.pt")
