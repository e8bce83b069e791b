"""Where the Hugging Face hub does not answer, open_clip models are looked for in its cache alone, at once."""

import open_clip
import pytest
from huggingface_hub import constants

import mmkit
from mmkit.errors import UserError
from mmkit.hub.open_clip.models import _at_once_without_network
from mmkit.hub.open_clip.name import Name


@pytest.fixture(params=[False, True])
def answers(request, monkeypatch):
    """Whether the hub answers; how often it was asked."""
    asked = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("mmkit.network.hub_answers", lambda: asked.append(1) or request.param)
    return request.param, asked


def test_weights_are_not_asked_for_again_and_again(answers, monkeypatch):
    seen = []

    def download(tag):
        seen.append(constants.HF_HUB_OFFLINE)
        raise OSError("of the server")

    monkeypatch.setattr(open_clip, "download_pretrained", download)
    reason = "of the server" if answers[0] else "the Hugging Face hub cannot be reached"
    with pytest.raises(UserError, match=rf"cannot be fetched \({reason}\)"):
        mmkit.load("open_clip:ViT-B-32/laion2b_s34b_b79k")
    assert seen == [not answers[0]]
    assert constants.HF_HUB_OFFLINE is False


def test_what_is_here_asks_nobody(answers, tmp_path):
    here = (
        Name(spec="", place=f"local-dir:{tmp_path}"),
        Name(spec="", arch="ViT-B-32", file=tmp_path),
        Name(spec="", arch="ViT-B-32", tag="openai", file=tmp_path),
    )
    for name in here:
        with _at_once_without_network(name):
            assert not constants.HF_HUB_OFFLINE
    assert not answers[1]
    there = (
        Name(spec="", place="hf-hub:lab/tiny"),
        Name(spec="", arch="ViT-B-32", tag="openai"),
        Name(spec="", arch="ViT-B-16-SigLIP", file=tmp_path),  # its tokenizer is on the hub
    )
    for name in there:
        with _at_once_without_network(name):
            assert constants.HF_HUB_OFFLINE is not answers[0]
    assert len(answers[1]) == 3
