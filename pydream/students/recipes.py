"""The published recipes, as data.

Numbers of recipes with the evidence ``"code"`` were read in the code that `source` names. The
others come from the paper or from what others say of it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping

from pydream.errors import PydreamError
from pydream.students.recipe_tables import MixRule, Recipe, SpecialCase

RDED = Recipe(
    name="rded",
    source="arXiv 2312.03526, section 5.1 and appendix; github.com/LINs-lab/RDED",
    evidence="code",
    reported="best of the last fifth",
    epochs=300,
    batch_sizes={1: 10, 10: 50, 50: 100},
    batch_multiples={10: 1, 100: 2, 1000: 2},
    learning_rate=0.001,
    learning_rates={
        "mobilenet_v2": 0.0025,
        "mobilenetv2": 0.0025,
        "efficientnet_b0": 0.002,
        "vit": 0.0001,
        "swin": 0.0001,
        "alexnet": 0.0001,
    },
    special_cases=(
        SpecialCase(num_classes=200, side=64, batch_size=100),
        SpecialCase(
            num_classes=100, side=32, student="convnet3", batch_size=25, learning_rate=0.002
        ),
    ),
    optimizer="adamw",
    schedule="half-cosine",
    betas=(0.9, 0.999),
    momentum=0.0,
    weight_decay=0.01,
    views="crop",
    crop_ratio=(3 / 4, 4 / 3),
    horizontal_flip=True,
    mix="cutmix",
    mix_probability=1.0,
    mixes={"cutmix": MixRule(1.0, 20.0), "mixup": MixRule(0.8, 4.0)},
    best_of_last=0.2,
)
"""Recipe of RDED."""

IDC = Recipe(
    name="idc",
    source="IDC (ICML 2022), github.com/snu-mllab/Efficient-Dataset-Condensation; "
    "arXiv 2310.15052, section 4.1",
    evidence="code",
    reported="last epoch",
    remarks="the temperatures, for soft labels, are RDED's",
    labels="hard",
    epochs=1000,
    batch_sizes={1: 64},
    batch_multiples={10: 1},
    learning_rate=0.01,
    learning_rates={},
    special_cases=(),
    optimizer="sgd",
    schedule="steps",
    betas=(0.9, 0.999),
    momentum=0.9,
    weight_decay=5e-4,
    views="dsa",
    crop_ratio=(3 / 4, 4 / 3),
    horizontal_flip=True,
    mix="cutmix",
    mix_probability=0.5,
    mixes=RDED.mixes,
    best_of_last=0.0,
)
"""Recipe of IDC, by which DREAM and DREAM+ are measured."""

CELLS = dataclasses.replace(
    RDED,
    name="cells",
    source="pydream: RDED's numbers",
    evidence="code",
    reported="last epoch",
    schedule="steps",
    views="dsa",
    best_of_last=0.0,
)
"""RDED's recipe, but on enlarged cells, and with a learning rate that falls twice. Under RDED's
schedule, which ends at half the rate, accuracy still varies by some points from epoch to epoch."""

RD3 = dataclasses.replace(
    RDED,
    name="rd3",
    source="arXiv 2509.19743 (ICLR 2026); github.com/ndhg1213/RD3",
    evidence="notes",
    reported="last epoch",
    remarks="the authors' code was not read, and what they report is not known",
    epochs=400,
    batch_sizes={1: 50},
    batch_multiples={10: 1},
    learning_rates={},
    special_cases=(SpecialCase(student="resnet18", schedule="cosine"),),
    weight_decay=0.0,  # Adam
    best_of_last=0.0,
)
"""Recipe of RD³, one protocol for sets of all methods: labels of one ResNet-18, Adam."""

EDC = dataclasses.replace(
    RDED,
    name="edc",
    source="arXiv 2404.13733; github.com/shaoshitong/EDC, Branch_full_ImageNet_1k",
    evidence="code",
    reported="best, of the averaged weights",
    remarks="for CIFAR-10 the code has other numbers: 1000 epochs, RandAugment, crops from 0.08, "
    "halves of the rate after 80, 90 and 95 % of the epochs, 8 observers",
    batch_sizes={1: 100},
    batch_multiples={10: 1},
    learning_rates={},
    special_cases=(),
    loss="mse",
    hard_weight=0.025,
    least_observers=4,
    ema_decay=0.99,
    best_of_last=1.0,
)
"""Recipe of EDC for ImageNet-1K: logits of four observers, and averaged weights."""

SRE2L = dataclasses.replace(
    RDED,
    name="sre2l",
    source="arXiv 2306.13092; github.com/VILA-Lab/SRe2L, SRe2L/validate",
    evidence="code",
    reported="best",
    remarks="labels are stored, as float16, for half a batch at a time, with which the student's "
    "batch norms normalise, too; for CIFAR the code has other numbers",
    batch_sizes={1: 1024},
    batch_multiples={10: 1},
    learning_rates={},
    special_cases=(),
    schedule="cosine",
    shuffle=False,
    crop_scale=(0.08, 1.0),
    best_of_last=1.0,
)
"""Recipe of SRe²L for ImageNet-1K."""

FADRM = dataclasses.replace(
    SRE2L,
    name="fadrm",
    source="arXiv 2506.24125; github.com/Jiacheng8/FADRM (as CV-DD and HALD)",
    evidence="code",
    reported="best",
    remarks="observers and student see half a batch at a time; FADRM+ asks three or four "
    "observers, their logits averaged; rates of ResNet-50 and "
    "ResNet-101 differ by image set; the code can check the last fifth only",
    batch_sizes={1: 16},
    schedule="half-cosine",
    special_cases=(
        SpecialCase(per_class=(22.5, math.inf), schedule="cosine"),
        SpecialCase(num_classes=100, side=32, epochs=1000),
    ),
    batch_statistics=True,
    best_of_last=1.0,
)
"""Recipe of FADRM: labels of observers whose batch norms see the batch."""

RETHINKDC = dataclasses.replace(
    SRE2L,
    name="rethinkdc",
    source="pypi.org/project/rethinkdc, 0.3.2: dc_config, train_KD.py",
    evidence="code",
    reported="best",
    remarks="the code checks once in 50 epochs",
    batch_sizes={1: 128},
    mixes_hard=False,
)
"""Recipe of "Rethinking large-scale dataset compression", with soft or hard labels."""

DELT = dataclasses.replace(
    RDED,
    name="delt",
    source="arXiv 2411.19946; github.com/VILA-Lab/DELT, evaluation and scripts",
    evidence="code",
    reported="best",
    remarks="the code has timm's RandAugment, rand-m6-n2-mstd1.0, whose magnitude varies",
    shuffle=False,
    crop_scale=(0.25, 1.0),
    rand_augment=(2, 6),
    best_of_last=1.0,
)
"""Recipe of DELT."""

# Least area of a crop, and batch size, by images per class; for classes and sides of image sets.
_BPS_NUMBERS: Mapping[tuple[int, int], Mapping[int, tuple[float, int]]] = {
    (10, 32): {
        10: (0.1, 16),
        50: (0.2, 16),
        100: (0.2, 32),
        250: (0.4, 32),
        500: (0.6, 64),
        1000: (0.9, 128),
        1500: (1.0, 128),
    },
    (100, 32): {10: (0.2, 32), 25: (0.4, 32), 50: (0.6, 64), 100: (0.9, 128), 150: (1.0, 128)},
    (200, 64): {10: (0.2, 32), 50: (0.6, 64), 100: (0.9, 128)},
    (1000, 224): {10: (0.2, 128), 50: (0.2, 256), 100: (0.2, 512)},
}


def _bps_cases() -> Iterator[SpecialCase]:
    """Yield the numbers of BPS, each for the numbers of images per class nearest to it in ratio."""
    for (num_classes, side), by_count in _BPS_NUMBERS.items():
        halfway = (math.sqrt(one * next_one) for one, next_one in itertools.pairwise(by_count))
        ranges = itertools.pairwise((0.0, *halfway, math.inf))
        for per_class, (least, batch_size) in zip(ranges, by_count.values(), strict=True):
            yield SpecialCase(
                num_classes=num_classes,
                side=side,
                per_class=per_class,
                crop_scale=(least, 1.0),
                batch_size=batch_size,
            )


BPS = dataclasses.replace(
    SRE2L,
    name="bps",
    source="BPS (CVPR 2026); github.com/BeCarefulOfYournaoke/BPS, stage3_training.py",
    evidence="code",
    reported="best of the last 21 epochs, mean of 3",
    remarks="a ViT on ImageNet-1K sees whole images",
    epochs=500,
    batch_sizes={1: 128},
    special_cases=tuple(_bps_cases()),
    schedule="half-cosine",
    decayed="all",
    crop_scale=(0.2, 1.0),
    loss="kl-t2",
    best_of_last=21 / 500,
)
"""Recipe of BPS. Sets of other sizes take the numbers of the images per class nearest in ratio."""

CIM = dataclasses.replace(
    RDED,
    name="cim",
    source="CIM (ECCV 2026); github.com/LINs-lab/CIM, data/utils/evaluator.py",
    evidence="code",
    reported="best of 4 checks",
    batch_sizes={},
    batch_multiples={},
    batch_limits={10: 10, 500: 50, 20_000: 100, math.inf: 200},
    learning_rates={"efficientnet_b0": 0.002, "vit": 0.0001, "swin": 0.0001},
    special_cases=tuple(  # all of its image sets but ImageNet-1K
        SpecialCase(num_classes=num_classes, epochs=1000) for num_classes in (10, 100, 200)
    ),
    schedule="steps",
    weight_decay=1e-4,
    decayed="all",
    views="random-cell",
    mix_probability=0.0,
    loss="mse",
    best_of_last=1.0,
)
"""Recipe of CIM: one of the cells enlarged or, once in f², the image; the observer's logits."""

_DC_CODE = "github.com/VICO-UoE/DatasetCondensation, utils.py"
DC = dataclasses.replace(
    IDC,
    name="dc",
    source=f"arXiv 2006.05929; {_DC_CODE}",
    reported="last epoch, mean of 20",
    remarks="the code trains one epoch more, and the rate falls one epoch later, with a new "
    "momentum; MNIST and students with batch norm have augmentations and 1000 epochs",
    epochs=300,
    batch_sizes={1: 256},
    falls=(151 / 300,),
    fall_factor=0.1,
    views="crop",
    crop_scale=(1.0, 1.0),
    crop_ratio=(1.0, 1.0),
    shuffle=False,
    horizontal_flip=False,
    mix_probability=0.0,
)
"""Recipe of DC: whole images and hard labels."""

DSA = dataclasses.replace(
    DC,
    name="dsa",
    source=f"arXiv 2102.08259; {_DC_CODE}",
    remarks="the code trains one epoch more, and the rate falls one epoch later, with a new "
    "momentum; digits are not mirrored",
    epochs=1000,
    falls=(501 / 1000,),
    views="whole",
    horizontal_flip=True,
    operations="one",
)
"""Recipe of DSA and DM: whole images with all of DSA's augmentations."""

MTT = dataclasses.replace(
    DSA,
    name="mtt",
    source="arXiv 2203.11932; github.com/GeorgeCazenavette/mtt-distillation, utils.py",
    reported="last epoch, mean of 5",
    remarks="the code trains one epoch more, and the rate falls one epoch later, with a new "
    "momentum",
    learning_rate=None,
)
"""Recipe of MTT: that of DSA, at the learning rate that was learned with the images."""

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *(RDED, IDC, CELLS, RD3, EDC, FADRM, DELT, CIM, BPS, RETHINKDC, SRE2L),
        *(DC, DSA, MTT),
    )
}


def recipe_named(name: str) -> Recipe:
    """Return a recipe.

    Raises
    ------
    PydreamError
        If there is none of this name.
    """
    if name not in RECIPES:
        raise PydreamError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]
