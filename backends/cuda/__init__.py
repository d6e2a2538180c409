"""The CUDA backend: Programs become our own kernels for NVIDIA GPUs, compiled by nvcc on machines that need no GPU."""
