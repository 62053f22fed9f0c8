"""FlagEmbedding's argument names, so that an existing script moves over.

``hn_mine`` is ``mining.flagembedding``; fine-tuning becomes the settings of ``lode train``. What an
argument means there it means here; one that Lode has no use for is said to be left out, one that
would change the result and cannot be obeyed is refused.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from catalog.expressions import unknown_name
from mining.encoder import EncoderSettings
from mining.flagembedding import HnMineSettings

RECIPE: Final = "m3e"  # only tasks and optimizer; every value below is given
# What only says how FlagEmbedding works on its own machine.
UNUSED: Final = frozenset(
    {
        "cache_dir", "cache_path", "token", "overwrite_output_dir", "dataloader_drop_last",
        "dataloader_num_workers", "pad_to_multiple_of", "gradient_checkpointing", "report_to",
        "search_batch_size", "use_gpu_for_searching", "embedder_model_class", "save_total_limit",
        "ddp_find_unused_parameters", "shuffle_ratio", "max_example_num_per_dataset",
        "small_threshold", "drop_threshold", "same_task_within_batch", "save_strategy", "do_train",
        "use_fp16", "batch_size", "normalize_embeddings", "remove_unused_columns",
        "unified_finetuning",
    }
)  # fmt: skip
HN_MINE: Final = {
    "input_file": str, "output_file": str, "candidate_pool": str, "range_for_sampling": str,
    "negative_number": int, "embedder_name_or_path": str, "pooling_method": str, "devices": str,
    "query_instruction_for_retrieval": str, "query_instruction_format_for_retrieval": str,
    "embedder_query_max_length": int, "embedder_passage_max_length": int,
    "trust_remote_code": str, "seed": int,
}  # fmt: skip
FINETUNE: Final = {
    "model_name_or_path": str, "train_data": str, "output_dir": str, "train_group_size": int,
    "query_max_len": int, "passage_max_len": int, "query_instruction_for_retrieval": str,
    "query_instruction_format": str, "passage_instruction_for_retrieval": str,
    "passage_instruction_format": str, "knowledge_distillation": str, "learning_rate": float,
    "num_train_epochs": float, "max_steps": int, "per_device_train_batch_size": int,
    "gradient_accumulation_steps": int, "warmup_ratio": float, "weight_decay": float, "fp16": str,
    "bf16": str, "negatives_cross_device": str, "temperature": float, "seed": int,
    "sentence_pooling_method": str, "sub_batch_size": int, "same_dataset_within_batch": str,
    "logging_steps": int, "save_steps": int, "deepspeed": str, "kd_loss_type": str,
    "lr_scheduler_type": str, "trust_remote_code": str, "max_grad_norm": float,
}  # fmt: skip
_SWITCHES: Final = frozenset(
    {"trust_remote_code", "knowledge_distillation", "fp16", "bf16", "negatives_cross_device",
     "same_dataset_within_batch"}
)  # fmt: skip
_MANY: Final = frozenset({"train_data", "devices"})
_DECAYS: Final = {"linear": "linear", "cosine": "cosine", "constant": "constant",
                  "constant_with_warmup": "constant"}  # fmt: skip


@dataclass(frozen=True)
class FineTuning:
    """A fine-tuning as Lode runs it."""

    model: str
    data: list[str]
    out: Path
    changes: dict[str, Any]


def read_hn_mine(
    words: Sequence[str], say: Callable[[str], None]
) -> tuple[HnMineSettings, EncoderSettings]:
    """Read the words that follow ``hn_mine``; ValueError for one that cannot be obeyed."""
    given = _parse(words, HN_MINE, ("input_file", "output_file", "embedder_name_or_path"), say)
    mining = HnMineSettings(
        Path(given["input_file"]), Path(given["output_file"]),
        Path(given["candidate_pool"]) if "candidate_pool" in given else None,
        _ranks(given.get("range_for_sampling", "10-210")),
        given.get("negative_number", 15), given.get("seed", 0),
    )  # fmt: skip
    instruction = _instruction(
        given, "query_instruction_for_retrieval", "query_instruction_format_for_retrieval"
    )
    lengths = [given.get(f"embedder_{side}_max_length", 512) for side in ("query", "passage")]
    encoder = EncoderSettings(
        given["embedder_name_or_path"], device=given.get("devices", ["fastest"])[0],
        pooling=given.get("pooling_method"), max_tokens=_one_length(lengths, say),
        query_instruction=instruction, trust_remote_code=given.get("trust_remote_code", False),
    )  # fmt: skip
    return mining, encoder


def read_finetune(words: Sequence[str], say: Callable[[str], None]) -> FineTuning:
    """Read the words of a fine-tuning; ValueError for one that cannot be obeyed."""
    given = _parse(words, FINETUNE, ("model_name_or_path", "train_data", "output_dir"), say)
    if given.get("knowledge_distillation"):
        raise ValueError(
            "knowledge_distillation learns from pos_scores and neg_scores of the file, which Lode "
            "does not: ingest and mine with the teacher, and train with retrieval.distillation"
        )
    if given.get("gradient_accumulation_steps", 1) != 1:
        raise ValueError(
            "gradient_accumulation_steps: a batch's negatives would be those of a part of it; give "
            "the whole batch as per_device_train_batch_size, micro-batches are cut by themselves"
        )
    negatives = given.get("train_group_size", 8) - 1
    lengths = [given.get(f"{side}_max_len", 32 if side == "query" else 128)
               for side in ("query", "passage")]  # fmt: skip
    is_gathered = given.get("negatives_cross_device", False)
    changes = {
        "epochs": given.get("num_train_epochs", 3.0),
        "steps": given["max_steps"] if given.get("max_steps", -1) > 0 else None,
        "seed": given.get("seed", 42),
        "precision": "bfloat16" if given.get("bf16") or given.get("fp16") else "float32",
        "engine": "deepspeed" if given.get("deepspeed") else "torch",
        "cached": given.get("sub_batch_size", -1) > 0,
        "log_every": given.get("logging_steps", 500),
        "checkpoint_every": given.get("save_steps", 500),
        "optimizer.lr": given.get("learning_rate", 5e-5),
        "optimizer.warmup": given.get("warmup_ratio", 0.0),
        "optimizer.weight_decay": given.get("weight_decay", 0.0),
        "optimizer.clip": given.get("max_grad_norm", 1.0),
        "optimizer.decay": _decay(given.get("lr_scheduler_type", "linear")),
        "retrieval": {
            "batch": given.get("per_device_train_batch_size", 8),
            "temperature": given.get("temperature", 0.02),
            "columns": "gathered" if is_gathered else "local",
            "hard_negatives": negatives > 0,
            "batch_by": "source" if given.get("same_dataset_within_batch") else "task",
        },
        "negatives": {"rule": "static", "num_negatives": max(negatives, 1)},
        "model.pooling": given.get("sentence_pooling_method", "cls"),
        "model.max_tokens": _one_length(lengths, say),
        "model.query_instruction": _instruction(
            given, "query_instruction_for_retrieval", "query_instruction_format"
        ),
        "model.passage_instruction": _instruction(
            given, "passage_instruction_for_retrieval", "passage_instruction_format"
        ),
        "model.trust_remote_code": given.get("trust_remote_code", False),
    }
    if given.get("fp16"):
        say("fp16: bfloat16 is used, which needs no loss scaling")
    return FineTuning(
        given["model_name_or_path"], given["train_data"], Path(given["output_dir"]),
        {name: value for name, value in changes.items() if value is not None},
    )  # fmt: skip


def _parse(
    words: Sequence[str],
    known: Mapping[str, Callable[[str], Any]],
    needed: Sequence[str],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Read --name value pairs; name the closest known argument for one that is none."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    for name, kind in known.items():
        many = {"nargs": "+"} if name in _MANY else {}
        if name in _SWITCHES:
            parser.add_argument(f"--{name}", nargs="?", const=True, type=_switch)
        else:
            parser.add_argument(f"--{name}", type=kind, **many)  # type: ignore[arg-type]
    for name in sorted(UNUSED):
        parser.add_argument(f"--{name}", nargs="*")
    found, others = parser.parse_known_args(words)
    if others:
        name = others[0].lstrip("-").partition("=")[0]
        raise ValueError(unknown_name("argument", name, sorted(known)))
    given = {name: value for name, value in vars(found).items() if value is not None}
    unused = sorted(UNUSED & set(given))
    if unused:
        say(f"left out, Lode needs none of it: {', '.join(unused)}")
    missing = [name for name in needed if name not in given]
    if missing:
        raise ValueError(f"--{missing[0]} is missing; needed are {', '.join(needed)}")
    return {name: value for name, value in given.items() if name not in UNUSED}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _switch(word: str) -> bool:
    if word.lower() not in ("true", "false", "1", "0"):
        raise ValueError(f"{word!r} is neither True nor False")
    return word.lower() in ("true", "1")


def _ranks(word: str) -> tuple[int, int]:
    start, dash, end = word.partition("-")
    if not (dash and start.isdigit() and end.isdigit()):
        raise ValueError(f"range_for_sampling is {word!r}; write it as 2-200")
    return int(start), int(end)


def _instruction(given: dict[str, Any], text: str, format: str) -> str | None:
    """Return what stands before a text; a format with something after it cannot be obeyed."""
    if text not in given:
        return None
    pattern = given.get(format, "{}{}").replace("\\n", "\n")
    if pattern.count("{}") != 2 or not pattern.endswith("{}"):
        raise ValueError(
            f"{format} is {pattern!r}; Lode puts an instruction before a text: {{}}{{}}"
        )
    return str(pattern[:-2].format(given[text]))


def _one_length(lengths: list[int], say: Callable[[str], None]) -> int:
    if len(set(lengths)) > 1:
        say(f"queries and passages are cut at one length, the greater: {max(lengths)} tokens")
    return max(lengths)


def _decay(word: str) -> str:
    if word not in _DECAYS:
        raise ValueError(unknown_name("lr_scheduler_type", word, sorted(_DECAYS)))
    return _DECAYS[word]
