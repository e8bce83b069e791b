"""What layouts ask of widths, configs and patches."""

from functools import partial

import pytest
import torch

from mmkit.convert.layouts.layout import Recipe, attention_heads, check_depth, patch_of
from mmkit.errors import UserError


def test_heads_are_one_for_each_64_or_those_given():
    assert attention_heads("image", 192, None) == 3
    assert attention_heads("text", 30, 5) == 5
    assert attention_heads("text", 30, 1) == 1
    with pytest.raises(UserError, match=r"text tower is 96 wide, no multiple of 64: give --text-heads N"):
        attention_heads("text", 96, None)
    for given in (0, -2, 4):
        with pytest.raises(UserError, match=rf"30 wide, which {given} attention heads \(--image-heads"):
            attention_heads("image", 30, given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_hidden_layers": 2}, r"2 layers \(depth\), and the weights have 3"),
        ({"vision_config": {"num_hidden_layers": 5}}, r"5 layers \(image_depth\), and the weights have 4"),
        ({"text_config": {"num_hidden_layers": 4}}, r"4 layers \(text_depth\), and the weights have 5"),
        ({"model_cfg": {"vision_cfg": {"layers": 3}}}, r"3 layers \(image_depth\), and the weights have 4"),
        ({"model_cfg": {"text_cfg": {"layers": 6}}}, r"6 layers \(text_depth\), and the weights have 5"),
    ],
)
def test_a_config_of_more_or_fewer_layers_than_the_weights_have_is_refused(given, said):
    model = partial(dict, depth=3, image_depth=4, text_depth=5)
    recipe = Recipe(
        model=model, heads={}, rows=[], vocab_size=0, transform=torch.zeros, max_tokens=0, tokenizer=""
    )  # fmt: skip
    right = {"num_hidden_layers": 3, "vision_config": {"layers": 4}, "text_config": {"num_hidden_layers": 5}}
    check_depth(recipe, right)
    check_depth(recipe, {"vision_cfg": {"layers": [3, 4, 6, 3]}})  # of a ResNet, in stages
    with pytest.raises(UserError, match=said):
        check_depth(recipe, {**right, **given})


def test_patches_are_square_and_of_three_colours():
    name = "model.image.patch.proj.weight"
    assert patch_of({name: torch.zeros(8, 3 * 16)}) == (4, 4)
    with pytest.raises(UserError, match="reads 24 numbers, no square patch"):
        patch_of({name: torch.zeros(8, 24)})
    with pytest.raises(UserError, match="no image tower that cuts pictures into patches"):
        patch_of({})
