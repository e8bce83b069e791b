"""A second look: the same pictures with patches hidden, exactly those, and nothing else of the step changes."""

import pytest
import torch

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.nn.positions import GridPositions, sincos_positions
from mmkit.task import Task
from mmkit.types import Batch, Hole
from tests.examples import VOCAB, batch
from tests.sizes import albef_tiny, vilt_tiny, vision_tiny

KEEP = torch.tensor([[3, 0, 9], [15, 4, 5]])
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def of(model, **given):
    return Features(model, Batch(pixels=PIXELS, image_id=torch.arange(2)), **given)


def blocks(tower, x):
    for block in tower.blocks:
        x = block(x)
    return tower.norm(x)


@pytest.mark.parametrize("class_token", [True, False])
def test_patches_that_are_left_out_are_never_encoded(class_token):
    """The blocks read the class token and the kept patches, each with its own position, in the order that was asked."""
    torch.manual_seed(0)
    tower = (model := vision_tiny(class_token=class_token).eval()).image
    first = int(class_token)
    embedded = tower.intermediates(PIXELS, ("embed",))[1]["embed"].x
    kept = torch.stack(
        [row[[*range(first), *(first + i for i in keep.tolist())]] for row, keep in zip(embedded, KEEP, strict=True)]
    )
    look = of(model).second_look("a", keep=KEEP)
    torch.testing.assert_close(look.tokens.x, blocks(tower, kept))
    assert look.tokens.mask is None
    assert look.seen.tolist() == [3, 3]


def test_replaced_patches_have_the_vector_and_their_position():
    torch.manual_seed(0)
    tower = (model := vision_tiny().eval()).image
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    hidden[0, 2], hidden[1, :5] = True, True
    by = torch.randn(32, requires_grad=True)
    patches = tower.patch(PIXELS).masked_scatter(hidden[..., None], by.detach().expand(6, -1))
    embedded = torch.cat([tower.cls.expand(2, -1, -1), patches], 1) + tower.positions((4, 4))
    look = of(model).second_look("a", hidden=hidden, by=by)
    torch.testing.assert_close(look.tokens.x, blocks(tower, embedded))
    assert look.seen.tolist() == [15, 11]
    look.tokens.x.sum().backward()
    assert by.grad.abs().max() > 0


def test_it_is_made_once_for_a_key():
    model = vision_tiny().eval()
    calls = []
    model.image.register_forward_hook(lambda *_: calls.append(1))
    f = of(model)
    assert f.second_look("a", keep=KEEP) is f.second_look("a", keep=KEEP)
    assert len(calls) == 1
    f.second_look("b", keep=KEEP)
    assert len(calls) == 2
    with pytest.raises(ValueError, match="'a' is there, with other patches hidden"):
        f.second_look("a", keep=KEEP + 0)
    with pytest.raises(ValueError, match="'a' is there"):
        f.second_look("a", hidden=torch.ones(2, 16, dtype=torch.bool), by=torch.zeros(32))


def test_other_views_and_their_dropout_stay_as_they_are():
    """In training, whoever asks first; and the numbers of a second look follow from seed, step and key."""
    model = vision_tiny(dropout=0.3, drop_path=0.3).train()

    def seen(first, step=0, key="a"):
        torch.manual_seed(5)
        f = of(model, step=step, seed=1)
        look = f.second_look(key, keep=KEEP).tokens.x if first else None
        return f.image.x, look, torch.rand(1)

    (plain, _, after), (image, look, after_look) = seen(False), seen(True)
    assert torch.equal(plain, image)
    assert torch.equal(after, after_look)
    assert torch.equal(look, seen(True)[1])
    assert not torch.equal(look, seen(True, step=1)[1])
    assert not torch.equal(look, seen(True, key="b")[1])


def test_chunks_and_the_teacher_see_the_same():
    torch.manual_seed(0)
    task = Task(albef_tiny(VOCAB), {}, alpha=0.4).eval()
    b = batch(4)
    keep = torch.rand(4, 16).argsort(1)[:, :4]
    hidden = torch.rand(4, 16) < 0.5
    by = torch.randn(32)
    f, cut = task.features(b, 0), Features(task.model, b, chunks=2)
    for given in ({"keep": keep}, {"hidden": hidden, "by": by}):
        key = min(given)
        look = f.second_look(key, **given).tokens.x
        torch.testing.assert_close(cut.second_look(key, **given).tokens.x, look)
        assert torch.equal(f.teacher.second_look(key, **given).tokens.x, look)


def test_patch_dropout_is_off():
    model = vision_tiny().train()
    model.image.patch_dropout = 0.5
    assert of(model).second_look("a", keep=KEEP).tokens.x.shape == (2, 4, 32)
    hidden = torch.ones(2, 16, dtype=torch.bool)
    assert of(model).second_look("a", hidden=hidden, by=torch.zeros(32)).tokens.x.shape == (2, 17, 32)


def test_models_that_cannot_say_so():
    assert albef_tiny(VOCAB).spec.hides == vision_tiny().spec.hides == ("leave out", "replace")
    with pytest.raises(UserError, match="leave out patches of a picture; this one has no image tower that could"):
        of(vilt_tiny(VOCAB)).second_look("a", keep=KEEP)


def test_what_makes_no_sense_is_refused():
    hidden = torch.ones(2, 16, dtype=torch.bool)
    for given in ({}, {"keep": KEEP, "hidden": hidden, "by": PIXELS}, {"hidden": hidden}, {"keep": KEEP, "by": PIXELS}):
        with pytest.raises(ValueError, match="`keep`, to leave patches out"):
            Hole(**given)
    with pytest.raises(ValueError, match="nothing to see"):
        Hole(keep=KEEP[:, :0])
    with pytest.raises(ValueError, match="hidden patches"):
        of(vision_tiny()).second_look("a", hidden=hidden[:, 1:], by=torch.zeros(32))


def test_fixed_positions_by_their_formula():
    table = sincos_positions((2, 3), 8, prefix=1)
    assert table.dtype == torch.float32
    assert table[0].abs().max() == 0
    x, y = 2, 1  # the last cell: column 2 of row 1
    speeds = torch.tensor([1.0, 10000**-0.5], dtype=torch.float64)
    wanted = torch.cat([(speeds * x).sin(), (speeds * x).cos(), (speeds * y).sin(), (speeds * y).cos()])
    torch.testing.assert_close(table[1 + 3 * y + x], wanted.float())
    with pytest.raises(UserError, match="4 divide the width"):
        sincos_positions((2, 2), 6)
    with pytest.raises(UserError, match="3 axes"):
        sincos_positions((2, 2, 2), 8)


def test_fixed_positions_are_not_trained_and_load_as_learned_ones():
    fixed = GridPositions((2, 2), 8, fixed=True)
    assert not fixed.table.requires_grad
    learned = GridPositions((2, 2), 8)
    learned.load_state_dict(fixed.state_dict())
    assert learned.table.requires_grad
    assert torch.equal(learned((2, 2)), sincos_positions((2, 2), 8, prefix=1))
    tower = vision_tiny(fixed_positions=True).image
    assert torch.equal(tower.positions.table, sincos_positions((4, 4), 32, prefix=1))
    assert "fixed_positions" not in tower.form  # fine-tuning trains them, as MAE's does
