"""Run artifacts for NVIDIA GPUs through the driver alone: no CUDA toolkit, no PyTorch, no TVM."""
