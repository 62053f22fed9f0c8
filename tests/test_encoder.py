"""Vectors equal sentence-transformers' on every layout, and do not depend on batches."""

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mining import transformer
from mining.encoder import Encoder, EncoderSettings, VectorError, spec_of
from mining.model_modules import POOLINGS
from mining.pooling import pool
from mining.token_batches import TokenizedTexts, padded_batches, token_batches
from tests import model_folders

sentence_transformers = pytest.importorskip("sentence_transformers")

TEXTS = [
    "怎么学钢琴",
    "",
    "a",
    "Hello World, abc 123",
    "一丁七万丈三上下不与" * 12,  # cut to the greatest length
    "x y z " * 40,
    "怎么学钢琴？ 为这个句子生成表示",
    "ABC钢琴 foo:bar",
]
INSTRUCTION = "为这个句子生成表示："
Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Make each layout once; not to be changed."""
    root = tmp_path_factory.mktemp("models")

    def made(layout: str) -> Path:
        if not (root / layout).exists():
            getattr(model_folders, layout)(root / layout)
        return root / layout

    return made


@pytest.fixture(scope="module")
def peer(folder: Folder) -> Callable[..., object]:
    def loaded(layout: str) -> object:
        return sentence_transformers.SentenceTransformer(str(folder(layout)), device="cpu")

    return loaded


def settings_of(folder: Path, **settings: object) -> EncoderSettings:
    return EncoderSettings(
        str(folder), **{"device": "cpu", "dtype": "float32", "threads": 1} | settings
    )


def load(folder: Path, **settings: object) -> Encoder:
    return Encoder.load(settings_of(folder, **settings))


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return (left * right).sum(axis=1) / lengths


@pytest.mark.parametrize("layout", [layout.__name__ for layout in model_folders.LAYOUTS])
def test_vectors_equal_sentence_transformers(layout: str, folder: Folder, peer) -> None:
    encoder, other = load(folder(layout)), peer(layout)
    for side, encode in (("query", other.encode_query), ("passage", other.encode_document)):
        found = encoder.encode(TEXTS, side)
        assert found.shape == (len(TEXTS), encoder.width)
        assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        assert cosines(found, encode(TEXTS, show_progress_bar=False)).min() > 1 - 1e-5
        # The comparison says nothing where all texts are alike.
        assert (found @ found.T - 2 * np.eye(len(TEXTS))).max() < 0.995


@pytest.mark.parametrize("layout", ["bge", "instructor", "qwen"])
def test_each_side_has_the_instruction_that_the_user_gives(layout, folder, peer) -> None:
    encoder = load(folder(layout), query_instruction=INSTRUCTION, passage_instruction="")
    for side, prompt in (("query", INSTRUCTION), ("passage", "")):
        expected = peer(layout).encode(TEXTS, prompt=prompt, show_progress_bar=False)
        assert cosines(encoder.encode(TEXTS, side), expected).min() > 1 - 1e-5
        assert encoder.spec(side).instruction == prompt


def test_a_prompt_named_by_default_is_put_before_texts_of_both_sides(tmp_path, folder) -> None:
    copy = shutil.copytree(folder("m3e"), tmp_path / "m3e")
    general = {"prompts": {"web": "abc: "}, "default_prompt_name": "web"}
    model_folders.write_json(copy / "config_sentence_transformers.json", general)
    other = sentence_transformers.SentenceTransformer(str(copy), device="cpu")
    expected = other.encode(TEXTS, show_progress_bar=False)
    for side in ("query", "passage"):
        assert cosines(load(copy).encode(TEXTS, side), expected).min() > 1 - 1e-5


@pytest.mark.parametrize("layout", ["bge", "conan", "xlm_roberta", "qwen", "distilbert"])
def test_bfloat16_is_within_a_thousandth_of_float32(layout: str, folder: Folder) -> None:
    fine, coarse = (
        load(folder(layout), dtype=dtype).encode(TEXTS, "query")
        for dtype in ("float32", "bfloat16")
    )
    assert not np.array_equal(fine, coarse)
    assert cosines(fine, coarse).min() > 0.999


@pytest.mark.parametrize("layout", ["bge", "qwen", "distilbert"])
def test_vectors_do_not_depend_on_batches_nor_on_the_order(layout, folder, monkeypatch) -> None:
    expected = load(folder(layout)).encode(TEXTS, "query")
    order = np.random.default_rng(0).permutation(len(TEXTS))
    monkeypatch.setattr(transformer, "CHUNK_TEXTS", 3)
    for batch_tokens in (1, 40, 200):
        encoder = load(folder(layout), batch_tokens=batch_tokens)
        found = encoder.encode([TEXTS[i] for i in order], "query")
        assert np.allclose(found, expected[order], atol=1e-5)


def test_texts_can_be_cut_shorter_than_the_model_would(folder: Folder) -> None:
    encoder = load(folder("bge"), max_tokens=5)
    long, short = encoder.encode(["怎么学钢琴", "怎么学"], "query")
    assert np.allclose(long, short, atol=1e-6)
    assert encoder.spec("query").max_tokens == 5


def test_a_text_without_any_token_gets_zeros(tmp_path: Path, folder: Folder) -> None:
    copy = shutil.copytree(folder("qwen"), tmp_path / "bare")
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    model_folders.write_json(copy / "tokenizer.json", tokenizer | {"post_processor": None})
    model_folders.modules(copy, "Pooling", "Dense")
    model_folders.dense(copy / "2_Dense", 8)  # its bias alone is no meaning
    encoder = load(copy)
    assert not encoder.encode([""], "passage").any()
    found = encoder.encode(["abc", "", "def"], "passage")
    assert found.any(axis=1).tolist() == [True, False, True]
    assert np.allclose(found[0], encoder.encode(["abc"], "passage")[0], atol=1e-6)


def test_no_texts_give_no_vectors(folder: Folder) -> None:
    assert load(folder("bge")).encode([], "query").shape == (0, model_folders.HIDDEN)


def test_a_model_for_the_inner_product_keeps_the_length_of_its_vectors(tmp_path, folder) -> None:
    copy = shutil.copytree(folder("m3e"), tmp_path / "dot")
    model_folders.write_json(
        copy / "config_sentence_transformers.json", {"similarity_fn_name": "dot"}
    )
    other = sentence_transformers.SentenceTransformer(str(copy), device="cpu")
    expected = other.encode(TEXTS, show_progress_bar=False)
    assert np.allclose(load(copy).encode(TEXTS, "query"), expected, atol=1e-4)
    assert np.linalg.norm(expected, axis=1).max() > 1.5


def test_a_model_may_keep_the_first_dimensions_only(tmp_path: Path, folder: Folder) -> None:
    copy = shutil.copytree(folder("conan"), tmp_path / "short")
    model_folders.write_json(copy / "config_sentence_transformers.json", {"truncate_dim": 20})
    other = sentence_transformers.SentenceTransformer(str(copy), device="cpu", truncate_dim=20)
    encoder = load(copy)
    expected = other.encode(TEXTS, show_progress_bar=False)
    assert encoder.width == 20
    assert cosines(encoder.encode(TEXTS, "query"), expected).min() > 1 - 1e-5


def test_progress_counts_every_text(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "CHUNK_TEXTS", 3)
    seen: list[int] = []
    load(folder("bge"), batch_tokens=50).encode(TEXTS, "query", seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == len(TEXTS)


def test_the_number_of_threads_is_set(folder: Folder) -> None:
    before = torch.get_num_threads()
    try:
        load(folder("bge"), threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_specification_needs_no_weights_and_tells_settings_apart(tmp_path, folder) -> None:
    settings = settings_of(folder("bge"))
    assert spec_of(settings, "query") == Encoder.load(settings).spec("query")
    copy = shutil.copytree(folder("bge"), tmp_path / "bge")
    weights = load_file(copy / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][0, 0] += 1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    others = [
        replace(settings, query_instruction=INSTRUCTION),
        replace(settings, max_tokens=8),
        replace(settings, dtype="bfloat16"),
        replace(settings, name="mine"),
        replace(settings, model=str(copy)),
    ]
    specs = [spec_of(other, "query") for other in [settings, *others]]
    assert len({spec.key for spec in specs} | {spec_of(settings, "passage").key}) == 7
    assert specs[0].model == specs[-1].model == "bge"
    with pytest.raises(ValueError, match="no side 'title'; there are: passage, query"):
        spec_of(settings, "title")


@pytest.mark.parametrize("mode", POOLINGS)
@pytest.mark.parametrize("prompt_tokens", [0, 2])
def test_every_pooling_is_sentence_transformers_own(mode: str, prompt_tokens: int) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(0)
    lengths = torch.tensor([5, 3, 9, 4])
    mask = torch.arange(9) < lengths[:, None]
    hidden = torch.randn(4, 9, 6)
    other = Pooling(6, mode, include_prompt=prompt_tokens == 0)
    features = {"token_embeddings": hidden, "attention_mask": mask.long()}
    expected = other(features | {"prompt_length": prompt_tokens})["sentence_embedding"]
    assert torch.allclose(pool(hidden[mask], lengths, [mode], prompt_tokens), expected, atol=1e-6)


def test_pooling_of_no_tokens_gives_zeros() -> None:
    hidden, lengths = torch.randn(3, 6), torch.tensor([0, 3, 0])
    for mode in POOLINGS:
        found = pool(hidden, lengths, [mode])
        assert found.any(dim=1).tolist() == [False, True, False]
        assert not pool(hidden[:0], torch.tensor([0]), [mode]).any()


# What is broken is refused, and named -------------------------------------------------------------


def test_texts_whose_vectors_are_not_finite_are_named(tmp_path: Path, folder: Folder) -> None:
    copy = shutil.copytree(folder("bge"), tmp_path / "broken")
    weights = load_file(copy / "model.safetensors")
    token = load(copy).tokenizer.convert_tokens_to_ids("琴")
    weights["embeddings.word_embeddings.weight"][token] = torch.nan
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        VectorError, match=r"model broken .*3 of 8 texts \(first: 0, 6, 7\)"
    ) as error:
        load(copy).encode(TEXTS, "query")
    assert error.value.positions == [0, 6, 7]
    travelled = pickle.loads(pickle.dumps(error.value))
    assert (str(travelled), travelled.positions) == (str(error.value), [0, 6, 7])


def test_weights_that_are_missing_or_of_another_width_are_refused(tmp_path, folder) -> None:
    copy = shutil.copytree(folder("bge"), tmp_path / "bge")
    weights = load_file(copy / "model.safetensors")
    lost = weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights .*layer\.1\.output\.dense\.weight"):
        load(copy)
    weights["encoder.layer.1.output.dense.weight"] = lost[:, :8].clone()
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"1\.output\.dense\.weight has the shape \(32, 8\)"):
        load(copy)
    (copy / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="cannot load the model in"):
        load(copy)


def test_weights_of_a_dense_layer_must_be_there_and_fit(tmp_path: Path, folder: Folder) -> None:
    copy = shutil.copytree(folder("conan"), tmp_path / "conan")
    file = copy / "2_Dense" / "model.safetensors"
    save_file({"linear.weight": torch.ones(3, 3)}, file)
    with pytest.raises(ValueError, match=r"2_Dense.*does not fit its config\.json"):
        load(copy)
    file.unlink()
    with pytest.raises(ValueError, match=r"2_Dense has no weights"):
        load(copy)


def test_weights_in_a_pickle_are_read(tmp_path: Path, folder: Folder) -> None:
    copy = shutil.copytree(folder("conan"), tmp_path / "pickled")
    for own in (copy, copy / "2_Dense"):
        torch.save(load_file(own / "model.safetensors"), own / "pytorch_model.bin")
        (own / "model.safetensors").unlink()
    expected = load(folder("conan")).encode(TEXTS, "query")
    assert np.array_equal(load(copy).encode(TEXTS, "query"), expected)


@pytest.mark.parametrize("part", [".", "2_Dense"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(part, tmp_path, folder) -> None:
    copy = shutil.copytree(folder("conan"), tmp_path / "evil")
    (copy / part / "model.safetensors").unlink()
    trace = tmp_path / "ran"
    with (copy / part / "pytorch_model.bin").open("wb") as stream:
        torch.save({"linear.weight": _Touch(str(trace))}, stream)
    with pytest.raises(ValueError, match=r"evil.* a pickle .* would run its code; convert"):
        load(copy)
    assert not trace.exists()


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (self.path, "w")


def test_code_in_a_folder_runs_only_where_it_is_trusted(tmp_path: Path, folder: Folder) -> None:
    copy = shutil.copytree(folder("bge"), tmp_path / "coded")
    trace = tmp_path / "ran"
    (copy / "modeling_coded.py").write_text(
        f"open({str(trace)!r}, 'w').close()\n"
        "from transformers import BertConfig as CodedConfig, BertModel as CodedModel\n"
    )
    config = json.loads((copy / "config.json").read_text())
    names = {"AutoConfig": "modeling_coded.CodedConfig", "AutoModel": "modeling_coded.CodedModel"}
    for model_type in ("coded", "bert"):
        model_folders.write_json(
            copy / "config.json", config | {"auto_map": names, "model_type": model_type}
        )
        if model_type == "coded":
            with pytest.raises(ValueError, match=r"(?s)cannot load .*trust_remote_code"):
                load(copy)
        else:  # transformers has the code itself
            load(copy)
        assert not trace.exists()
    assert not EncoderSettings().trust_remote_code


def test_a_device_that_is_not_there_is_refused(folder: Folder) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ValueError, match="torch sees no CUDA device; give cpu"):
        load(folder("bge"), device="cuda")
    with pytest.raises(ValueError, match=r"no device 'tpu'.* there are: cpu, cuda"):
        load(folder("bge"), device="tpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int8"}, "no dtype 'int8'; there are: bfloat16"),
        ({"threads": 0}, "threads is 0; it must be at least 1"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"name": "a/b"}, "model name 'a/b'"),
    ],
)
def test_settings_that_cannot_be_obeyed_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderSettings("model", **settings)


# Batches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [token_batches, padded_batches])
def test_batches_hold_every_text_once_within_the_budget(cut) -> None:
    lengths = np.random.default_rng(0).integers(0, 60, 500)
    batches = cut(lengths, 200)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    longest = [int(lengths[rows].max()) for rows in batches]
    assert longest == sorted(longest, reverse=True)
    for rows in batches:
        used = len(rows) * lengths[rows].max() if cut is padded_batches else lengths[rows].sum()
        assert used <= 200


@pytest.mark.parametrize("cut", [token_batches, padded_batches])
def test_a_text_longer_than_the_budget_is_a_batch_of_its_own(cut) -> None:
    assert [rows.tolist() for rows in cut(np.array([3, 50, 3]), 10)] == [[1], [0, 2]]
    assert cut(np.array([], np.int64), 10) == []


def test_tokens_are_taken_and_padded_as_written_out() -> None:
    texts = TokenizedTexts.of([[1, 2, 3], [], [4]]).take(np.array([2, 1, 0]))
    assert texts.tokens.tolist() == [4, 1, 2, 3]
    assert texts.places().tolist() == [0, 0, 1, 2]
    ids, mask = texts.padded(9)
    assert ids.tolist() == [[4, 9, 9], [9, 9, 9], [1, 2, 3]]
    assert mask.sum(axis=1).tolist() == [1, 0, 3]
