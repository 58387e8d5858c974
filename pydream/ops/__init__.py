"""The kernels: one public function per op, on CPU and CUDA."""
