import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from mmkit.config import Optim, Rule, mmkit_rules, muon_rules, official_rules
from mmkit.errors import UserError
from mmkit.train.optim import make_optimizer, of_muon, set_learning_rate, sort_parameters
from mmkit.train.schedule import learning_rate
from tests import examples


def rates(**options):
    settings = dict(lr=1.0, min_lr=0.1, warmup_steps=4, steps=20) | options
    return [learning_rate(step, **settings) for step in range(settings["steps"])]


def test_schedule_goes_up_in_a_line_and_down_in_a_cosine():
    got = rates()
    assert got[:4] == [0.25, 0.5, 0.75, 1.0]
    assert got[11] == pytest.approx((1.0 + 0.1) / 2)
    assert got[-1] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(got[3:]))


def test_schedule_starts_at_the_warmup_rate_and_needs_no_warmup():
    assert rates(warmup_lr=0.2)[0] == pytest.approx(0.4)
    assert rates(warmup_steps=0)[0] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 20)) / 2)


def decay(rules):
    task = examples.task()
    groups = sort_parameters(task, rules)
    return {n: g.rule.weight_decay is None for g in groups for n in g.names}, dict(task.named_parameters())


def test_default_rules_on_the_real_names():
    decays, parameters = decay(mmkit_rules())
    kept = {n for n, p in parameters.items() if p.requires_grad}
    assert decays.keys() == kept
    bare = {n for n, flag in decays.items() if not flag}
    assert {"model.image.cls", "model.image.positions.table", "model.text.embeddings.positions.weight"} <= bare
    assert "model.temperature.value" in bare
    assert all(n in bare for n in kept if parameters[n].ndim <= 1)
    rest = {"model.text.embeddings.words.weight", "model.image.patch.proj.weight", "model.image_proj.weight"}
    assert all(n not in bare for n in rest)
    assert {n for n in bare if parameters[n].ndim > 1} == {
        "model.image.cls", "model.image.positions.table", "model.text.embeddings.positions.weight",
    }  # fmt: skip


def test_official_rules_decay_all_but_rank_one():
    decays, parameters = decay(official_rules())
    assert all(flag == (parameters[n].ndim != 1) for n, flag in decays.items())
    assert decays["model.temperature.value"]


def test_the_first_rule_that_matches_wins_and_scales_the_rate():
    task = examples.task()
    optim = Optim(lr=0.5, min_lr=0.0, rules=(Rule(pattern=r"^model\.image\.", lr_scale=0.1), *mmkit_rules()))
    optimizer = make_optimizer(task, optim)
    set_learning_rate(optimizer, optim, step=0, steps=10, warmup=1)
    by_name = {n: g for g in optimizer.param_groups for n in g["param_names"]}
    assert by_name["model.image.cls"]["lr"] == pytest.approx(0.05)
    assert by_name["model.image.cls"]["weight_decay"] == optim.weight_decay
    assert by_name["model.image_proj.weight"]["lr"] == pytest.approx(0.5)


def test_muon_takes_the_matrices_of_blocks_and_nothing_else():
    task = examples.task()
    optimizer = make_optimizer(task, Optim(rules=muon_rules(3.0)), half=True)
    [own] = [group for group in optimizer.param_groups if "muon" in group]
    shapes = {name: p.ndim for name, p in task.named_parameters() if p.requires_grad and ".blocks." in name}
    assert set(own["param_names"]) == {name for name, ndim in shapes.items() if ndim == 2}
    assert (own["lr_scale"], own["weight_decay"], optimizer.half) == (3.0, 0.02, True)
    assert of_muon(task, muon_rules()) == own["params"]
    assert not of_muon(task, mmkit_rules())
    bare = {g.names: g.rule.weight_decay for g in sort_parameters(task, muon_rules()) if not g.rule.muon}
    plain = {g.names: g.rule.weight_decay for g in sort_parameters(task, mmkit_rules())}
    assert list(bare.items())[:-1] == list(plain.items())[:-1]  # what does not decay is the same


def test_muon_takes_matrices_alone():
    task = examples.task()
    with pytest.raises(UserError, match=r"'norm' is muon, which takes matrices alone; it also takes .*norm1.weight \("):
        make_optimizer(task, Optim(rules=(Rule(pattern="norm", muon=True), *mmkit_rules())))


def test_rules_must_cover_and_be_used():
    task = examples.task()
    with pytest.raises(UserError, match=r"no rule takes .*heads\.itm"):
        sort_parameters(task, [Rule(pattern=r"^model\.")])
    with pytest.raises(UserError, match=r"'vision_tower' takes no parameter"):
        sort_parameters(task, [Rule(pattern="vision_tower"), Rule(pattern="")])
    with pytest.raises(UserError, match="not a regular expression"):
        sort_parameters(task, [Rule(pattern="(")])


def test_freeze_takes_parameters_out():
    task = examples.task()
    optimizer = make_optimizer(task, Optim(rules=(Rule(pattern=r"^model\.image\.", freeze=True), Rule(pattern=""))))
    names = {n for g in optimizer.param_groups for n in g["param_names"]}
    assert not any(n.startswith("model.image.") for n in names)
    assert not any(p.requires_grad for p in task.model.image.parameters())
    with pytest.raises(UserError, match="every parameter is frozen"):
        make_optimizer(examples.task(), Optim(rules=(Rule(pattern="", freeze=True),)))


def test_what_is_set_reaches_adamw():
    rules = (Rule(pattern="bias", weight_decay=0.0), Rule(pattern=""))
    optim = Optim(betas=(0.8, 0.95), eps=1e-5, weight_decay=0.3, lr=0.5, warmup_lr=0.1, min_lr=0.2, rules=rules)
    optimizer = make_optimizer(nn.Linear(2, 2), optim)
    for group, decay in zip(optimizer.param_groups, (0.0, 0.3), strict=True):
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.95), 1e-5, decay)
    assert set_learning_rate(optimizer, optim, step=0, steps=10, warmup=4) == pytest.approx(0.2)
    assert set_learning_rate(optimizer, optim, step=9, steps=10, warmup=4) == pytest.approx(0.2)
    assert set_learning_rate(optimizer, optim, step=8, steps=10, warmup=4) > 0.2


@pytest.mark.parametrize(("layers", "rest"), [(8, ";"), (9, " and 1 more;")])
def test_of_many_names_the_first_eight_are_named(layers, rest):
    with pytest.raises(UserError, match=rf"no rule takes 0\.weight, .*7\.weight{rest}"):
        sort_parameters(nn.Sequential(*[nn.Linear(1, 1, bias=False) for _ in range(layers)]), [])


def test_fused_adamw_is_adamw():
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        layer = nn.Linear(8, 8)
        optimizer = make_optimizer(layer, Optim(lr=0.1, rules=(Rule(pattern=""),)))
        assert optimizer.defaults["fused"] is True
        if not fused:
            optimizer = torch.optim.AdamW(
                layer.parameters(), lr=0.1, betas=(0.9, 0.999), weight_decay=0.02, fused=False
            )
        for _ in range(5):
            layer(torch.ones(2, 8)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append(layer.weight.detach())
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
