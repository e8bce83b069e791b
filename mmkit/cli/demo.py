"""``mmkit demo``: a page to try a model on, in a browser."""

from __future__ import annotations

import argparse
import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.cli.evaluate import add_model_choice
from mmkit.cli.main import add_command
from mmkit.errors import UserError

if TYPE_CHECKING:
    from mmkit.cli.main import Commands
    from mmkit.inference.predictor import Predictor

log = logging.getLogger("mmkit")


def register(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "demo", "a page to try a model on, in a browser", run)
    add_model_choice(command)
    command.add_argument("--images", metavar="FOLDER", help="pictures to find by words (default: the visitor's own)")
    command.add_argument("--language", choices=("en", "zh"), default="en", help="of the first page; both are there")
    command.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 lets the network see it (default 127.0.0.1: this machine)"
    )
    command.add_argument("--port", type=int, help="default: the first free one from 7860")
    command.add_argument("--share", action="store_true", help="also by a public address of Gradio's, for three days")
    command.add_argument("--device", help="default: cuda where there is one, else cpu")


def run(args: argparse.Namespace) -> None:
    """Serve until Ctrl-C."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError('the page needs Gradio: pip install "mmkit[page]"')
    if args.port is not None and not 0 < args.port < 65536:
        raise UserError(f"--port {args.port}: 1 to 65535")
    from mmkit.page.shelf import pictures_in

    shelf = None if args.images is None else pictures_in(args.images)
    models = load_models(args.model, args.device, args.image_size, args.allow)
    from mmkit.page.app import launch, make_page
    from mmkit.page.projects import tabs_of

    page = make_page(
        models, title=Path(args.model).name, shelf=shelf, tabs=tabs_of(models), first=args.language
    )  # fmt: skip
    try:
        _, here, public = launch(page, host=args.host, port=args.port, share=args.share, prevent_thread_lock=True)
    except OSError as error:
        raise UserError(f"--host {args.host}, --port {args.port}: the page cannot be served there ({error})") from error
    log.info("the page is at %s%s; Ctrl-C ends it", here, f" and {public}" if public else "")
    page.block_thread()


def load_models(model: str, device: str | None, image_size: Any, allow: list[str]) -> list[Predictor]:
    """The model, and those in its folder that were trained from it, as a quickstart's ``vqa``."""
    import mmkit
    from mmkit.hub.files import CONFIG, is_ours
    from mmkit.train.setup import on_cpu

    device = device or ("cpu" if on_cpu() else "cuda")
    inside = [path.parent for path in sorted(Path(model).glob(f"*/{CONFIG}")) if path.parent.name != "best"]
    places = [model, *(str(place) for place in inside if is_ours(place))]
    return [mmkit.load(place, device=device, image_size=image_size, allow=allow) for place in places]
