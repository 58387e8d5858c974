"""Every op in plain PyTorch: the fallback on devices without kernels, and a test oracle."""
