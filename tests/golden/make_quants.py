#!/usr/bin/env python3
"""Regenerate tests/golden/quants/: random blocks of every supported type and their float32 values.

    python3 tests/golden/make_quants.py        needs the packages numpy and gguf

NAME.bin holds the blocks, one after the other; NAME.f32 their values as the gguf package computes them, float32 little
endian. All bytes are random, the scales too (subnormal and negative ones included), but blocks with a scale that is
infinite or NaN are drawn again.
"""
import pathlib

import gguf
import numpy as np

OUT = pathlib.Path(__file__).parent / "quants"
# name: (number of blocks, byte offsets of the float16 scales)
TYPES = {
    "F32": (128, []), "F16": (256, [0]), "BF16": (256, []),
    "Q4_0": (12, [0]), "Q4_1": (12, [0, 2]), "Q5_0": (12, [0]), "Q5_1": (12, [0, 2]), "Q8_0": (12, [0]),
    "Q2_K": (4, [80, 82]), "Q3_K": (4, [108]), "Q4_K": (4, [0, 2]), "Q5_K": (4, [0, 2]), "Q6_K": (4, [208]),
}


def main():
    OUT.mkdir(exist_ok=True)
    rng = np.random.default_rng(20240607)
    for name, (num_blocks, scale_offsets) in TYPES.items():
        qtype = gguf.GGMLQuantizationType[name]
        _, block_bytes = gguf.GGML_QUANT_SIZES[qtype]
        blocks = []
        while len(blocks) < num_blocks:
            block = rng.integers(0, 256, block_bytes, dtype=np.uint8)
            scales = [block[o:o + 2].view(np.float16)[0] for o in scale_offsets]
            with np.errstate(all="ignore"):
                values = gguf.quants.dequantize(block.reshape(1, -1), qtype)
            if np.isfinite(scales).all() and np.isfinite(values).all():
                blocks.append(block)
        data = np.stack(blocks)
        (OUT / f"{name}.bin").write_bytes(data.tobytes())
        (OUT / f"{name}.f32").write_bytes(gguf.quants.dequantize(data, qtype).astype("<f4").tobytes())


if __name__ == "__main__":
    main()
