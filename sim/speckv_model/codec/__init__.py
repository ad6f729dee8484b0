"""Page codecs: what is stored of a sealed page. The formats are in ``docs/format.md``."""

from .codec import CODECS, decode, decode_pages, encode, encode_pages, is_setting

__all__ = ["CODECS", "decode", "decode_pages", "encode", "encode_pages", "is_setting"]
