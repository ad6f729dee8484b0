"""The two 16-bit formats of KV values, FP16 and BF16, as combinational expressions. Twin of the model's
file."""

from amaranth.hdl import Cat, Mux

from ..types import Dtype

EXPONENT_BITS = 8
MANTISSA_BITS = 11
"""With the leading one; BF16 mantissas have their eight bits at the lower end."""


def is_bf16(dtype):
    return dtype == Dtype.BF16


def exponent_mantissa(magnitude, dtype):
    """Exponent and whole mantissa of 15 magnitude bits; subnormals and zero have exponent 1 and no leading
    one."""
    field = Mux(is_bf16(dtype), magnitude[7:15], magnitude[10:15])
    normal = field.any()
    mantissa = Mux(is_bf16(dtype), Cat(magnitude[:7], normal), Cat(magnitude[:10], normal))
    return field | ~normal, mantissa


def is_finite(magnitude, dtype):
    """Whether 15 magnitude bits are neither infinity nor NaN."""
    return ~magnitude[10:15].all() | (is_bf16(dtype) & ~magnitude[7:10].all())


def exponent_field(value, dtype):
    """The exponent's bits of a value, 8 with those that FP16 lacks as zeros."""
    return Mux(is_bf16(dtype), value[7:15], value[10:15])


def exponent_ones(dtype):
    """Exponent of infinities and NaNs."""
    return Mux(is_bf16(dtype), 0xFF, 0x1F)
