"""A vLLM of the tests' own: a random model of 0.2 MB, made on the spot, behind vLLM's own server.

vLLM lives in an environment of its own; ``LODE_VLLM_PYTHON`` is its Python (``make test-vllm``).
"""

import contextlib
import math
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from curation.synthesis import choices, prompts

VARIABLE = "LODE_VLLM_PYTHON"
MODEL = "tiny"
KEY = "key-of-the-tests-only"
CONTEXT_TOKENS = 4096
READY_S = 600
TEXT_CHARS = 15
PROMPTS = (prompts.SHIPPED, choices.SHIPPED)
# No blanks between the parts of an answer: a random model would write nothing else.
GRAMMAR = '{"backend": "xgrammar", "disable_any_whitespace": true}'
# Control characters are what a grammar should keep out.
CONTROLS = "\t\b\0"
NAMES = ("<|unknown|>", "<|im_start|>", "<|im_end|>")


def make_model(folder: Path) -> Path:
    """Write a Qwen2 with random weights, and a tokenizer of the prompts' single characters."""
    read = "".join(path.read_text() for folder in PROMPTS for path in sorted(folder.glob("*.toml")))
    signs = dict.fromkeys((*NAMES, *map(chr, range(32, 127)), *CONTROLS, *read))
    vocabulary = {sign: number for number, sign in enumerate(signs)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=NAMES[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=NAMES[0],
        pad_token=NAMES[0],
        eos_token=NAMES[2],
        additional_special_tokens=[NAMES[1]],
    )
    fast.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}<|im_start|>assistant\n"
    )
    fast.save_pretrained(folder)
    config = transformers.Qwen2Config(
        vocab_size=len(vocabulary), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(7)
    model = transformers.Qwen2ForCausalLM(config)
    with torch.no_grad():
        # One dimension is the same for every text, so that a weight of it is a bias: all signs are
        # about equally likely, a closing quotation mark so much more that texts are short.
        model.model.embed_tokens.weight[:, 0] = 1
        model.lm_head.weight[:, 0] = 0
        scale = config.hidden_size**0.5
        model.lm_head.weight[vocabulary['"'], 0] = math.log(len(vocabulary) / TEXT_CHARS) / scale
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


class VllmServer:
    """A server on a free port of this machine, which wants a key."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "vllm.log"
        command = [
            os.environ[VARIABLE], "-m", "vllm.entrypoints.openai.api_server",
            "--model", str(make_model(folder / MODEL)), "--served-model-name", MODEL,
            "--enforce-eager", "--host", "127.0.0.1", "--port", str(self.port),
            "--max-model-len", str(CONTEXT_TOKENS), "--structured-outputs-config", GRAMMAR,
        ]  # fmt: skip
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        settings = {
            "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1",
            "VLLM_API_KEY": KEY,
        }  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=kept | settings, cwd=folder, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def wait_until_ready(self) -> None:
        """Return when it answers; RuntimeError says how it ended instead."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"vLLM ended with {self.process.returncode}: {self.said()}")
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
            except OSError:
                time.sleep(0.5)
            else:
                return
        raise RuntimeError(f"vLLM did not answer within {READY_S} s: {self.said()}")

    def said(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-2_000:]

    def finished(self) -> int:
        """Count the requests that it has answered since it started, once none is under way."""
        while True:
            page = urllib.request.urlopen(f"{self.url}/metrics", timeout=30).read().decode()
            running = _sum(page, r"vllm:num_requests_(?:running|waiting)")
            if running == 0:
                return int(_sum(page, r"vllm:request_success_total", 'finished_reason="abort"'))
            time.sleep(0.1)

    def stop(self) -> None:
        """Kill it with its worker processes, as a lost machine does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _sum(page: str, name: str, without: str = "\0") -> float:
    """Add up the values of a metric, but those with a label."""
    found = re.findall(rf"^{name}(\{{.*\}}) (\S+)$", page, re.MULTILINE)
    assert found, f"vLLM reports no {name}"
    return sum(float(value) for labels, value in found if without not in labels)
