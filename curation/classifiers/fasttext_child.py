"""The process that trains a fastText model: python fasttext_child.py OPTIONS.json MODEL."""

import json
import sys
from pathlib import Path

import fasttext


def main(options: Path, model: Path) -> None:
    """Train with the options of a file and save the model."""
    fasttext.train_supervised(**json.loads(options.read_text("utf-8"))).save_model(str(model))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
