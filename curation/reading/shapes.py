"""Shapes of records that data sets come in: which names are a query, a positive, a negative."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from curation.reading.fields import FieldPath, Fields

_NAME: Final = re.compile(r"[\s_\-]+")


@dataclass(frozen=True)
class Shape:
    """Two names (after ``normal_name``) that make a pair, and the form of such pairs.

    ``alike``: the sides can be swapped, so that a label beside them is a similarity (sts).
    """

    query: str
    positive: str
    form: str = "text-text"
    alike: bool = False


# The first shape that fits is taken: what is more specific comes first.
SHAPES: Final = (
    Shape("query", "positive"),
    Shape("query", "pos"),
    Shape("anchor", "positive"),
    Shape("query", "positives"),
    Shape("query", "passage"),
    Shape("query", "document"),
    Shape("query", "answer", "question-answer"),
    Shape("query", "response", "prompt-response"),
    Shape("question", "answer", "question-answer"),
    Shape("question", "response", "question-answer"),
    Shape("question", "positive"),
    Shape("question", "documents"),
    Shape("instruction", "output", "prompt-response"),
    Shape("instruction", "response", "prompt-response"),
    Shape("prompt", "response", "prompt-response"),
    Shape("prompt", "completion", "prompt-response"),
    Shape("prompt", "chosen", "prompt-response"),
    Shape("input", "output", "input-output"),
    Shape("title", "content", "title-content"),
    Shape("title", "abstract", "title-content"),
    Shape("title", "body", "title-content"),
    Shape("sentence1", "sentence2", alike=True),
    Shape("sentencea", "sentenceb", alike=True),
    Shape("text1", "text2", alike=True),
    Shape("texta", "textb", alike=True),
    Shape("text", "textpos"),
    Shape("premise", "hypothesis", alike=True),
    Shape("sent1", "sent2", alike=True),
    Shape("s1", "s2", alike=True),
    Shape("问题", "答案", "question-answer"),
    Shape("问题", "回答", "question-answer"),
    Shape("标题", "内容", "title-content"),
    Shape("标题", "正文", "title-content"),
    Shape("指令", "输出", "prompt-response"),
    Shape("输入", "输出", "input-output"),
)
# A second column of the query, where it is there: Alpaca's input belongs to its instruction.
SECOND_QUERY: Final = {"instruction": "input", "指令": "输入"}
NEGATIVES: Final = re.compile(r"(hard)?(neg|negative)s?\d*|textneg|rejected|负例")
LABELS: Final = ("label", "score", "similarity", "similarityscore", "标签")
URLS: Final = ("url", "link", "sourceurl")
DOCUMENT_TEXTS: Final = ("text", "passage", "document", "content", "contents", "内容", "正文")
DOCUMENT_TITLES: Final = ("title", "标题")


@dataclass(frozen=True)
class Guess:
    """How the columns of a file make pairs."""

    kind: str
    fields: Fields
    form: str
    alike: bool


def normal_name(name: str) -> str:
    """Write a column's name as the shapes do: ``Sentence_1`` is sentence1."""
    return _NAME.sub("", name.lower())


def guess_shape(samples: Mapping[str, Sequence[Any]]) -> Guess | None:
    """Choose how columns make pairs by their names and sample values; None where none is known."""
    names = {normal_name(name): name for name in reversed(list(samples))}
    shape = next((one for one in SHAPES if _fits(one, names, samples)), None)
    # A corpus in BEIR's form (_id, title, text) is not a set of pairs of titles and texts.
    if shape is None or ("_id" in samples and shape.form == "title-content"):
        return _guess_documents(names, samples)
    paths = {
        "query": _query(shape, names, samples),
        "positive": (FieldPath(names[shape.positive]),),
    }
    negatives = [name for name in samples if NEGATIVES.fullmatch(normal_name(name))]
    if negatives:
        paths["negatives"] = tuple(FieldPath(name) for name in sorted(negatives, key=_by_number))
    if _is_instructed(samples[names[shape.query]]):
        # MEDI's records: every text is a list of its instruction and itself.
        instruction = (FieldPath(names[shape.query], (0,)),)
        paths = {
            target: tuple(FieldPath(path.column, (1,)) for path in chosen)
            for target, chosen in paths.items()
        } | {"instruction": instruction}
        return Guess("instructed triplet (MEDI)", Fields(paths), shape.form, alike=False)
    paths |= _side_fields(names, samples)
    lists = holds_lists(samples[names[shape.positive]])
    # The query's own instruction: of Lode's exports, or in the ``prompt`` of FlagEmbedding's lines.
    own = names.get("prompt" if lists else "instruction")
    is_own = shape.query == "query" and (lists or shape.positive == "positive")
    if own is not None and is_own and all(isinstance(v, str | None) for v in samples[own]):
        paths["instruction"] = (FieldPath(own),)
    kind = _kind(shape, paths, lists)
    return Guess(kind, Fields(paths, lists), shape.form, shape.alike)


def guess_side_fields(samples: Mapping[str, Sequence[Any]]) -> dict[str, tuple[FieldPath, ...]]:
    """Choose the columns of label and url, which mean the same beside any mapping."""
    return _side_fields({normal_name(name): name for name in reversed(list(samples))}, samples)


def is_alike(query: str, positive: str) -> bool:
    """Say whether two columns are the interchangeable sides of a known shape."""
    sides = {normal_name(query), normal_name(positive)}
    return any(shape.alike and sides == {shape.query, shape.positive} for shape in SHAPES)


def holds_lists(values: Sequence[Any]) -> bool:
    """Say whether sample values are lists."""
    return any(isinstance(value, list) for value in values)


def _fits(shape: Shape, names: Mapping[str, str], samples: Mapping[str, Sequence[Any]]) -> bool:
    return all(
        side in names and any(isinstance(value, str | list) for value in samples[names[side]])
        for side in (shape.query, shape.positive)
    )


def _query(
    shape: Shape, names: Mapping[str, str], samples: Mapping[str, Sequence[Any]]
) -> tuple[FieldPath, ...]:
    first = FieldPath(names[shape.query])
    second = names.get(SECOND_QUERY.get(shape.query, ""))
    if second is None or not any(isinstance(value, str) for value in samples[second]):
        return (first,)
    return (first, FieldPath(second))


def _guess_documents(
    names: Mapping[str, str], samples: Mapping[str, Sequence[Any]]
) -> Guess | None:
    texts = [names[name] for name in DOCUMENT_TEXTS if name in names]
    texts = [name for name in texts if any(isinstance(value, str) for value in samples[name])]
    if not texts:
        return None
    titles = [names[name] for name in DOCUMENT_TITLES if name in names]
    paths = {"positive": tuple(FieldPath(name) for name in [*titles[:1], texts[0]])}
    paths |= {
        target: chosen for target, chosen in _side_fields(names, samples).items() if target == "url"
    }
    return Guess("document", Fields(paths), "text-text", alike=False)


def _side_fields(
    names: Mapping[str, str], samples: Mapping[str, Sequence[Any]]
) -> dict[str, tuple[FieldPath, ...]]:
    fields: dict[str, tuple[FieldPath, ...]] = {}
    label = next((names[name] for name in LABELS if name in names), None)
    if label is not None and _are_numbers(samples[label]):
        fields["label"] = (FieldPath(label),)
    url = next((names[name] for name in URLS if name in names), None)
    if url is not None and all(isinstance(value, str) for value in samples[url]):
        fields["url"] = (FieldPath(url),)
    return fields


def _are_numbers(values: Sequence[Any]) -> bool:
    return bool(values) and all(_is_number(value) for value in values)


def _is_number(value: Any) -> bool:
    if isinstance(value, int | float):
        return True
    try:
        float(value)
    except (TypeError, ValueError):
        return isinstance(value, str) and not value  # CSV writes a missing number so
    return True


def _is_instructed(values: Sequence[Any]) -> bool:
    return bool(values) and all(
        isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)
        for value in values
    )


def _kind(shape: Shape, paths: Mapping[str, object], lists: bool) -> str:
    if lists:
        return "query with lists of passages (FlagEmbedding)"
    if "negatives" in paths:
        return "triplet"
    return "scored pair" if shape.alike and "label" in paths else "pair"


def _by_number(name: str) -> tuple[int, str]:
    digits = re.search(r"\d+$", name)
    return (int(digits.group()) if digits else 0, name)
