"""Check whether this build's CUDA kernels run on a GPU, with a reason for the user."""

from __future__ import annotations

from typing import Any


def cuda_version(number: int) -> str | None:
    """Write 13000 as 13.0; None for 0, which means no driver."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def missing_kernels(module: Any, index: int, name: str, capability: tuple[int, int]) -> str | None:
    """Return the reason that a GPU cannot run the kernels, with the remedy; None if it can.

    Parameters
    ----------
    module
        The compiled module, built with CUDA.
    index, name, capability
        Number, name and compute capability of the GPU.
    """
    kernels = module.cuda
    if kernels.has_code_for(index):
        return None
    driver, runtime = kernels.driver_version(), kernels.runtime_version()
    if driver // 1000 < runtime // 1000:  # within one major version, older drivers suffice
        return (
            f"this build of pydream is for CUDA {cuda_version(runtime)}, and the driver of {name} "
            f"for CUDA {cuda_version(driver)}: install a driver for CUDA {runtime // 1000}.0 or "
            f"newer, or pydream again with the nvcc of CUDA {driver // 1000}"
        )
    architecture = f"{capability[0]}{capability[1]}"
    return (
        f"this build of pydream has code for CUDA architectures {module.cuda_architectures}, none "
        f"of which runs on {name} ({architecture}): install it again with "
        f"PYDREAM_CUDA_ARCHS={architecture}"
    )
