"""Masks as published, losses of hidden patches alone, codes that are found and stay, and runs of all three."""

import math
from collections import Counter

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import mmkit
from mmkit.config import dump, load_experiment, override, rebuild, validate
from mmkit.data.collate import Sample
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.openmoji.scenes import Scenes
from mmkit.draws import Draws
from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.hub import folder as hub
from mmkit.inference.predictor import Predictor
from mmkit.models.sizes.vision import vision
from mmkit.nn.patch import patchify
from mmkit.task import Task
from mmkit.train.checks import check_length
from mmkit.train.loop import train
from mmkit.types import Batch
from projects.mim.beit import BEiT
from projects.mim.codes import PatchCodes, fitted, k_means, nearest
from projects.mim.held_out import HeldOut
from projects.mim.mae import MAE, deviation, mean_colour, normalised
from projects.mim.masks import blockwise, coarse, kept, shuffled
from projects.mim.simmim import SimMIM, absolute_error
from tests.examples import HEADS, VOCAB, batch
from tests.sizes import albef_tiny, vilt_tiny, vision_tiny

SMALL_MAE = {"depth": 1, "width": 16, "heads": 2}
CONFIG = "projects/mim/config.py"
FEW = ["data.global_batch=4", "run.steps=3", "run.save_every_steps=0", "run.trackers=[]", "data.train.n=40", "evals={}"]


def pictures(size=4, seed=0, side=32):
    pixels = torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return Batch(pixels=pixels, image_id=torch.arange(size))


def sees(head, model=vision_tiny, **options):
    torch.manual_seed(0)
    model = model()
    return Task(model, {"mim": head(model.spec)}, momentum=None, **options)


# ---- masks ------------------------------------------------------------------------------------------------------


def test_mae_keeps_49_of_196():
    assert [kept(196, 0.75), kept(64, 0.75), kept(10, 0.7), kept(196, 0.6)] == [49, 16, 3, 78]
    for patches, ratio in ((3, 0.75), (64, 0.0), (64, 1.0)):
        with pytest.raises(UserError, match=f"ratio={ratio}"):
            kept(patches, ratio)


def test_mae_shuffles_by_the_noise():
    noise = torch.tensor([[0.3, 0.1, 0.2, 0.0], [0.0, 0.9, 0.9, 0.5]])
    order, place = shuffled(noise, 2)
    assert order.tolist() == [[3, 1, 2, 0], [0, 3, 1, 2]]
    assert place.tolist() == [[3, 1, 2, 0], [0, 2, 3, 1]]


def test_simmim_hides_whole_cells():
    noise = Draws((0, "x"), torch.arange(5)).uniform(6 * 6)
    hidden, found = coarse(noise, (6, 6), (2, 2), 0.6)
    grid = hidden.unflatten(1, (12, 12))
    assert (hidden.sum(1) == 22 * 4).all()  # as published: 22 of 36 at 192 pixels
    for row in (0, 1):
        for column in (0, 1):
            assert torch.equal(grid[:, row::2, column::2], grid[:, ::2, ::2])
    cells = grid[:, ::2, ::2].flatten(1)
    assert torch.equal(cells, noise <= noise.sort(1).values[:, 21:22])
    assert torch.equal(found, torch.stack([row.nonzero().flatten() for row in hidden]))
    assert coarse(noise[:, :6], (2, 3), (1, 2), 0.5)[0].shape == (5, 2 * 6)


def published_blocks(rng, height, width, target, smallest, aspect=0.3):
    """A copy of the published generator (Bao et al.), on the masks of one picture."""
    mask, count = torch.zeros(height, width, dtype=torch.bool), 0
    while count < target:
        delta = 0
        for _ in range(10):
            area = rng.uniform(smallest, target - count)
            ratio = math.exp(rng.uniform(math.log(aspect), math.log(1 / aspect)))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if w < width and h < height:
                top, left = rng.randint(0, height - h), rng.randint(0, width - w)
                new = h * w - int(mask[top : top + h, left : left + w].sum())
                if 0 < new <= target - count:
                    mask[top : top + h, left : left + w] = True
                    delta = new
                    break
        if not delta:
            break
        count += delta
    return mask


def test_beit_hides_blocks_as_published():
    from random import Random

    ours = blockwise(Draws((1, "blocks"), torch.arange(400)), 400, (14, 14), 75)
    rng = Random(0)
    theirs = torch.stack([published_blocks(rng, 14, 14, 75, 16).flatten() for _ in range(400)])
    assert ours.sum(1).max() == theirs.sum(1).max() == 75
    assert len(set(ours.sum(1).tolist())) > 3  # unequal counts
    assert abs(ours.sum(1).float().mean() - theirs.sum(1).float().mean()) < 0.7
    assert abs((ours.sum(1) == 75).float().mean() - (theirs.sum(1) == 75).float().mean()) < 0.12
    edges = lambda m: (m.unflatten(1, (14, 14))[:, 1:] != m.unflatten(1, (14, 14))[:, :-1]).float().sum((1, 2)).mean()  # noqa: E731
    assert abs(edges(ours) / edges(theirs) - 1) < 0.05
    assert (ours.float().mean(0) - theirs.float().mean(0)).abs().max() < 0.16


def test_blocks_of_a_picture_follow_from_it_alone():
    together = blockwise(Draws((1, "x"), torch.arange(6)), 6, (8, 10), 30, smallest=5)
    apart = blockwise(Draws((1, "x"), torch.tensor([4])), 1, (8, 10), 30, smallest=5)
    assert torch.equal(together[4], apart[0])
    assert together.sum(1).max() <= 30


# ---- MAE --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_pix", [False, True])
def test_mae_is_the_error_of_hidden_patches_alone(norm_pix):
    """The loss from the pixels that ``reconstruct`` paints, in the plain measure or in each patch's own."""
    task = sees(lambda spec: MAE(spec, norm_pix=norm_pix, **SMALL_MAE))
    f, head = task.features(pictures(), 3), task.heads["mim"]
    out, shown = head(f), head.reconstruct(f)
    true, painted = patchify(f.batch.pixels, (8, 8)), patchify(shown.pixels, (8, 8))
    hidden = patchify(shown.hidden[:, None].float(), (8, 8)).all(-1)
    assert hidden.sum(1).tolist() == [12] * 4
    assert torch.equal(true[~hidden], painted[~hidden])
    error = (painted - true) / (deviation(true) if norm_pix else 1)
    torch.testing.assert_close(out.loss, error[hidden].square().mean(), rtol=1e-4, atol=1e-5)
    assert (out.count, out.logs["patches_seen"], shown.leaks) == (4, 4, norm_pix)
    if norm_pix:
        torch.testing.assert_close(out.logs["mean_colour"], normalised(true)[hidden].square().mean())
    else:
        guess = torch.stack([t[~h].unflatten(1, (3, 64)).mean((0, 2)) for t, h in zip(true, hidden, strict=True)])
        wanted = (true - guess.repeat_interleave(64, 1)[:, None])[hidden].square().mean()
        torch.testing.assert_close(out.logs["mean_colour"], wanted)


def test_normalised_patches():
    patch = torch.tensor([[[1.0, 3.0, 5.0, 7.0]]])
    torch.testing.assert_close(deviation(patch), torch.tensor([[[(20 / 3 + 1e-6) ** 0.5]]]))
    torch.testing.assert_close(normalised(patch)[0, 0], torch.tensor([-3.0, -1.0, 1.0, 3.0]) / (20 / 3) ** 0.5)
    assert normalised(torch.full((1, 1, 4), 2.0)).abs().max() == 0
    assert mean_colour(torch.arange(6.0).reshape(1, 1, 6))[0, 0].tolist() == [0.5, 0.5, 2.5, 2.5, 4.5, 4.5]


def test_hidden_pixels_do_not_reach_the_prediction():
    task = sees(lambda spec: MAE(spec, **SMALL_MAE)).eval()
    head, b = task.heads["mim"], pictures()
    shown = head.reconstruct(task.features(b, 0))
    noise = torch.randn(b.pixels.shape) * shown.hidden[:, None]
    again = head.reconstruct(task.features(Batch(pixels=b.pixels + noise, image_id=b.image_id), 0))
    where = shown.hidden[:, None].expand_as(noise)
    torch.testing.assert_close(again.pixels[where], shown.pixels[where])
    b.pixels[:, :, 0, 0] += 5  # of a patch that some picture sees
    moved = head.reconstruct(task.features(b, 0))
    assert (moved.pixels[where] - shown.pixels[where]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("model", "message"), [(vilt_tiny, "MAE needs a model that can leave out"), (vision_tiny, None)]
)
def test_models_that_cannot_are_refused_at_the_start(model, message):
    spec = model(VOCAB).spec if model is vilt_tiny else model().spec
    if message is None:
        with pytest.raises(UserError, match="4 divide the width"):
            MAE(spec, depth=1, width=18, heads=2)
        return
    with pytest.raises(UserError, match=message):
        MAE(spec, **SMALL_MAE)
    with pytest.raises(UserError, match="SimMIM needs a model that can replace"):
        SimMIM(spec, cell=8)


@pytest.mark.parametrize("head", [MAE, SimMIM, BEiT])
def test_a_tower_of_others_hides_no_patches_and_is_refused(head, monkeypatch):
    """As a Swin would have to for SimMIM."""
    make, few = timm.create_model, {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1), "window_size": 4}
    monkeypatch.setattr(timm, "create_model", lambda name, **more: make(name, **few, **more))
    spec = vision(image_size=64, backbone="timm:swin_tiny_patch4_window7_224").spec
    with pytest.raises(
        UserError, match=f"{head.__name__} needs a model that can .* patches of a picture; this one has"
    ):
        head(spec)


# ---- SimMIM -----------------------------------------------------------------------------------------------------


def test_simmim_is_the_absolute_error_of_hidden_pixels():
    task = sees(lambda spec: SimMIM(spec, cell=16))
    f, head = task.features(pictures(), 3), task.heads["mim"]
    out, shown = head(f), head.reconstruct(f)
    hidden = shown.hidden[:, None].expand(-1, 3, -1, -1)
    assert shown.hidden.sum((1, 2)).tolist() == [3 * 256] * 4  # 3 of 4 cells
    error = (shown.pixels - f.batch.pixels).abs()[hidden].sum() / (shown.hidden.sum() + 1e-5) / 3
    torch.testing.assert_close(out.loss, error)
    assert (out.logs["patches_seen"], shown.leaks) == (4, False)
    true = patchify(f.batch.pixels, (8, 8))
    mark = patchify(shown.hidden[:, None].float(), (8, 8)).all(-1)
    guess = torch.stack([t[~h].unflatten(1, (3, 64)).mean((0, 2)) for t, h in zip(true, mark, strict=True)])
    wanted = (true - guess.repeat_interleave(64, 1)[:, None])[mark].abs().mean()
    torch.testing.assert_close(out.logs["mean_colour"], wanted)
    torch.testing.assert_close(out.logs["absolute"], error.detach())
    torch.testing.assert_close(
        absolute_error(torch.ones(1, 2, 6), torch.zeros(1, 2, 6)), torch.tensor(12 / 4.00001 / 3)
    )


def test_simmim_adds_what_was_asked_of_the_squared_error():
    task = sees(lambda spec: SimMIM(spec, cell=16, squared=0.5))
    f, head = task.features(pictures(), 3), task.heads["mim"]
    out, shown = head(f), head.reconstruct(f)
    apart = (shown.pixels - f.batch.pixels)[shown.hidden[:, None].expand(-1, 3, -1, -1)]
    torch.testing.assert_close(out.loss, apart.abs().mean() + 0.5 * apart.square().mean())
    torch.testing.assert_close(out.logs["absolute"], apart.abs().mean().detach())


def test_simmim_names_what_fits():
    spec = vision_tiny().spec
    for wrong in (-0.5, float("nan"), float("inf")):
        with pytest.raises(UserError, match=f"squared={wrong}"):
            SimMIM(spec, cell=8, squared=wrong)
    with pytest.raises(UserError, match="cell=12: no multiple of the patch, 8x8"):
        SimMIM(spec, cell=12)
    with pytest.raises(UserError, match="ratio=1"):
        SimMIM(spec, cell=8, ratio=1)
    task = sees(lambda spec: SimMIM(spec, cell=16))
    with pytest.raises(UserError, match="pictures of 40x40 pixels are no whole cells of 16: take 32x32"):
        task(pictures(side=40), 0)


# ---- BEiT -------------------------------------------------------------------------------------------------------


def test_k_means_finds_groups_and_loses_none():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [50.0, 50.0]])
    points = (centres[:, None] + 0.1 * torch.randn(4, 50, 2, generator=torch.Generator().manual_seed(0))).flatten(0, 1)
    codes = k_means(points, 4, rounds=5)
    near = torch.cdist(centres, codes)
    assert near.min(1).values.max() < 0.1
    assert near.argmin(1).unique().numel() == 4
    assert torch.equal(nearest(points, codes), torch.cdist(points, codes).argmin(1))
    again = k_means(torch.tensor([[1.0], [1.0], [1.0], [2.0]]), 2, rounds=3)
    assert sorted(again.flatten().tolist()) == [1.0, 2.0]


def test_whitened_axes_have_variance_one():
    g = torch.Generator().manual_seed(0)
    patches = torch.randn(500, 6, generator=g) * torch.tensor([5.0, 3.0, 1.0, 0.5, 0.2, 0.1]) + 7
    mean, axes, codes = fitted(patches, 5, axes=3)
    white = (patches - mean) @ axes
    torch.testing.assert_close(white.T @ white / 500, torch.eye(3), atol=1e-4, rtol=0)
    module = PatchCodes(6, 5, axes=3)
    module.put((mean, axes, codes))
    assert torch.equal(module(patches), torch.cdist(white, codes).argmin(1))


def beit_task(sample=64, **options):
    return sees(lambda spec: BEiT(spec, codes=8, sample=sample, axes=12, **options))


def test_beit_counts_nothing_until_the_codes_are_found_which_then_stay():
    task = beit_task()
    head = task.heads["mim"]
    for step in range(2):  # 4 pictures of 16 patches each
        out = task(pictures(seed=step), step)
        assert out.counts["mim"] == (0 if step == 0 else int(head._hidden(task.features(pictures(), 1))[0].sum()))
        assert out.loss == 0 if step == 0 else out.loss > 1
        assert out.logs.get("mim/sample_collected") == (0.0 if step == 0 else None)
        out.loss.backward()
        task.after_step([out.carry])
        assert head.ready
        codes = head.codes.codes.clone()
    assert torch.equal(codes, head.codes.codes)
    assert codes.abs().sum(1).min() > 0
    assert "heads.mim.codes.codes" in task.state_dict()


def test_a_run_that_ends_before_the_codes_are_found_is_refused_at_the_start(tmp_path):
    head = beit_task(sample=129).heads["mim"]  # at most 32 patches of each of 4 pictures: two steps
    with pytest.raises(UserError, match=r"after 2 steps or more \(129 patches.* and this run has 2: it would"):
        head.check_run(2, 4)
    head.check_run(3, 4)
    check_length({"beit": head}, 0, 4)  # by the clock: nobody knows
    beit_task(sample=128).heads["mim"].check_run(2, 4)
    head.queue.pushed = 129
    head.check_run(1, 4)
    small = [*FEW, "heads.beit.codes=16", "heads.beit.sample=384"]
    with pytest.raises(UserError, match=r"heads\.beit: BEiT: the codes are found after 3 steps or more"):
        train(override(load_experiment(f"{CONFIG}:beit(size=48, kinds=8)"), small), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_held_out_is_the_mean_over_all_pictures_and_refuses_what_has_nothing_to_say():
    task = beit_task(sample=64)
    predictor = Predictor(task.model, {"mim": task.heads["mim"]}, None, EvalTransform(size=32), 0)
    source = Scenes(kinds=8, size=32, n=6, split="test")
    measure = HeldOut(source=source, head="mim", batch_size=4)
    with pytest.raises(UserError, match="'mim' counts nothing"):
        measure(predictor)
    task.after_step([task(pictures(), 0).carry])
    found = measure(predictor)
    parts = [HeldOut(source=[source[i] for i in rows], head="mim")(predictor) for rows in (range(4), range(4, 6))]
    counts = []
    for rows in (range(4), range(4, 6)):
        with predictor.inference():
            f = predictor.features([Sample(pixels=predictor.pixels(source[i].image), image_id=i, key="") for i in rows])
            counts.append(predictor.heads["mim"].counts(f))
    assert counts[0] != counts[1]
    for name in ("error", "accuracy", "most_frequent"):
        mean = sum(n * part[name] for n, part in zip(counts, parts, strict=True)) / sum(counts)
        assert math.isclose(found[name], mean, rel_tol=1e-6)
    assert (found["n"], found["chance_accuracy"]) == (6, 1 / 8)
    with pytest.raises(UserError, match=r"no head 'itc' .* such heads: mim"):
        HeldOut(source=source, head="itc").check(predictor)


def test_beit_guesses_the_ids_of_hidden_patches_alone():
    task = beit_task()
    head, b = task.heads["mim"], pictures()
    task.after_step([task(b, 0).carry])
    f = task.features(b, 5)
    out = head(f)
    hidden = head._hidden(f)[0]
    ids = head.codes(patchify(b.pixels, (8, 8)))
    look = f.second_look("beit", hidden=head._hidden(f)[1], by=head.mask)
    logits = head.out(look.tokens.x[:, 1:])
    torch.testing.assert_close(out.loss, F.cross_entropy(logits[hidden], ids[hidden]))
    assert out.count == head.counts(f) == int(hidden.sum())
    torch.testing.assert_close(out.logs["accuracy"], (logits.argmax(-1) == ids)[hidden].float().mean())
    torch.testing.assert_close(out.logs["codes_used"], torch.tensor(len(ids.unique()) / 8))
    most = Counter(ids[hidden].tolist()).most_common(1)[0][1]
    torch.testing.assert_close(out.logs["most_frequent"], torch.tensor(most / int(hidden.sum())))
    share = torch.bincount(ids.flatten(), minlength=8) / ids.numel()
    torch.testing.assert_close(out.logs["perplexity"], (-(share[share > 0] * share[share > 0].log()).sum()).exp())
    assert out.logs["chance_accuracy"] == 1 / 8


def test_beit_hides_75_of_196():
    head = BEiT(vision_tiny(image_size=224, patch=16).spec, codes=4, sample=8)
    hidden = head._hidden(Features(None, Batch(pixels=torch.zeros(8, 0, 224, 224), image_id=torch.arange(8))))[0]
    assert hidden.sum(1).max() == 75
    for wrong in ({"codes": 1}, {"ratio": 1.0}, {"codes": 9, "sample": 8}):
        with pytest.raises(UserError, match="two codes or more"):
            BEiT(vision_tiny().spec, **{"codes": 4, "sample": 8, **wrong})


# ---- together ---------------------------------------------------------------------------------------------------


MIM = {
    "mae": lambda spec: MAE(spec, **SMALL_MAE), "simmim": lambda spec: SimMIM(spec, cell=8),
    "beit": lambda spec: BEiT(spec, codes=8, sample=32, axes=12),
}  # fmt: skip


def test_other_heads_compute_the_same_bits_with_all_three_before_them():
    """ITC, ITM and MLM with their dropout, in training: losses, and what they draw."""
    others = ("itc", "itm", "mlm")

    def losses(names):
        torch.manual_seed(1)
        model = albef_tiny(VOCAB, dropout=0.2, drop_path=0.2)
        heads = {name: (HEADS | MIM)[name](model.spec) for name in (*others, *names)}
        task = Task(model, {name: heads[name] for name in (*names, *others)}, seed=3).train()
        torch.manual_seed(2)
        out = task(batch(6), 1)
        return {name: out.losses[name] for name in others}, out

    (alone, _), (beside, out) = losses(()), losses(tuple(MIM))
    assert all(torch.equal(alone[name], beside[name]) for name in others)
    assert out.losses["mae"] > 0
    assert out.losses["simmim"] > 0
    out.loss.backward()


@pytest.mark.parametrize("name", list(MIM))
def test_every_parameter_learns_and_bf16_changes_little(name):
    task = sees(MIM[name])
    if name == "beit":
        task.after_step([task(pictures(), 0).carry])
    out = task(pictures(), 1)
    out.loss.backward()
    assert not [n for n, p in task.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    with torch.autocast("cpu", torch.bfloat16):
        half = task(pictures(), 1)
    assert half.loss.dtype == torch.float32
    torch.testing.assert_close(half.loss, out.loss, rtol=0.02, atol=0.0)


@pytest.mark.parametrize("name", list(MIM))
def test_two_micro_batches_are_one_batch(name):
    task, whole = sees(MIM[name]), pictures(6)
    if name == "beit":
        task.after_step([task(whole, 0).carry])
    parts = [Batch(pixels=whole.pixels[a:b], image_id=whole.image_id[a:b]) for a, b in ((0, 2), (2, 6))]
    counts = task.count(parts, 1, torch.device("cpu"))
    losses = [task(part, 1, before, counts.totals).loss for part, before in zip(parts, (0, 2), strict=True)]
    torch.testing.assert_close(sum(losses), task(whole, 1).loss)


@pytest.mark.parametrize("name", ["mae", "simmim", "beit", "beside_albef"])
def test_runs_train_and_load(name, tmp_path):
    spec = f"{CONFIG}:{name}(size=48, kinds=8)"
    small = FEW if name == "beside_albef" else [*FEW[:-1], "evals.held_out.source.n=6", "evals.held_out.batch_size=4"]
    if name == "beit":
        small = [*small, "heads.beit.codes=16", "heads.beit.sample=64"]
    metrics = train(override(load_experiment(spec), small), tmp_path / "run", save_model=hub.save)
    assert metrics["step"] == 3
    assert name == "beside_albef" or metrics["held_out.n"] == 6
    again = mmkit.load(tmp_path / "run")
    assert set(again.heads) >= {"mae" if name == "beside_albef" else name}
    if name == "beit":
        assert again.heads["beit"].codes.codes.any()


def test_own_pictures_are_measured_on_those_that_are_kept_out(tmp_path):
    for part, count in (("train", 8), ("test", 3)):
        (tmp_path / part).mkdir()
        for i in range(count):
            Scenes(kinds=8, size=48, plain=True)[i].image.save(tmp_path / part / f"{i}.png")
    spec = f"{CONFIG}:simmim(pictures='{tmp_path}/train', test='{tmp_path}/test', size=48)"
    metrics = train(override(load_experiment(spec), ["run.steps=1", "data.global_batch=4"]), tmp_path / "run")
    assert metrics["held_out.n"] == 3
    assert not load_experiment(f"{CONFIG}:simmim(pictures='{tmp_path}/train')").evals
    with pytest.raises(UserError, match="give pictures= too"):
        load_experiment(f"{CONFIG}:mae(test='x')")


def test_simmim_on_two_cores_begins_to_learn_where_white_is_the_median():
    """Half of the squared error, cells of one patch, relative positions; the other tower where it is asked for."""
    exp = load_experiment(f"{CONFIG}:simmim(size=48)")
    model = exp.model()
    head = exp.heads["simmim"](model.spec)
    assert (head.cell, head.squared, exp.optim.lr) == (12, 0.5, 2e-3)
    assert [len(model.image.blocks), model.image.width, len(model.image.relative)] == [4, 128, 1]
    fixed = load_experiment(f"{CONFIG}:simmim(size=48, cell=24, squared=0.0, relative=False, lr=1e-3)")
    head = fixed.heads["simmim"](model.spec)
    assert (head.cell, head.squared, fixed.optim.lr) == (24, 0, 1e-3)
    assert not hasattr(fixed.model().image, "relative")


def test_the_published_recipes(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("mae_base", "simmim_base", "beit_base"):
        exp = validate(load_experiment(f"{CONFIG}:{name}(pictures='{tmp_path}/a')"), world=8)
        assert dump(rebuild(dump(exp))) == dump(exp)
    exp = load_experiment(f"{CONFIG}:mae_base(pictures='x')")
    assert math.isclose(exp.optim.lr, 2.4e-3)
    assert (exp.optim.betas, exp.optim.weight_decay, exp.data.global_batch) == ((0.9, 0.95), 0.05, 4096)
    assert math.isclose(load_experiment(f"{CONFIG}:simmim_base(pictures='x')").optim.lr, 4e-4)


@pytest.mark.parametrize("name", ["mae", "beit"])
def test_a_stopped_run_goes_on_with_the_same_bits(name, tmp_path):
    """Stopped while BEiT collects patches: the codes are found from those before and after."""
    small = [*FEW, "run.steps=4", "run.log_every_steps=1", "run.precision=no"]
    if name == "beit":
        small += ["heads.beit.codes=16", "heads.beit.sample=160"]  # 64 of a step
    exp = override(load_experiment(f"{CONFIG}:{name}(size=48, kinds=8)"), small)
    train(exp, tmp_path / "whole", save_model=hub.save)
    train(override(exp, ["run.stop_after_steps=2"]), tmp_path / "parts", save_model=hub.save)
    train(exp, tmp_path / "parts", resume=True, save_model=hub.save)
    whole, parts = (load_file(tmp_path / part / "model.safetensors") for part in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    if name == "beit":
        assert whole["heads.beit.codes.codes"].any()
