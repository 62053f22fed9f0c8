"""``python -m trainer`` is ``lode train``, for programs that start several processes.

torchrun --nproc_per_node 2 -m trainer conan-v1 --snapshot v1 --out runs/a
torchrun --nproc_per_node 2 -m trainer pretrain retromae --snapshot v1 --out runs/pre
deepspeed --module trainer conan-v1 --snapshot v1 --out runs/a --set engine=deepspeed
"""

import contextlib
import logging
import os
import sys
from collections.abc import Sequence

import typer

from catalog.terminal import fail_with_message
from trainer.commands import pretrain, train


def main(words: Sequence[str] | None = None) -> None:
    """Run the command; the first process speaks for all."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    given = sys.argv[1:] if words is None else words
    # DeepSpeed's launcher adds the number of the process, which it also puts into LOCAL_RANK.
    own = [word for word in given if not word.startswith("--local_rank=")]
    is_pretraining = "pretrain" in own[:1]
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(pretrain if is_pretraining else train)
    own = own[1:] if is_pretraining else own
    with contextlib.ExitStack() as stack:
        if int(os.environ.get("RANK", "0")):
            silent = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(silent))
        with fail_with_message():
            app(own, prog_name="python -m trainer")


if __name__ == "__main__":
    main()
