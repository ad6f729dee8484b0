"""A value with its bits in another order: those that a `lossless` page keeps as they are, around the exponent field.

| bits  | FP16               | BF16           |
|-------|--------------------|----------------|
| 0-7   | mantissa bits 0-7  | mantissa, sign |
| 8-12  | exponent           | exponent       |
| 13-15 | mantissa 8-9, sign | exponent       |
"""

from amaranth.hdl import Cat, Mux

from .float16 import is_bf16

__all__ = ["LOW_BITS", "HIGH_BITS", "to_form", "from_form", "low_of", "high_of", "exponent_of", "is_ones"]

LOW_BITS = 8
HIGH_BITS = 3
"""Of FP16 only."""


def to_form(value, dtype):
    """The 16 bits of a value in this order."""
    return Mux(is_bf16(dtype), Cat(value[:7], value[15], value[7:15]),
               Cat(value[:8], value[10:15], value[8:10], value[15]))


def from_form(form, dtype):
    """Undoes `to_form`."""
    return Mux(is_bf16(dtype), Cat(form[:7], form[8:16], form[7]), Cat(form[:8], form[13:15], form[8:13], form[15]))


def low_of(form):
    return form[:8]


def high_of(form):
    """Meaningless for BF16."""
    return form[13:]


def exponent_of(form, dtype):
    """The exponent field, 8 bits wide."""
    return Cat(form[8:13], Mux(is_bf16(dtype), form[13:], 0))


def is_ones(form, dtype):
    """Whether it is an infinity or NaN."""
    return form[8:13].all() & (~is_bf16(dtype) | form[13:].all())
