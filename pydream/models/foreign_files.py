"""Files mistaken for checkpoints: what each of them is, and what to use instead."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

_START = 1024  # first bytes of a file, which identify all these formats

_CONVERT = "convert it to PyTorch, then give the file of torch.save(model.state_dict(), ...)"
# By the first bytes of a file.
_BY_MAGIC = (
    (
        b"version https://git-lfs",
        "is a pointer of Git LFS, not the file itself: run `git lfs pull` in its folder",
    ),
    (b"\x89HDF", f"is an HDF5 file, as Keras writes them: {_CONVERT}"),
    (b"GGUF", f"is a GGUF file of a language model: {_CONVERT}"),
    (b"\x93NUMPY", "is a NumPy array, not the named weights of a network"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it with gunzip or tar -xzf"),
    (b"BZh", "is compressed with bzip2: unpack it with bunzip2"),
    (b"\xfd7zXZ", "is compressed with xz: unpack it with unxz"),
    (b"(\xb5/\xfd", "is compressed with zstd: unpack it with unzstd"),
    (b"7z\xbc\xaf", "is a 7z archive: unpack it"),
    (b"Rar!", "is a RAR archive: unpack it"),
)
_MARKUP = re.compile(rb"\s*<(!doctype\s+html|html|head|\?xml)", re.IGNORECASE)
_TITLE = re.compile(rb"<title>\s*(.*?)\s*<", re.IGNORECASE | re.DOTALL)


def foreign_file(path: Path) -> str | None:
    """Describe a file without weights of PyTorch, and the remedy; None if it may have weights.

    Parameters
    ----------
    path
        A file.

    Returns
    -------
    str or None
        The end of a sentence that begins with the path.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_START)
    if not start:
        return "is empty: copy or download it again"
    for magic, words in _BY_MAGIC:
        if start.startswith(magic):
            return words
    if _MARKUP.match(start):
        title = _TITLE.search(start)
        named = f" ({title[1].decode(errors='replace')[:60]!r})" if title else ""
        return (
            f"is a web page{named}, not the file it was to be: open the link in a browser, and "
            "download the file behind it"
        )
    if start[257:262] == b"ustar":
        return "is a tar archive: unpack it, and give the checkpoint inside"
    if start.lstrip()[:1] in (b"{", b"["):
        return (
            "is JSON text, an index or a configuration: give the file of the weights "
            "(.safetensors, .pt, .pth)"
        )
    if path.suffix == ".onnx" or (start[:1] == b"\x08" and b"pytorch" in start[:64]):
        return (
            "is an ONNX graph: give the file of torch.save(model.state_dict(), ...) of the network "
            "that it was made from"
        )
    return _foreign_zip(path) if start[:2] == b"PK" else None


def foreign_folder(path: Path) -> str:
    """Name the file to use instead of a folder; the end of a sentence that begins with the path."""
    if any(path.glob("*.distcp")) or (path / ".metadata").is_file():
        return (
            "is a distributed checkpoint: join it with `python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pt`"
        )
    if (path / "zero_to_fp32.py").is_file():
        return "is a DeepSpeed checkpoint: join it with the zero_to_fp32.py inside it"
    if (path / "saved_model.pb").is_file():
        return f"is a TensorFlow model: {_CONVERT}"
    inside = sorted(
        file.name for file in path.iterdir() if file.suffix in (".safetensors", ".pt", ".pth")
    )
    if inside:
        return f"is a folder; give a file, for example {path / inside[0]}"
    return "is a folder; give a .safetensors, .pt or .pth file"


def _foreign_zip(path: Path) -> str | None:
    """Describe a zip archive, unless torch.save wrote it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "is cut short or damaged: copy or download it again"
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return (
            "is a TorchScript archive, whose code would run: if you trust it, convert it once: "
            f"torch.save(torch.jit.load({str(path)!r}).state_dict(), 'weights.pt')"
        )
    if "data.pkl" in inner or "data.pkl" in names:
        return None
    if "model.weights.h5" in names:
        return f"is a Keras model: {_CONVERT}"
    if names and all(name.endswith(".npy") for name in names):
        return f"is a NumPy archive: {_CONVERT}"
    shown = f" with {names[0][:60]} in it" if names else ""
    return f"is a zip archive{shown}, not a checkpoint: unpack it, and give the checkpoint inside"
