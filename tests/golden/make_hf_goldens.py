#!/usr/bin/env python3
"""Writes tests/golden/hf/: tiny random checkpoints and the logits that transformers computes for them in float32.

    python make_hf_goldens.py        needs torch, transformers 5, safetensors

Each folder: config.json as transformers saves it, config_old.json with the same facts in the older layout, model.safetensors (bfloat16),
golden.safetensors: ids i32 [tokens], logits f32 [tokens, vocab], context i32 [1] (positions that length-dependent scalings are made for).
"""
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

OUT = pathlib.Path(__file__).parent / "hf"
TOKENS = 24
COMMON = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)


def rope(kind="default", theta=10000.0, **more):
    return dict(rope_type=kind, rope_theta=theta, **more)


CASES = {
    "llama": ("llama", dict(rope_parameters=rope(theta=500000.0), attention_bias=True, mlp_bias=True, tie_word_embeddings=True), {}),
    "llama_linear": ("llama", dict(rope_parameters=rope("linear", factor=4.0), head_dim=16), {}),
    "llama_dynamic": ("llama", dict(rope_parameters=rope("dynamic", factor=2.0), max_position_embeddings=16), dict(context=TOKENS)),
    "llama_llama3": ("llama", dict(rope_parameters=rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                         original_max_position_embeddings=16)), {}),
    "llama_yarn": ("llama", dict(rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=16), head_dim=16), {}),
    "mistral": ("mistral", dict(rope_parameters=rope(), sliding_window=7, head_dim=16), {}),
    "qwen2": ("qwen2", dict(rope_parameters=rope(theta=1e6), use_sliding_window=True, sliding_window=5, max_window_layers=1), {}),
    "qwen3": ("qwen3", dict(rope_parameters=rope(theta=1e6), head_dim=16), {}),
    "gemma2": ("gemma2", dict(rope_parameters=rope(), sliding_window=6, head_dim=16, query_pre_attn_scalar=24, attn_logit_softcapping=5.0,
                              final_logit_softcapping=3.0, hidden_activation="gelu_pytorch_tanh"), {}),
    "gemma3": ("gemma3_text", dict(rope_parameters=dict(full_attention=rope("linear", 1e6, factor=8.0), sliding_attention=rope()),
                                   sliding_window=6, head_dim=16, query_pre_attn_scalar=20, layer_types=["sliding_attention", "full_attention"]), {}),
    "phi3_long": ("phi3", dict(rope_parameters=rope("longrope", partial_rotary_factor=0.75, short_factor=[1.0, 1.1, 1.2, 1.3, 1.5, 2.0],
                                                    long_factor=[1.0, 1.5, 2.0, 3.0, 4.0, 6.0], original_max_position_embeddings=16),
                               original_max_position_embeddings=16, partial_rotary_factor=0.75, num_attention_heads=2, num_key_value_heads=1, sliding_window=20), {}),
    "phi3_short": ("phi3", dict(rope_parameters=rope("longrope", partial_rotary_factor=0.75, short_factor=[1.0, 1.1, 1.2, 1.3, 1.5, 2.0],
                                                     long_factor=[1.0, 1.5, 2.0, 3.0, 4.0, 6.0], original_max_position_embeddings=32),
                                original_max_position_embeddings=32, partial_rotary_factor=0.75, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True),
                   dict(context=32)),
}


def randomize(model):
    """Weights that matter: unit-variance products, norms away from their neutral value, biases."""
    for name, p in model.named_parameters():
        if "norm" in name:
            neutral = 0.0 if "gemma" in model.config.model_type else 1.0
            p.data = neutral + 0.3 * torch.randn_like(p)
        elif p.dim() == 2:
            p.data = torch.randn_like(p) * 1.3 / p.shape[1] ** 0.5
        else:
            p.data = 0.3 * torch.randn_like(p)
        p.data = p.data.bfloat16().float()


def old_layout(config):
    """rope_theta, rope_scaling and torch_dtype at the top level, as before transformers 5."""
    c = dict(config)
    c["torch_dtype"] = c.pop("dtype", "bfloat16")
    c.pop("layer_types", None)
    r = c.pop("rope_parameters")
    if "full_attention" in r:
        c["rope_local_base_freq"] = r["sliding_attention"]["rope_theta"]
        c["sliding_window_pattern"] = 2
        r = r["full_attention"]
    r = dict(r)
    c["rope_theta"] = r.pop("rope_theta")
    r.pop("partial_rotary_factor", None)
    kind = r.pop("rope_type")
    if c["model_type"] == "phi3":
        r.pop("original_max_position_embeddings", None)
    c["rope_scaling"] = None if kind == "default" else dict(r, **{"type" if kind in ("linear", "dynamic", "longrope") else "rope_type": kind})
    return c


def main():
    for seed, (name, (kind, changes, extra)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        folder = OUT / name
        folder.mkdir(parents=True, exist_ok=True)
        config = AutoConfig.for_model(kind, **{**COMMON, **changes})
        config._attn_implementation = "eager"
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        randomize(model)
        ids = torch.randint(3, COMMON["vocab_size"], (1, TOKENS))
        with torch.no_grad():
            logits = model(ids).logits[0]
        save_file({"ids": ids[0].int(), "logits": logits.contiguous(), "context": torch.tensor([extra.get("context", 0)], dtype=torch.int32)},
                  folder / "golden.safetensors")
        model.bfloat16().save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        saved = json.loads((folder / "config.json").read_text())
        saved.pop("transformers_version", None)
        (folder / "config.json").write_text(json.dumps(saved, indent=1) + "\n")
        (folder / "config_old.json").write_text(json.dumps(old_layout(saved), indent=1) + "\n")
        print(name, sum(f.stat().st_size for f in folder.iterdir()), "bytes; logits", logits.std().item())


if __name__ == "__main__":
    main()
