"""Random numbers by counters: the published generator, even, independent, and the same however a step is cut."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from mmkit.cli.main import main
from mmkit.config import override, validate
from mmkit.data.loader import StepSampler
from mmkit.data.openmoji.scenes import Scenes
from mmkit.draws import Draws, philox
from mmkit.errors import UserError
from mmkit.evals.classification import Classification
from mmkit.features import Features
from mmkit.heads.itc import ITC
from mmkit.seeds import SEEDS, check_seed
from mmkit.task import Task
from tests.examples import batch
from tests.sizes import albef_tiny
from tests.train.fakes import change, tiny

ROWS = torch.arange(200)


# ---- the generator ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("counter", "key", "expected"), [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
])  # fmt: skip
def test_the_known_answers_of_its_authors(counter, key, expected, device):
    words = philox(tuple(torch.tensor([word], device=device) for word in counter), key)
    assert tuple(word.item() for word in words) == expected


def test_each_number_depends_on_its_row_and_place_alone():
    whole = Draws((1, 2, "a"), ROWS).words(7, 3)
    assert whole.shape == (200, 7, 3)
    assert torch.equal(Draws((1, 2, "a"), ROWS[50:60]).words(7, 3), whole[50:60])
    assert torch.equal(Draws((1, 2, "a"), ROWS.flip(0)).words(7, 3), whole.flip(0))
    assert torch.equal(Draws((1, 2, "a"), ROWS).words(40).view(200, -1)[:, :21], whole.flatten(1))
    assert Draws((1, 2, "a"), ROWS).words().shape == (200,)
    assert Draws((1, 2, "a"), ROWS[:0]).words(5).shape == (0, 5)
    assert Draws((1, 2, "a"), ROWS).words(0).shape == (200, 0)


def test_they_stay_what_they_are(device):
    """Of this version and of all later ones: a run that goes on after an update draws what it would have drawn."""
    draws = Draws((7, 3, "mine"), torch.tensor([0, 5], device=device))
    assert draws.words(5).tolist() == [
        [2459335842, 2496216087, 2177876748, 2909791135, 1321468619],
        [241438692, 4167434290, 2862876373, 2562661834, 622547800],
    ]
    assert draws.words().tolist() == [453316262, 4053891623]
    near = partial(torch.testing.assert_close, rtol=0, atol=1e-6, check_device=False)
    near(draws.uniform(2), torch.tensor([[0.22248411178588867, 0.7096026539802551], [0.63595444, 0.45209593]]))
    assert draws.integers(1000, 2).tolist() == [[177, 291], [790, 363]]
    near(draws.gumbel(2), torch.tensor([[0.40195623, 0.19754052], [0.54405773, 1.98588717]]))
    near(draws.normal(2), torch.tensor([[1.75231707, 0.1886446], [-0.12153151, -0.38564110]]))
    assert draws.words(4).tolist() != draws.words(4).tolist()


def test_what_is_drawn_next_differs():
    draws = Draws((1, 2, "a"), ROWS)
    found = torch.cat([draws.words(5), draws.words(5), draws.words()[:, None], draws.words(8)], 1)
    assert len(found.unique()) > found.numel() - 3
    again = Draws((1, 2, "a"), ROWS)
    assert torch.equal(again.words(5), found[:, :5])
    assert torch.equal(again.words(5), found[:, 5:10])


# ---- its quality --------------------------------------------------------------------------------------------------


def even(words: torch.Tensor, bins: int = 256) -> bool:
    """Chi-square of the leading and of the trailing bits within five standard deviations."""
    expected = words.numel() / bins
    for part in (words >> 24, words & 255):
        counts = torch.bincount(part.flatten(), minlength=bins).float()
        if abs(float(((counts - expected) ** 2 / expected).sum()) - (bins - 1)) > 5 * math.sqrt(2 * (bins - 1)):
            return False
    return True


def related(a: torch.Tensor, b: torch.Tensor) -> float:
    """Correlation in standard deviations of that of independent numbers."""
    pair = torch.stack([a.flatten(), b.flatten()]).double()
    return float(torch.corrcoef(pair)[0, 1] * math.sqrt(pair.shape[1]))


def test_words_are_even_along_rows_places_steps_seeds_and_names():
    assert even(Draws((0, 0, "a"), torch.arange(50_000)).words())
    assert even(Draws((0, 0, "a"), torch.zeros(1, dtype=torch.int64)).words(50_000))
    assert even(torch.stack([Draws((0, step, "a"), ROWS[:16]).words(8) for step in range(250)]))
    assert even(torch.stack([Draws((seed, 0, "a"), ROWS[:16]).words(8) for seed in range(250)]))
    assert even(torch.stack([Draws((0, 0, f"head {i}"), ROWS[:16]).words(8) for i in range(250)]))


def test_neighbours_are_independent():
    first = Draws((0, 0, "a"), torch.arange(20_000)).uniform(4)
    assert abs(related(first[:-1], first[1:])) < 5
    assert abs(related(first[:, :-1], first[:, 1:])) < 5
    for other in ((0, 0, "b"), (0, 1, "a"), (1, 0, "a"), (2**32, 0, "a"), (0, 2**32, "a"), (2**39, 0, "a")):
        second = Draws(other, torch.arange(20_000)).uniform(4)
        assert abs(related(first, second)) < 5, other
        assert (first == second).float().mean() < 1e-3, other
    bits = (Draws((0, 0, "a"), torch.arange(20_000)).words()[:, None] >> torch.arange(32)) & 1
    square = torch.corrcoef(bits.T.double()) - torch.eye(32)
    assert float(square.abs().max()) * math.sqrt(20_000) < 5.5


def test_no_two_purposes_fold_into_one():
    """Whatever takes its 32 lowest bits, or adds the parts up, gives these the same numbers."""
    purposes = [
        (seed, step, name) for seed in (0, 1, 2**8, 2**16, 2**31, 2**32, 2**32 + 1, SEEDS - 1)
        for step in (0, 1, 2**16, 2**32) for name in ("", "a", "b", "ab", "ba", "a b", "0", "1")
    ]  # fmt: skip
    firsts = {tuple(Draws(purpose, ROWS[:2]).words(2).flatten().tolist()) for purpose in purposes}
    assert len(firsts) == len(purposes)
    assert not torch.equal(Draws((1, 11, "a"), ROWS).words(), Draws((11, 1, "a"), ROWS).words())


def test_uniform_numbers_integers_and_their_edges(monkeypatch):
    uniform = Draws((0, 0, "u"), ROWS).uniform(500)
    assert uniform.dtype == torch.float32
    assert 0 <= uniform.min() < 1e-4
    assert 1 - 1e-4 < uniform.max() < 1
    sides = Draws((0, 0, "i"), ROWS).integers(6, 600)
    share = torch.bincount(sides.flatten(), minlength=6) / sides.numel()
    torch.testing.assert_close(share, torch.full((6,), 1 / 6), atol=0.005, rtol=0)
    assert Draws((0, 0, "i"), ROWS).integers(1, 3).eq(0).all()
    assert Draws((0, 0, "i"), ROWS).integers(2**31, 300).max() > 0.999 * 2**31
    for below in (0, 2**31 + 1):
        with pytest.raises(ValueError, match="integers below"):
            Draws((0, 0, "i"), ROWS).integers(below)
    edges = torch.tensor([[0, 2**32 - 1]])
    monkeypatch.setattr(Draws, "words", lambda self, *shape: edges)
    assert Draws((0,), ROWS[:1]).uniform(1).tolist() == [[0.0, 1 - 2**-24]]
    assert Draws((0,), ROWS[:1]).gumbel(1).isfinite().all()
    assert Draws((0,), ROWS[:1]).integers(7, 1).tolist() == [[0, 6]]


def test_gumbel_and_normal_numbers_follow_their_distributions():
    gumbel = Draws((0, 0, "g"), ROWS).gumbel(1000)
    assert gumbel.dtype == torch.float32
    assert gumbel.mean().item() == pytest.approx(0.5772, abs=0.015)
    assert gumbel.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)
    assert (gumbel > 3).float().mean().item() == pytest.approx(1 - math.exp(-math.exp(-3)), abs=0.002)
    weights = torch.tensor([0.0, 1.0, -torch.inf, 2.0])
    share = torch.bincount((gumbel.view(-1, 4) + weights).argmax(1), minlength=4) / 50_000
    torch.testing.assert_close(share, weights.softmax(0), atol=0.01, rtol=0)
    normal = Draws((0, 0, "n"), ROWS).normal(1000)
    assert normal.dtype == torch.float32
    assert normal.mean().item() == pytest.approx(0, abs=0.01)
    assert normal.std().item() == pytest.approx(1, abs=0.01)
    assert (normal < 1).float().mean().item() == pytest.approx(0.8413, abs=0.005)
    assert abs(related(normal[:, :-1], normal[:, 1:])) < 5


# ---- what heads get -----------------------------------------------------------------------------------------------


class Eight(nn.Module):
    """No model at all."""


def numbers(size: int, before: int, **options) -> torch.Tensor:
    return Features(Eight(), batch(size), 3, seed=5, before=before, **options).random("mine").uniform(4)


def test_the_rows_of_a_step_are_the_same_however_it_is_cut():
    whole = numbers(6, 0)
    assert torch.equal(torch.cat([numbers(2, 0), numbers(3, 2), numbers(1, 5)]), whole)
    assert len(whole.unique()) == whole.numel()  # no two micro-batches draw the same


@pytest.mark.parametrize(("world", "micro"), [(2, 1), (3, 2), (1, 4)])
def test_ranks_and_micro_batches_together_draw_the_rows_of_the_joined_batch(monkeypatch, world, micro):
    size, found, everyone = 2, [], []
    for a in range(micro):
        for rank in range(world):
            for name, value in (("world_size", world), ("rank", rank)):
                monkeypatch.setattr(f"mmkit.features.{name}", lambda value=value: value)
            f = Features(Eight(), batch(size), 3, seed=5, before=a * world * size)
            found.append(f.random("mine").uniform(4))
            everyone.append(f.random("mine", everyone=True).uniform(4))
            assert torch.equal(everyone[-1][f.own], found[-1])
    monkeypatch.undo()
    assert torch.equal(torch.cat(found), numbers(size * world * micro, 0))
    assert torch.equal(torch.cat(everyone[::world]), numbers(size * world * micro, 0))


@pytest.mark.parametrize("everyone", [False, True])
def test_on_every_device_they_are_the_same(device, everyone):
    """Words, uniform numbers and integers to the bit; the others as near as logarithm and cosine are."""
    here, there = (
        Features(Eight(), b, 3, seed=5, before=2**31).random("mine", everyone)
        for b in (batch(64), batch(64).to(device))
    )  # fmt: skip
    for draw in (
        lambda of: of.words(501), lambda of: of.words(2, 3), lambda of: of.uniform(5, 101),
        lambda of: of.integers(2**31, 500), lambda of: of.integers(7), lambda of: of.uniform(),
    ):  # fmt: skip
        found = draw(there)
        assert found.device.type == device.type
        assert torch.equal(found.cpu(), draw(here))
    for draw in (lambda of: of.gumbel(4, 500), lambda of: of.normal(4, 500)):
        torch.testing.assert_close(draw(there).cpu(), draw(here), rtol=1e-6, atol=1e-6)


def test_a_stream_is_its_own_and_begins_anew():
    f = Features(Eight(), batch(), 3, seed=5)
    first = f.random("a").uniform(3)
    f.random("b").uniform(7)
    torch.randn(5)
    assert torch.equal(f.random("a").uniform(3), first)
    assert not torch.equal(f.random("b").uniform(3), first)
    for other in (Features(Eight(), batch(), 4, seed=5), Features(Eight(), batch(), 3, seed=6)):
        assert not torch.equal(other.random("a").uniform(3), first)


def test_the_teacher_draws_what_the_student_draws():
    from tests.examples import task

    f = task().features(batch(), 2, before=12)
    assert torch.equal(f.random("hidden").words(3), f.teacher.random("hidden").words(3))
    assert not torch.equal(f.random("hidden").words(3), task().features(batch(), 2).random("hidden").words(3))
    model = albef_tiny(64)
    other = Task(model, {"itc": ITC(model.spec, 4)}, seed=9).features(batch(), 2, before=12)
    assert torch.equal(other.random("hidden").words(3), other.teacher.random("hidden").words(3))
    assert not torch.equal(f.random("hidden").words(3), other.random("hidden").words(3))


# ---- seeds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [-1, SEEDS, 1764119000123456789, True, 1.0])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(UserError, match=r"seed = .*at least 0 and below 2\*\*40"):
        check_seed(seed, "seed")


def test_the_first_and_the_last_seed_are_taken():
    check_seed(0, "seed")
    check_seed(SEEDS - 1, "seed")


@pytest.mark.parametrize("value", ["-1", "1764119000123456789", str(SEEDS)])
@pytest.mark.parametrize("path", ["run.seed", "data.train.seed", "evals.e.source.seed", "first.run.seed"])
def test_seeds_of_a_config_are_checked_before_anything_is_made(path, value):
    scenes = partial(Scenes, split="train", n=40, seed=1)
    first = tiny()
    exp = change(
        tiny(), data={"train": scenes}, evals={"e": partial(Classification, source=scenes)} if "evals" in path else {},
        **({"first": change(first, subfolder="a"), "tokenizer": None} if "first" in path else {}),
    )  # fmt: skip
    exp = override(exp, [f"{path}={value}"])
    with pytest.raises(UserError, match=rf"{path} = {value}: a seed is"):
        validate(exp, world=1)


def test_seeds_given_elsewhere_are_checked(tmp_path, capsys):
    with pytest.raises(UserError, match="a seed is"):
        StepSampler(10, rank_batch=2, steps=1, seed=-1)
    with pytest.raises(UserError, match="a seed is"):
        Task(nn.Linear(1, 1), {}, momentum=None, seed=-1)
    out = tmp_path / "x.png"
    assert main(["data", "show", "openmoji", "--seed", "-1", "--out", str(out)]) == 2
    assert "--seed = -1: a seed is" in capsys.readouterr().err
    assert not out.exists()
