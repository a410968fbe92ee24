"""The sizes that WeSpeaker's names stand for, in wespeaker/models/redimnet.py and redimnet2.py."""

from typing import TypeAlias

Strides: TypeAlias = tuple[int, int]
Second: TypeAlias = tuple[Strides, int, float, tuple[int, int], int]

# C, block_2d_type, group_divisor, and of each stage stride, num_blocks, conv_exp, att_block_red.
SIZES: dict[str, tuple[int, str, int, list[tuple[int, int, int, int | None]]]] = {
    "B0": (10, "basic_resnet", 1, [(1, 2, 1, 30), (2, 3, 2, 30), (1, 3, 3, 30), (2, 4, 2, 10), (1, 3, 1, 10)]),
    "B1": (12, "convnext_like", 8, [(1, 2, 1, None), (2, 3, 1, None), (3, 4, 1, 12), (2, 5, 1, 12), (2, 3, 1, 8)]),
    "B2": (
        16,
        "convnext_like",
        4,
        [(1, 2, 1, 12), (2, 2, 1, 12), (1, 3, 1, 12), (2, 4, 1, 8), (1, 4, 1, 8), (2, 4, 1, 4)],
    ),
    "B3": (
        16,
        "basic_resnet_fwse",
        1,
        [(1, 6, 4, 32), (2, 6, 2, 32), (1, 8, 2, 32), (2, 10, 2, 16), (1, 10, 1, 16), (2, 8, 1, 16)],
    ),
    "B4": (
        32,
        "basic_resnet_fwse",
        1,
        [(1, 4, 2, 48), (2, 4, 2, 48), (1, 6, 2, 48), (2, 6, 1, 32), (1, 8, 1, 24), (2, 4, 1, 16)],
    ),
    "B5": (
        32,
        "basic_resnet_fwse",
        16,
        [(1, 4, 2, 48), (2, 4, 2, 48), (1, 6, 2, 48), (2, 6, 1, 32), (1, 8, 1, 24), (2, 4, 1, 16)],
    ),
    "B6": (
        32,
        "basic_resnet",
        32,
        [(1, 4, 4, 32), (2, 6, 2, 32), (1, 6, 2, 24), (3, 8, 1, 24), (1, 8, 1, 16), (2, 8, 1, 16)],
    ),
}


def _stages(
    conv_exp: tuple[float, ...],
    att_block_red: tuple[int, ...],
    num_blocks: tuple[int, ...] = (2, 3, 4, 5, 4, 3),
    strides: tuple[int, ...] = (1, 2, 1, 2, 1, 2),
    kernels: tuple[int, ...] = (3, 3, 3, 3, 3, 3),
) -> list[Second]:
    """The six stages of a ReDimNet2; strides are over frequency, kernels over time."""
    columns = zip(strides, (1, 1, 2, 1, 2, 1), num_blocks, conv_exp, kernels, att_block_red, strict=True)
    return [((stride, time), blocks, exp, (3, kernel), red) for stride, time, blocks, exp, kernel, red in columns]


# C, out_channels, return_2d_output, and of each stage strides, num_blocks, conv_exp, kernel_size, att_block_red;
# strides and kernel_size are over frequency and time.
SIZES_2: dict[str, tuple[int, int | None, bool, list[Second]]] = {
    "B0": (12, 64, False, _stages((2, 1, 1, 1, 1, 1), (36, 36, 36, 36, 18, 18))),
    "B1": (16, 64, False, _stages((2, 1, 1, 1, 1, 1), (32, 32, 32, 32, 16, 16))),
    "B2": (
        20,
        64,
        False,
        _stages((2, 1, 1, 1, 1, 1), (40, 30, 30, 20, 20, 10), strides=(1, 2, 1, 3, 1, 2), kernels=(5, 5, 5, 5, 7, 7)),
    ),
    "B3": (24, 64, False, _stages((2, 1, 1, 1, 1, 1), (36, 36, 36, 36, 18, 18))),
    "B4": (32, None, False, _stages((4, 3, 2, 1, 1, 1), (24, 24, 24, 24, 24, 24))),
    "B5": (48, 256, False, _stages((4, 3, 2, 1, 1, 1), (48, 48, 48, 48, 32, 32))),
    "B6": (64, 224, True, _stages((3, 2, 2, 1, 0.75, 0.5), (64, 64, 48, 48, 32, 24), (3, 4, 5, 5, 4, 3))),
}
