"""A folder is read as it was published; what it asks for and nobody does is refused by name."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest

from mining import model_files
from mining.model_folder import read_model_folder
from tests import model_folders
from tests.model_folders import HIDDEN, POSITIONS, write_json

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def conan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module of each kind, not to be changed."""
    return model_folders.conan(tmp_path_factory.mktemp("models") / "conan")


@pytest.fixture
def folder(tmp_path: Path, conan: Path) -> Path:
    """A copy for the test to change."""
    return shutil.copytree(conan, tmp_path / "conan")


def change(path: Path, **settings: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, content | settings)


def test_a_folder_says_how_its_vectors_are_made(folder: Path) -> None:
    change(
        folder / "config_sentence_transformers.json",
        prompts={"query": "q: ", "document": "", "passage": "p: "},
    )
    found = read_model_folder(str(folder))
    assert (found.name, found.pooling, found.max_tokens) == ("conan", ("mean",), POSITIONS)
    assert [head.kind for head in found.heads] == ["Dense", "Normalize"]
    assert found.width == 56
    assert found.normalizes
    assert (found.prompt("query"), found.prompt("passage")) == ("q: ", "p: ")


def test_a_folder_without_pooling_is_refused_unless_the_user_names_it(folder: Path) -> None:
    (folder / "modules.json").unlink()
    shutil.rmtree(folder / "1_Pooling")
    message = r"conan does not say how token vectors become one.*give --pooling: mean .*cls for bge"
    with pytest.raises(ValueError, match=message):
        read_model_folder(str(folder))
    with pytest.raises(ValueError, match=r"no pooling 'average'; .*mean"):
        read_model_folder(str(folder), pooling="average")
    found = read_model_folder(str(folder), pooling="cls")
    assert (found.pooling, found.width) == (("cls",), HIDDEN)


def test_a_published_pooling_is_not_replaced(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"published with pooling mean; --pooling cls would make"):
        read_model_folder(str(folder), pooling="cls")
    assert read_model_folder(str(folder), pooling="mean").pooling == ("mean",)


def test_poolings_of_the_old_layout_are_joined_in_its_order(folder: Path) -> None:
    model_folders.pooling(folder, "mean_tokens", "cls_token")
    change(folder / "2_Dense" / "config.json", in_features=2 * HIDDEN)
    assert read_model_folder(str(folder)).pooling == ("cls", "mean")


def list_modules(folder: Path, **changed: object) -> None:
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules[2] |= changed
    write_json(folder / "modules.json", modules)


def drop(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


def swap_modules(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    write_json(folder / "modules.json", [modules[0], *modules[2:], modules[1]])


BROKEN: list[tuple[Change, str]] = [
    (
        lambda folder: change(folder / "2_Dense" / "config.json", in_features=40),
        r"2_Dense: in_features is 40, but the vectors that reach it are 32 wide",
    ),
    (
        lambda folder: change(folder / "1_Pooling" / "config.json", word_embedding_dimension=768),
        r"1_Pooling: word_embedding_dimension is 768, but .* 32 wide",
    ),
    (
        drop("tokenizer.json", "vocab.txt"),
        r"conan has no tokenizer \(none of tokenizer\.json, .*; copy the tokenizer",
    ),
    (drop("config.json"), r"conan has no config\.json of a transformer$"),
    (
        lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"),
        r"it is an adapter: merge it into its base model first",
    ),
    (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is not JSON"),
    (lambda folder: (folder / "modules.json").write_text("{"), r"modules\.json is not JSON"),
    (
        lambda folder: write_json(folder / "modules.json", []),
        r"has the modules none; an encoder begins with one Transformer and one Pooling",
    ),
    (
        lambda folder: list_modules(folder, type=f"{model_folders.OLD}.WordWeights"),
        r"has a module sentence_transformers\.models\.WordWeights, .*it knows .*Dense",
    ),
    (
        lambda folder: list_modules(folder, type="custom_code.Dense"),
        r"has a module custom_code\.Dense",
    ),
    (
        lambda folder: list_modules(folder, path="../other"),
        r"module path '\.\./other' leads out of it",
    ),
    (swap_modules, r"has the modules Transformer, Dense, Normalize, Pooling; an encoder begins"),
    (
        lambda folder: change(folder / "sentence_bert_config.json", query_expansion={"length": 3}),
        r"sets query_expansion, which this encoder does not know",
    ),
    (
        lambda folder: change(
            folder / "sentence_bert_config.json", model_args={"dtype": "x", "add_pooling_layer": 1}
        ),
        r"sets model_args\.add_pooling_layer, which this encoder does not know",
    ),
    (
        lambda folder: change(folder / "sentence_bert_config.json", transformer_task="fill-mask"),
        r"is for the task fill-mask",
    ),
    (
        lambda folder: change(folder / "1_Pooling" / "config.json", pooling_mode="attention"),
        r"1_Pooling: there is no pooling 'attention'",
    ),
    (
        lambda folder: change(folder / "2_Dense" / "config.json", module_input_name="tokens"),
        r"module_input_name is 'tokens'; it must be sentence_embedding",
    ),
    (
        lambda folder: change(
            folder / "config_sentence_transformers.json", model_type="SparseEncoder"
        ),
        r"is a SparseEncoder, not a SentenceTransformer",
    ),
    (
        lambda folder: change(
            folder / "config_sentence_transformers.json", default_prompt_name="web"
        ),
        r"there is no prompt 'web'",
    ),
    (
        lambda folder: change(folder / "config_sentence_transformers.json", truncate_dim=99),
        r"truncate_dim is 99, but its vectors are 56 wide",
    ),
]


@pytest.mark.parametrize(("breaks", "message"), BROKEN)
def test_what_does_not_fit_is_refused_and_named(breaks, message: str, folder: Path) -> None:
    breaks(folder)
    with pytest.raises(ValueError, match=message):
        read_model_folder(str(folder))


def test_an_activation_is_a_module_class_of_torch(folder: Path) -> None:
    from mining.pooling import load_heads

    for name in ("os.system", "torch.nn.functional.relu", "torch.nn.Parameter"):
        change(folder / "2_Dense" / "config.json", activation_function=name)
        heads = read_model_folder(str(folder)).heads
        with pytest.raises(ValueError, match=f"activation_function is '{name}'; it must be"):
            load_heads(heads)


def test_the_greatest_length_is_the_smallest_that_the_folder_names(folder: Path) -> None:
    model_folders.limit(folder, 20)
    assert read_model_folder(str(folder)).max_tokens == 20
    model_folders.limit(folder, 5_000)
    assert read_model_folder(str(folder)).max_tokens == POSITIONS
    (folder / "sentence_bert_config.json").unlink()
    change(folder / "tokenizer_config.json", model_max_length=int(1e30))
    assert read_model_folder(str(folder)).max_tokens == POSITIONS
    change(folder / "tokenizer_config.json", model_max_length=16)
    assert read_model_folder(str(folder)).max_tokens == 16


def test_the_greatest_length_may_be_replaced_within_the_models_positions(folder: Path) -> None:
    model_folders.limit(folder, 20)
    assert read_model_folder(str(folder), max_tokens=40).max_tokens == 40
    with pytest.raises(ValueError, match=r"max_tokens is 65; the model in .* takes 1 to 64 tokens"):
        read_model_folder(str(folder), max_tokens=POSITIONS + 1)


def test_positions_of_roberta_begin_behind_the_padding(tmp_path: Path) -> None:
    folder = model_folders.xlm_roberta(tmp_path / "xlm")
    change(folder / "sentence_bert_config.json", max_seq_length=None)
    change(folder / "tokenizer_config.json", model_max_length=None)
    assert read_model_folder(str(folder)).max_tokens == POSITIONS


def test_a_revision_is_what_decides_a_vector(folder: Path) -> None:
    revision = read_model_folder(str(folder)).revision
    (folder / "README.md").write_text("words")
    write_json(folder / "trainer_state.json", {"step": 1})
    assert read_model_folder(str(folder)).revision == revision
    seen = {revision}
    for name in ("model.safetensors", "2_Dense/model.safetensors", "vocab.txt"):
        with (folder / name).open("r+b") as stream:
            first = stream.read(1)
            stream.seek(0)
            stream.write(bytes([first[0] ^ 1]))
        seen.add(read_model_folder(str(folder)).revision)
    change(folder / "1_Pooling" / "config.json", include_prompt=False)
    seen.add(read_model_folder(str(folder)).revision)
    assert len(seen) == 5


def test_weights_are_digested_once_until_they_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = folder / "model.safetensors"
    fresh = read_model_folder(str(folder)).revision
    seen = model_files._checksum_of.cache_info()
    read_model_folder(str(folder))
    # Files of this moment are read every time: their times may not tell a next change.
    assert model_files._checksum_of.cache_info() == seen
    monkeypatch.setattr(model_files, "_SETTLED_S", 0.0)
    time.sleep(0.05)
    assert read_model_folder(str(folder)).revision == fresh
    read = model_files._checksum_of.cache_info().misses
    assert read > seen.misses
    assert read_model_folder(str(folder)).revision == fresh
    assert model_files._checksum_of.cache_info().misses == read
    before = weights.stat()
    time.sleep(0.05)
    with weights.open("r+b") as stream:
        stream.seek(before.st_size - 1)
        stream.write(bytes([weights.read_bytes()[-1] ^ 1]))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (
        before.st_size, before.st_mtime_ns,
    )  # fmt: skip
    assert read_model_folder(str(folder)).revision != fresh


def test_a_name_is_looked_up_in_the_hugging_face_cache(
    tmp_path: Path, conan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--TencentBAC--Conan-embedding-v1"
    shutil.copytree(conan, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    found = read_model_folder("TencentBAC/Conan-embedding-v1")
    assert found.name == "Conan-embedding-v1"
    assert found.revision == read_model_folder(str(conan)).revision
    with pytest.raises(ValueError, match=r"'BAAI/bge' is no folder here, is not in the .* cache"):
        read_model_folder("BAAI/bge")


def test_a_path_without_a_folder_is_never_looked_up(tmp_path: Path) -> None:
    for path in ("./nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(ValueError, match=f"there is no model folder at {path}"):
            read_model_folder(path)
