"""The fast path of fine-tuning and answering on an NVIDIA GPU; docs/shared-prefix.md explains it.

The same mathematics as the reference path beside it, as a hand-written forward and backward pass over packed
weights (`layout`, `engine`) with fused kernels (`kernels`); `reference` is each kernel in plain torch, which
the tests run on a CPU.
"""
