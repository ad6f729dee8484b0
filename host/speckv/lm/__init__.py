"""The tiny language model that fills and reads a KV cache: a NumPy decoder, K and V kept where one wants."""

from .coded import CodedStore, Damage
from .model import Llama, generate, score
from .store import ArrayStore, DeviceStore, KVStore
from .text import TINYLM, decode_text, encode_text, heldout_tokens, training_tokens

__all__ = ["Llama", "generate", "score", "ArrayStore", "CodedStore", "Damage", "DeviceStore", "KVStore", "TINYLM",
           "decode_text", "encode_text", "heldout_tokens", "training_tokens"]
