"""A trained model as graphs that run without mmkit: image tower, text tower and matching, as ONNX.

Each graph takes and gives tensors alone, for any number of pictures of one size (the model's; a square where it keeps
their shape) and for texts of any length up to the model's. Beside them lie the tokenizer and ``export.json``: inputs,
outputs, preprocessing, and how far each written graph was from the model. Left out: answers, written word by word.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmkit.config.as_json import dump
from mmkit.data.images.size import height_width
from mmkit.data.video.opening import reads_clips
from mmkit.encoders.open_clip import OpenClip
from mmkit.errors import UserError
from mmkit.files import check_new_folder, write_json
from mmkit.inference.predictor import Predictor

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Of the largest value of an output; what float32 kernels of several runtimes differ by is a hundredth of it."""

Call = Callable[..., Tensor]


class ImageTower(nn.Module):
    """pixels (B, 3, h, w) float32, normalised -> embeddings (B, E) float32, L2-normalised."""

    inputs, output = ("pixels",), "embeddings"

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.model = predictor.model

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        return self.model.embed_image(self.model.encode_image(pixels))


class TextTower(nn.Module):
    """ids (B, L) int64, mask (B, L) bool, True for tokens -> embeddings (B, E) float32, L2-normalised."""

    inputs, output = ("ids", "mask"), "embeddings"

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.model = predictor.model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """See the class."""
        return self.model.embed_text(self.model.encode_text(ids, mask))


class Match(nn.Module):
    """pixels, ids, mask, as the towers take them -> the probability (B,) float32 that picture i and text i match."""

    inputs, output = ("pixels", "ids", "mask"), "probability"

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.model, self.matcher = predictor.model, predictor.matcher()

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """See the class."""
        context = self.model.image_context(self.model.encode_image(pixels))
        fused = self.model.fuse(self.model.encode_text(ids, mask), [context])
        return self.matcher.match_logits(fused.first).float().softmax(-1)[:, 1]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A file that was written. difference: from the model's output, relative to its largest value."""

    file: Path
    inputs: dict[str, dict[str, Any]]
    output: str
    difference: float


def export(predictor: Predictor, folder: str | Path) -> dict[str, Graph]:
    """Write the graphs that the model can give, by name: "image", "text", "match". The predictor goes to the CPU.

    Needs ``pip install "mmkit[export]"``. UserError where that is missing, the model has none of the parts, the folder
    cannot be written or is not empty, or a graph differs from the model.
    """
    folder = Path(folder)
    check_new_folder(folder)
    parts = _parts(predictor)
    _check_installed()
    predictor.to("cpu")
    graphs: dict[str, Graph] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if predictor.reads_words:
            predictor.tokenizer.save(folder / "tokenizer")
        with predictor.inference(), _quiet():
            for name, part in parts.items():
                graphs[name] = _export(predictor, part.eval(), folder / f"{name}.onnx")
                log.info("%s: differs by %.1e", graphs[name].file, graphs[name].difference)
        write_json(folder / "export.json", _facts(predictor, graphs))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return graphs


def _parts(predictor: Predictor) -> dict[str, Any]:
    if isinstance(predictor.model, OpenClip):
        raise UserError("a model of open_clip's own classes; turn it into mmkit's first: mmkit convert auto ...")
    parts: dict[str, Any] = {}
    if predictor.model.spec.embed_dim:
        parts["image"] = ImageTower(predictor)
    if predictor.model.spec.embed_dim and predictor.reads_words:
        parts["text"] = TextTower(predictor)
    if predictor.can_match():
        parts["match"] = Match(predictor)
    if not parts:
        raise UserError("this model has neither a joint space nor a matching head: there is nothing to export")
    return parts


def _export(predictor: Predictor, part: Any, path: Path) -> Graph:
    example = _inputs(predictor, part.inputs, batch=3, length=predictor.max_tokens)
    batch = torch.export.Dim("batch")
    of_text = {0: batch, 1: torch.export.Dim("length", max=predictor.max_tokens)} if predictor.reads_words else {}
    shapes = {name: {0: batch} if name == "pixels" else of_text for name in part.inputs}
    program = torch.export.export(part, tuple(example.values()), dynamic_shapes=shapes)
    call = _written(program, path)
    difference = 0.0
    for size, tokens in ((3, predictor.max_tokens), (1, predictor.max_tokens), (5, max(2, predictor.max_tokens // 2))):
        given = _inputs(predictor, part.inputs, batch=size, length=tokens)
        wanted = part(**given)
        difference = max(difference, float((call(**given) - wanted).abs().max() / wanted.abs().max()))
    if not difference <= TOLERANCE:
        raise UserError(f"{path}: the graph differs from the model by {difference:.1e} of its largest value")
    inputs = {
        name: {"shape": _shape(name, value, predictor.max_tokens), "dtype": str(value.dtype).removeprefix("torch.")}
        for name, value in example.items()
    }
    return Graph(file=path, inputs=inputs, output=part.output, difference=difference)


def _inputs(predictor: Predictor, names: Sequence[str], *, batch: int, length: int) -> dict[str, Tensor]:
    """Noise of the model's own sizes and frames, the same at each call; the last text is the shortest."""
    draw = torch.Generator().manual_seed(batch)
    transform: Any = predictor.transform
    height, width = height_width(transform.size)
    lengths = torch.linspace(length, max(1, length // 2), batch).long()
    frames = (transform.sampler.frames,) if reads_clips(transform) else ()
    made = {"pixels": torch.randn(batch, 3, *frames, height, width, generator=draw)}
    if predictor.reads_words:
        made["ids"] = torch.randint(predictor.tokenizer.vocab_size, (batch, length), generator=draw)
        made["mask"] = torch.arange(length) < lengths[:, None]
    return {name: made[name] for name in names}


def _shape(name: str, value: Tensor, max_tokens: int) -> list[int | str]:
    return ["batch", *value.shape[1:]] if name == "pixels" else ["batch", f"up to {max_tokens}"]


def _written(program: Any, path: Path) -> Call:
    """The program as a file, and what runs that file."""
    import onnxruntime

    if (made := torch.onnx.export(program, dynamo=True, verbose=False)) is None:
        raise UserError(f"{path}: torch's exporter gave no ONNX program")
    made.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda **given: torch.from_numpy(session.run(None, {k: v.numpy() for k, v in given.items()})[0])


def _check_installed() -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f'{name} is not installed, and the export needs it: pip install "mmkit[export]"')


def _facts(predictor: Predictor, graphs: dict[str, Graph]) -> dict[str, Any]:
    return {
        "graphs": {name: {**vars(graph), "file": graph.file.name} for name, graph in graphs.items()},
        "preprocessing": dump(predictor.transform),
        **({"pad_id": predictor.tokenizer.pad_id} if predictor.reads_words else {}),
        "max_tokens": predictor.max_tokens, "torch": torch.__version__,
    }  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter tells of itself."""
    other = logging.getLogger("torch.onnx")
    level = other.level
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        other.setLevel(logging.ERROR)
        try:
            yield
        finally:
            other.setLevel(level)
