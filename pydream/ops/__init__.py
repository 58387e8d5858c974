"""The kernels: one public function per op, on CPU and CUDA."""

from __future__ import annotations

from pydream.ops.crop import crop_resize, random_crop_boxes, random_keys

__all__ = ["crop_resize", "random_crop_boxes", "random_keys"]
