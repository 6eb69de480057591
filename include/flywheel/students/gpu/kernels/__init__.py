"""The operations of `reference` on CUDA."""

from flywheel.students.gpu.kernels.attention import attention, attention_backward
from flywheel.students.gpu.kernels.decode import decode_attention
from flywheel.students.gpu.kernels.library import prefix_attention
from flywheel.students.gpu.kernels.lora import lora_a_gradient, lora_down, lora_input_gradient
from flywheel.students.gpu.kernels.matmul import accumulate, matmul
from flywheel.students.gpu.kernels.mlp import swiglu, swiglu_backward
from flywheel.students.gpu.kernels.rowwise import add_norm, cross_entropy, norm_backward, rotate

__all__ = [
    "accumulate",
    "add_norm",
    "attention",
    "attention_backward",
    "cross_entropy",
    "decode_attention",
    "lora_a_gradient",
    "lora_down",
    "lora_input_gradient",
    "matmul",
    "norm_backward",
    "prefix_attention",
    "rotate",
    "swiglu",
    "swiglu_backward",
]
