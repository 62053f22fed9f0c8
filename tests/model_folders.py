"""Tiny random models in folders laid out like published ones; no weight is anyone's.

Their weights are spread wide, so that different texts get clearly different vectors and a test that
compares two of them would notice a wrong token, position or pooling.
"""

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

HIDDEN = 32
POSITIONS = 64
SPREAD = 0.3
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 ,.:，。：？"
HAN = "".join(chr(code) for code in range(0x4E00, 0x4E00 + 200)) + "怎么学钢琴为这个句子生成表示问"
OLD, NEW = "sentence_transformers.models", "sentence_transformers.sentence_transformer.modules"
SIZES = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "initializer_range": SPREAD,
}


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def bert(folder: Path, *, layers: int = 2, lowers: bool = True) -> Path:
    """Write a plain Hugging Face BERT: it says nothing of pooling."""
    folder.mkdir(parents=True)
    signs = [c for c in dict.fromkeys(LETTERS + LETTERS.upper() + HAN) if c != " "]
    pieces = [f"##{sign}" for sign in signs if sign.isascii()]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *signs, *pieces]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast(
        vocab=str(folder / "vocab.txt"), do_lower_case=lowers, model_max_length=POSITIONS
    )
    tokenizer.save_pretrained(folder)
    config = transformers.BertConfig(
        **SIZES | {"num_hidden_layers": layers},
        vocab_size=len(words),
        max_position_embeddings=POSITIONS,
    )
    return save_model(transformers.BertModel, config, folder)


def save_model(
    model: type[transformers.PreTrainedModel], config: transformers.PreTrainedConfig, folder: Path
) -> Path:
    torch.manual_seed(7)
    model(config).save_pretrained(folder)
    return folder


def modules(folder: Path, *kinds: str, package: str = OLD) -> None:
    """Write modules.json: the transformer in the folder itself, the others in folders of theirs."""
    listed = [{"idx": 0, "name": "0", "path": "", "type": f"{package}.Transformer"}]
    for i, kind in enumerate(kinds, start=1):
        path = f"{i}_{kind}"
        listed.append({"idx": i, "name": str(i), "path": path, "type": f"{package}.{kind}"})
    write_json(folder / "modules.json", listed)


def pooling(folder: Path, *modes: str, include_prompt: bool | None = None) -> None:
    """Write the pooling as releases before 6 did: a switch for each mode."""
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    names += ("weightedmean_tokens", "lasttoken")
    content = {f"pooling_mode_{name}": name in modes for name in names}
    content |= {"word_embedding_dimension": HIDDEN}
    if include_prompt is not None:
        content["include_prompt"] = include_prompt
    write_json(folder / "1_Pooling" / "config.json", content)


def limit(folder: Path, tokens: int, *, lowers: bool = False) -> None:
    write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": tokens, "do_lower_case": lowers}
    )


def bge(folder: Path) -> Path:
    """BAAI/bge-*-zh-v1.5: the first token, length 1."""
    bert(folder)
    modules(folder, "Pooling", "Normalize")
    pooling(folder, "cls_token")
    limit(folder, 48, lowers=True)
    return folder


def m3e(folder: Path) -> Path:
    """moka-ai/m3e-*: the mean, and a prompt that nobody named."""
    bert(folder)
    modules(folder, "Pooling")
    pooling(folder, "mean_tokens")
    limit(folder, POSITIONS)
    return folder


def text2vec(folder: Path) -> Path:
    """shibing624/text2vec-*: the mean; case is kept by the tokenizer and lowered by the folder."""
    bert(folder, lowers=False)
    modules(folder, "Pooling")
    pooling(folder, "mean_tokens")
    limit(folder, 24, lowers=True)
    return folder


def conan(folder: Path, width: int = 56) -> Path:
    """TencentBAC/Conan-embedding-v1: a wider linear map after the pooling."""
    bert(folder)
    modules(folder, "Pooling", "Dense", "Normalize")
    pooling(folder, "mean_tokens")
    limit(folder, POSITIONS)
    dense(folder / "2_Dense", width)
    return folder


def dense(folder: Path, width: int, **settings: object) -> None:
    torch.manual_seed(8)
    linear = nn.Linear(HIDDEN, width)
    content = {
        "in_features": HIDDEN,
        "out_features": width,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    write_json(folder / "config.json", content | settings)
    weights = {f"linear.{name}": tensor for name, tensor in linear.state_dict().items()}
    save_file(weights, folder / "model.safetensors")


def prompted(folder: Path) -> Path:
    """The layout of release 6: new names, several poolings at once, a prompt for each side."""
    bert(folder)
    modules(folder, "Pooling", "Normalize", package=NEW)
    content = {
        "embedding_dimension": HIDDEN,
        "pooling_mode": ["mean", "max", "lasttoken"],
        "include_prompt": True,
    }
    write_json(folder / "1_Pooling" / "config.json", content)
    prompts = {"query": "query: ", "document": "doc: "}
    general = {"model_type": "SentenceTransformer", "prompts": prompts}
    write_json(folder / "config_sentence_transformers.json", general)
    return folder


def instructor(folder: Path) -> Path:
    """hkunlp/instructor-*: the prompt is read, but left out of the mean."""
    bert(folder)
    modules(folder, "Pooling", "Normalize")
    pooling(folder, "mean_tokens", include_prompt=False)
    limit(folder, POSITIONS)
    prompts = {"query": "为这个句子生成表示：", "passage": ""}
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts})
    return folder


def xlm_roberta(folder: Path) -> Path:
    """BAAI/bge-m3, intfloat/multilingual-e5-*: positions begin behind the padding's."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *dict.fromkeys(LETTERS.strip() + HAN)]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    save_tokenizer(tokenizer, folder, bos="<s>", eos="</s>", pad="<pad>", unk="<unk>", cls="<s>")
    config = transformers.XLMRobertaConfig(
        **SIZES,
        vocab_size=len(pieces),
        max_position_embeddings=POSITIONS + 2,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        type_vocab_size=1,
    )
    save_model(transformers.XLMRobertaModel, config, folder)
    modules(folder, "Pooling", "Normalize")
    pooling(folder, "cls_token")
    limit(folder, POSITIONS)
    return folder


def qwen(folder: Path) -> Path:
    """Qwen/Qwen3-Embedding-*: a causal model whose last token speaks for the text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: number for number, sign in enumerate([*alphabet, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", len(alphabet))]
    )
    save_tokenizer(tokenizer, folder, eos="<|endoftext|>", pad="<|endoftext|>")
    config = transformers.Qwen3Config(
        **SIZES,
        vocab_size=len(vocabulary),
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=POSITIONS,
    )
    save_model(transformers.Qwen3Model, config, folder)
    modules(folder, "Pooling", "Normalize")
    pooling(folder, "lasttoken", include_prompt=True)
    prompts = {"query": "Instruct: find\nQuery:", "document": ""}
    general = {"prompts": prompts, "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", general)
    return folder


def save_tokenizer(tokenizer: Tokenizer, folder: Path, **special: str) -> None:
    names = {f"{name}_token": token for name, token in special.items()}
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=POSITIONS, **names
    )
    fast.save_pretrained(folder)


def distilbert(folder: Path) -> Path:
    """A model whose code takes no explicit positions: it is encoded with padding."""
    bert(folder)
    config = transformers.DistilBertConfig(
        dim=HIDDEN,
        hidden_dim=48,
        n_layers=2,
        n_heads=4,
        vocab_size=transformers.AutoConfig.from_pretrained(folder).vocab_size,
        max_position_embeddings=POSITIONS,
        initializer_range=SPREAD,
    )
    save_model(transformers.DistilBertModel, config, folder)
    modules(folder, "Pooling")
    pooling(folder, "mean_tokens")
    limit(folder, 40)
    return folder


LAYOUTS = (bge, m3e, text2vec, conan, prompted, instructor, xlm_roberta, qwen, distilbert)
