#!/usr/bin/env python3
"""Writes tests/golden/gguf_blocks.safetensors: random blocks of each quantized GGUF type and the floats that the `gguf` package (llama.cpp's
own, numpy) decodes from them.

    python make_gguf_goldens.py      needs gguf, numpy, safetensors
"""
import pathlib

import numpy as np
from gguf import GGMLQuantizationType, quants
from safetensors.numpy import save_file

SIZES = {"Q8_0": (32, 34, [0]), "Q4_0": (32, 18, [0]), "Q4_K": (256, 144, [0, 2]), "Q6_K": (256, 210, [208])}

random = np.random.default_rng(7)
out = {}
for name, (elements, size, half_offsets) in SIZES.items():
    blocks = random.integers(0, 256, (2, 512 // elements, size), dtype=np.uint8)
    for at in half_offsets:  # finite scales
        halves = random.normal(0, 0.05, blocks.shape[:2]).astype(np.float16)
        blocks[:, :, at:at + 2] = halves[..., None].view(np.uint8).reshape(*blocks.shape[:2], 2)
    raw = np.ascontiguousarray(blocks.reshape(2, -1))
    out[name + ".bytes"] = raw
    out[name + ".values"] = quants.dequantize(raw, GGMLQuantizationType[name]).astype(np.float32)
save_file(out, pathlib.Path(__file__).parent / "gguf_blocks.safetensors")
