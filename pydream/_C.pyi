# ruff: noqa: N999
compiler: str

# build
def available_isas() -> list[str]: ...
def active_isa() -> str: ...
def set_isa(name: str) -> None: ...
def native_bfloat16() -> bool: ...

# crop

# score
def realism_scores(
    logits: int,
    type: str,
    rows: int,
    classes: int,
    stride: int,
    labels: int,
    scores: int,
    threads: int,
) -> None: ...
def select_key_patches(
    scores: int,
    stride: int,
    images: int,
    crops: int,
    labels: int,
    per_class: int,
    classes: int,
    image: int,
    crop: int,
    score: int,
    threads: int,
) -> None: ...
def key_patches(
    logits: int,
    type: str,
    images: int,
    crops: int,
    logit_classes: int,
    stride: int,
    labels: int,
    per_class: int,
    classes: int,
    image: int,
    crop: int,
    score: int,
    threads: int,
) -> None: ...

# collage
def collage(
    patches: int,
    classes: int,
    images: int,
    factor: int,
    channels: int,
    height: int,
    width: int,
    size: int,
    element: int,
    result: int,
    threads: int,
) -> None: ...
