"""The tiny model's files: text to tokens and back, and text that it was not trained on."""

from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

TINYLM = Path(__file__).parents[3] / "sim" / "data" / "tinylm"
"""The tiny language model in the source tree."""


@cache
def _tokenizer():
    return Tokenizer.from_file(str(TINYLM / "tokenizer.json"))


def encode_text(text):
    """Tokens of `text`: a list of ints."""
    return _tokenizer().encode(text).ids


def decode_text(tokens):
    """Text of `tokens` (ints)."""
    return _tokenizer().decode([int(token) for token in tokens])


def heldout_tokens():
    """160,000 tokens of Python source that the model was not trained on: uint16 array."""
    return np.load(TINYLM / "heldout_tokens.npy")


def training_tokens():
    """2.4 million tokens of text that the model was trained on: uint16 array."""
    return np.load(TINYLM / "train_tokens.npy", mmap_mode="r")
