"""The rows of ``benchmarks.recipes``: recipes, and the values that are smaller than in them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

SOURCES: Final = (
    "alpaca_zh", "cctv_xwlb", "classical_modern", "laws", "lctt", "lifehacker_zh", "msgraph_zh",
    "weibo_ced",
)  # fmt: skip
PAIRS_OF_EACH: Final = 2000
GRADED: Final = 4000
EVAL_RETRIEVAL: Final = ("cmrc2018", "csl_title_abstract", "qbqtc_graded")
EVAL_STS: Final = ("STSB_zh.test", "PAWSX_zh.test", "AFQMC.dev")
MIN_SCORE: Final = 0.05  # of lexical cosines; the published values are of other teachers
MAX_TOKENS: Final = 48
BASE: Final = {
    "new_model.layers": 2, "new_model.width": 64, "new_model.vocabulary": 6000,
    "new_model.max_tokens": MAX_TOKENS,
}  # fmt: skip
SCORE: Final = {"score.model": '"lexical"', "score.min_score": MIN_SCORE}
# A new model learns little at the rates for published ones.
LR: Final = 1e-3
FINE_LR: Final = 5e-4
# Updates; with the batches below 24,576 pairs for retrieval.
M3E_STEPS: Final = 384  # of 64
GENERAL_STEPS: Final = 32  # of 512
CONAN_GENERAL_STEPS: Final = 256  # of 64
FINE_STEPS: Final = 128  # of 64
PRETRAIN_STEPS: Final = 64  # of 128 passages
STEPS: Final = {
    "m3e": {"train": M3E_STEPS},
    "text2vec": {},  # its five epochs
    "bge-zh": {"pretrain": PRETRAIN_STEPS, "general": GENERAL_STEPS, "train": FINE_STEPS},
    "conan-v1": {"general": CONAN_GENERAL_STEPS, "train": FINE_STEPS},
}
SCALED: Final[Mapping[str, Mapping[str, Any]]] = {
    "m3e": {"train.optimizer.lr": LR},
    "text2vec": {"train.optimizer.lr": LR},
    "bge-zh": SCORE
    | {
        "model.pooling": '"mean"',  # a first token learns nothing in so few steps
        "pretrain.batch": 128, "pretrain.optimizer.lr": LR,
        "general.retrieval.batch": 512, "general.optimizer.lr": LR,
        "train.optimizer.lr": FINE_LR,
    },
    # The recipe's base is the paper's, trained in-batch before: here [general] stands for that.
    "conan-v1": SCORE
    | {
        "general.retrieval.batch": 64, "general.retrieval.temperature": 0.02,
        "general.retrieval.hard_negatives": "false", "general.optimizer.lr": LR,
        "train.optimizer.lr": FINE_LR, "train.negatives.num_negatives": 3,
        "train.negatives.check_every_steps": 25,
        "model.head_width": 112, "train.widths": [16, 32, 48, 64, 80, 96, 112],
    },
}  # fmt: skip
ALL: Final = {"model.max_tokens": MAX_TOKENS}


@dataclass(frozen=True)
class Row:
    """A row of the table: a recipe, with some values of its own.

    ``shared`` is how many stages are those of another run: what is equal is not computed again.
    """

    name: str
    recipe: str
    run: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    shared: tuple[str, int] | None = None


ROWS: Final = (
    Row("m3e", "m3e", "m3e"),
    Row("text2vec", "text2vec", "text2vec"),
    Row("bge-zh", "bge-zh", "bge-zh"),
    Row("conan-v1", "conan-v1", "conan"),
    Row(
        "bge-zh, no hard negatives", "bge-zh", "bge-zh-in-batch",
        {"train.retrieval.hard_negatives": "false"}, ("bge-zh", 5),
    ),
    Row("bge-zh, no score filter", "bge-zh", "bge-zh-unfiltered", {"score.min_score": -1}),
)  # fmt: skip


def changes_of(row: Row, divide: int) -> dict[str, Any]:
    """Return what a row changes of its recipe; ``divide`` is of the updates."""
    steps = {
        f"{stage}.steps": max(2, count // divide) for stage, count in STEPS[row.recipe].items()
    }
    return {**ALL, **steps, **SCALED[row.recipe], **row.changes}


def words_of(changes: Mapping[str, Any]) -> list[str]:
    """Write changes as ``--set`` takes them."""
    return [f"{key}={value}" for key, value in changes.items()]
