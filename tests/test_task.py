"""The task: what changes after a step, weights, the teacher, and the same step on several processes."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from mmkit.errors import UserError
from mmkit.heads.itc import ITC
from mmkit.heads.mlm import MLM
from mmkit.models.sizes.albef import albef
from mmkit.nn.block import PostNormBlock, PreNormBlock
from mmkit.nn.ema import EMA
from mmkit.task import Task
from mmkit.types import Batch, MaskedText
from tests.examples import batch, task
from tests.several import METHOD, on_processes
from tests.sizes import albef_tiny
from tests.test_accumulation import Drawn, ShortOnes, Two, difference, hidden


def test_the_loss_is_the_weighted_sum():
    t = task(weights={"itc": 0.5, "itm": lambda step: step / 10})
    out = t(batch(), 4)
    total = 0.5 * out.losses["itc"] + 0.4 * out.losses["itm"] + out.losses["mlm"]
    torch.testing.assert_close(out.loss.detach(), total)
    assert out.loss.requires_grad
    assert not any(loss.requires_grad for loss in out.losses.values())


def test_a_weight_for_no_head_is_refused():
    with pytest.raises(UserError, match="wpa"):
        task(weights={"wpa": 1.0})


def test_the_teacher_follows_and_answers_without_dropout():
    t = task(momentum=0.9)
    assert not any(module.training for module in t.ema.modules())
    assert t.ema.copies.keys() == {"model", "heads_mlm"}  # of what answers for the teacher, and of no queue
    t.train()
    assert not any(module.training for module in t.ema.modules())
    before = t.ema["model"].image_proj.weight.clone()
    t.model.image_proj.weight.data += 1.0
    t.after_step([t(batch(), 0).carry])
    torch.testing.assert_close(t.ema["model"].image_proj.weight, before + 0.1)
    assert not any(p.requires_grad for p in t.ema.parameters())


def test_without_a_teacher_nothing_is_said_of_its_weight():
    assert task(momentum=None, alpha=0.4).features(batch(), 0).alpha == 0
    assert task(alpha=lambda step: step / 10).features(batch(), 3).alpha == 0.3


@pytest.mark.parametrize(
    ("heads", "alpha", "student", "teacher"),
    [
        (("itc", "itm", "mlm"), 0.4, [12], [12]),
        (("itc", "itm", "mlm"), 0.0, [12], [6]),
        (("itc", "itm"), 0.4, [6], [6]),
        (("mlm", "itc"), 0.4, [6, 6], [6, 6]),
    ],
)
def test_texts_and_those_with_hidden_words_pass_the_tower_together(heads, alpha, student, teacher):
    t, rows = task(alpha=alpha), {}
    t.heads = nn.ModuleDict({name: t.heads[name] for name in heads})
    for who, model in (("student", t.model), ("teacher", t.ema["model"])):
        model.text.register_forward_hook(lambda _, given, __, who=who: rows.setdefault(who, []).append(len(given[0])))
    t(batch(), 0)
    assert rows == {"student": student, "teacher": teacher}


@pytest.mark.parametrize("chunks", [1, 2])
def test_the_pass_of_both_texts_gives_what_two_passes_give(chunks):
    found = []
    for together in (True, False):
        t = task(chunks=chunks)
        t.heads["mlm"].needs_masking = together
        out = t(batch(), 0)
        out.loss.backward()
        found.append((out.losses, {name: p.grad for name, p in t.named_parameters()}))
    (losses, own), (wanted, theirs) = found
    for name, loss in losses.items():
        torch.testing.assert_close(loss, wanted[name], rtol=1e-6, atol=0)
    for name, grad in own.items():
        torch.testing.assert_close(grad, theirs[name], rtol=1e-4, atol=1e-6)


class Following(ShortOnes):
    """Notes whether gradients are kept where nothing is learned."""

    kept = ()

    def forward(self, f):
        self.kept = (*self.kept, torch.is_grad_enabled())
        return super().forward(f)

    def after_step(self, carries):
        self.kept = (*self.kept, torch.is_grad_enabled())


def test_no_gradient_is_kept_where_a_step_is_counted_and_followed():
    model = albef_tiny(64)
    t = Task(model, {"follows": Following(model.spec)}, momentum=None)
    t.count([batch()], 0, torch.device("cpu"))
    t.after_step([t(batch(), 0).carry])
    assert t.heads["follows"].kept == (False, True, False)


def test_the_temperature_stays_within_bounds():
    t = task(["itc"])
    t.model.temperature.value.data.fill_(2.0)
    t.after_step([t(batch(), 0).carry])
    assert t.model.temperature.value.item() == 0.5


def test_bounds_come_before_the_teacher_follows():
    t = task(["itc"], momentum=0.9)
    t.model.temperature.value.data.fill_(2.0)
    t.after_step([t(batch(), 0).carry])
    assert t.ema["model"].temperature.value.item() == pytest.approx(0.9 * 0.07 + 0.1 * 0.5)
    model = albef_tiny(64)
    model.temperature.value.data.fill_(2.0)
    first = Task(model, {"itc": ITC(model.spec, 4)})
    assert first.model.temperature.value.item() == first.ema["model"].temperature.value.item() == 0.5


def test_the_teacher_has_the_statistics_of_the_student():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    ema = EMA({"net": net}, 0.5)
    net.train()
    before = [p.clone() for p in ema["net"].parameters()]
    for _ in range(3):
        net(torch.randn(8, 3) * 4 + 7)
    with torch.no_grad():
        net[0].weight += 1
    ema.update()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(ema["net"][1], name), getattr(net[1], name))
    assert ema["net"][1].num_batches_tracked == 3
    torch.testing.assert_close(ema["net"][0].weight, before[0] + 0.5)  # parameters are averaged as ever
    net(torch.randn(8, 3))
    assert ema["net"][1].num_batches_tracked == 3  # a copy, not the same tensor
    ema.reset()
    assert torch.equal(ema["net"][1].running_mean, net[1].running_mean)
    x = torch.randn(4, 3)
    torch.testing.assert_close(ema["net"](x), net.eval()(x))


def test_accumulation_pushes_every_micro_batch_once():
    t = task(["itc"])
    carries = [t(batch(seed=seed), 0).carry for seed in (1, 2)]
    assert len(t.heads["itc"].queue) == 0
    t.after_step(carries)
    assert t.heads["itc"].queue["image_id"].tolist() == [*range(1000, 1006), *range(2000, 2006)]


def test_every_block_is_compiled_the_teachers_too():
    t = task()
    t.compile_blocks()
    blocks = [m for m in t.modules() if isinstance(m, PreNormBlock | PostNormBlock)]
    assert len(blocks) == 2 * len([m for m in t.model.modules() if isinstance(m, PreNormBlock | PostNormBlock)]) > 0
    assert all(block._compiled_call_impl is not None for block in blocks)


def test_the_width_of_vectors_is_a_setting_by_which_compiled_code_is_found_again(monkeypatch):
    from torch._inductor import config, cpu_vec_isa

    before = config.cpp.simdlen
    try:
        for width in (256, 512):
            isa = type("ISA", (), {"bit_width": lambda self, width=width: width})
            monkeypatch.setattr(cpu_vec_isa, "pick_vec_isa", isa)
            task(["mlm"]).compile_blocks()
            assert config.cpp.simdlen == width
    finally:
        config.cpp.simdlen = before  # a setting that was patched is hidden afterwards


@pytest.mark.slow
def test_compiled_blocks_equal_eager(device):
    """In a process of its own: after a compiled backward pass, forks of a process have none."""
    mp.start_processes(compare_compiled, (device,), nprocs=1, start_method=METHOD if device.type == "cpu" else "spawn")


@pytest.mark.long
@pytest.mark.slow
def test_code_made_for_every_block_equals_eager():
    mp.start_processes(compare_compiled, (torch.device("cpu"), True), nprocs=1, start_method=METHOD)


def compare_compiled(rank, device, every=False):
    """One block of each kind: compiling the same code again for every layer takes minutes and shows nothing more.

    On a CPU making code for all of them takes most of two minutes: it is made for one, of the others all that comes
    before, and in chunks the graph alone. every: code for all.
    """

    def one_of_each(vocab_size):
        return albef(
            vocab_size, image_size=32, max_tokens=16, patch=8, image_depth=1, text_depth=1, fusion_depth=1,
            image_width=32, image_heads=2, text_width=32, text_heads=2, embed_dim=16, dropout=0.0,
        )  # fmt: skip

    heads = ["mlm"] if device.type == "cpu" else ["itc", "itm", "mlm"]
    eager, compiled, in_chunks = (task(heads, model=one_of_each, momentum=None).to(device) for _ in range(3))
    in_chunks.chunks = 2
    make, made = torch.compile, []

    def compile_for(call, **options):
        whole = every or device.type != "cpu" or call.__self__ is compiled.model.image.blocks[0]
        made.append("inductor" if whole else "aot_eager" if compiling is compiled else "eager")
        return make(call, **options, backend=made[-1])

    torch.compile = compile_for
    for compiling in (compiled, in_chunks):
        compiling.compile_blocks()
    assert made.count("inductor") == (6 if every or device.type != "cpu" else 1)
    assert len(made) == 6
    for t in (eager, compiled, in_chunks):
        t(batch().to(device), 3).loss.backward()
    for t in (compiled, in_chunks):
        for (name, p), q in zip(eager.named_parameters(), t.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None), name
            if p.grad is not None:
                told = lambda m, name=name: f"{name}: {m}"  # noqa: E731
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5, msg=told)


def part_of(whole: Batch, rank: int, world: int) -> Batch:
    size = len(whole) // world
    rows = slice(rank * size, (rank + 1) * size)
    m = whole.masked
    inside = (m.index // m.positions.shape[1] >= rows.start) & (m.index // m.positions.shape[1] < rows.stop)
    return Batch(
        pixels=whole.pixels[rows], ids=whole.ids[rows], mask=whole.mask[rows], image_id=whole.image_id[rows],
        caption_id=whole.caption_id[rows],
        masked=MaskedText(
            ids=m.ids[rows], positions=m.positions[rows], labels=m.labels[inside],
            index=m.index[inside] - rank * size * m.positions.shape[1],
        ),
    )  # fmt: skip


def uneven(seed: int) -> Batch:
    """A batch of which one half hides more words than the other."""
    b = batch(6, seed=seed)
    keep = torch.tensor([0, 1, 2, 3, 5, 9])
    m = b.masked
    masked = MaskedText(ids=m.ids, positions=m.positions, index=m.index[keep], labels=m.labels[keep])
    return Batch(**{**vars(b), "masked": masked})


def two_steps(rank: int, world: int, chunks: int = 1) -> dict[str, torch.Tensor]:
    t = task(alpha=0.4, chunks=chunks)
    whole = uneven(2)
    t.after_step([t(part_of(uneven(1), rank, world), 0).carry])
    out = t(part_of(whole, rank, world), 1)
    out.loss.backward()
    result = {"loss": out.loss.detach(), **{f"loss.{k}": v for k, v in out.losses.items()}}
    result |= {f"grad.{n}": p.grad for n, p in t.named_parameters() if p.grad is not None}
    if world > 1:
        for value in result.values():
            dist.all_reduce(value)
            value /= world
    t.after_step([out.carry])
    return result | {f"state.{k}": v.float() for k, v in t.state_dict().items()}


def accumulated(rank: int, world: int) -> dict[str, torch.Tensor]:
    """The gradients of one step of twelve samples in parts of two, on the ranks in turn; with one process, whole."""
    torch.manual_seed(0)
    model = albef_tiny(64)
    heads = {"mlm": MLM(model.spec), "short": ShortOnes(model.spec), "two": Two(model.spec), "drawn": Drawn(model.spec)}
    t = Task(model, heads, alpha=0.4)
    whole = hidden(batch(12, seed=7), [0, 1, 2, 3, 5, 6, 8, 17, 23])  # of the fifth part none, of the sixth one
    chunks = 1 if world == 1 else 6
    micro = [part_of(whole, i, chunks) for i in range(rank, chunks, world)]
    counts = t.count(micro, 1, torch.device("cpu"))
    losses = torch.zeros(())
    for i, part in enumerate(micro):
        out = t(part, 1, i * world * len(part), counts.totals)
        out.loss.backward()
        losses += out.loss.detach()
    assert not any(counts.differ([out.counts]).values()) if len(micro) == 1 else counts.own.shape == (len(micro), 5)
    found = {"loss": losses, "counts": torch.stack(list(counts.totals.values()))}
    found |= {f"grad.{n}": p.grad for n, p in t.named_parameters() if p.grad is not None}
    if world > 1:
        for name, value in found.items():
            if name != "counts":
                dist.all_reduce(value)
                value /= world
    return found


def work(rank, world, folder):
    result, accumulate = two_steps(rank, world), accumulated(rank, world)
    in_chunks = two_steps(rank, world, chunks=2)
    if rank == 0:
        torch.save(result, folder / "result.pt")
        torch.save(in_chunks, folder / "chunks.pt")
        torch.save(accumulate, folder / "accumulated.pt")


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_take_the_step_of_one(tmp_path, world):
    on_processes(world, work, tmp_path)
    one = two_steps(0, 1)
    for file in ("result.pt", "chunks.pt"):
        several = torch.load(tmp_path / file, weights_only=True)
        assert several.keys() == one.keys()
        for name, value in one.items():
            torch.testing.assert_close(several[name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    parts, joined = torch.load(tmp_path / "accumulated.pt", weights_only=True), accumulated(0, 1)
    assert torch.equal(parts.pop("counts"), joined.pop("counts"))
    assert difference(parts, joined) < 1e-6
