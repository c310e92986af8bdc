#!/usr/bin/env python3
"""PyTorch with torch.compile as the peer on a GPU, both sides in one run on one card.

  models   resnet50, BERT-base (128 tokens) and ViT-B/16 (the architectures of torchvision and transformers, random weights) at batch 1 and 32 in
           fp16: exported to ONNX in fp32 and built by `tokamak bench --device cuda --fp16`; on the other side torch.compile in max-autotune mode,
           which replays CUDA graphs. Both have their inputs on the GPU and leave outputs there; times are medians of runs queued back to back.
  llm      a decoder of Llama-2-7B's shape with a static cache under torch.compile: tokens/s of decoding 128 tokens behind 128 others
  llm-table  FOLDER: the table of what gpu.sh left there (llm-PRECISION.json of ours, llm-torch.json of theirs)

Ratios are ours / theirs in time (models: below 1 is faster) and in tokens/s (llm: above 1 is faster).
"""
import argparse
import gc
import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time


def median_ms(torch, call, runs=200):
    """Of runs queued back to back, between events."""
    for _ in range(10):
        call()
    torch.cuda.synchronize()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(runs + 1)]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in zip(events, events[1:]))


# --- models ---


def make_models(torch):
    import torchvision
    import transformers

    class Bert(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False)

        def forward(self, ids):
            return self.bert(input_ids=ids).last_hidden_state

    def image(batch):
        return torch.randn(batch, 3, 224, 224)

    yield "resnet50", torchvision.models.resnet50(), image
    yield "bert-base", Bert(), lambda batch: torch.randint(0, 30000, (batch, 128))
    yield "vit-b16", torchvision.models.vit_b_16(), image


def export(torch, model, example, path):
    with torch.inference_mode():
        torch.onnx.export(model, (example,), path, input_names=["x"], output_names=["y"], opset_version=18, dynamo=True, external_data=False)


def ours_ms(tokamak, path):
    out = subprocess.run([tokamak, "bench", path, "--device", "cuda", "--fp16", "--duration", "2", "--json", "-"], capture_output=True, text=True)
    if out.returncode != 0:
        raise RuntimeError(out.stderr.strip().splitlines()[-1] if out.stderr.strip() else "tokamak bench failed")
    return json.loads(out.stdout)


def theirs_ms(torch, name, model, example):
    torch._dynamo.reset()
    if name == "resnet50":  # what is fastest for each side
        model, example = model.to(memory_format=torch.channels_last), example.to(memory_format=torch.channels_last)
    model = model.cuda().half()
    example = example.cuda()
    if example.is_floating_point():
        example = example.half()
    compiled = torch.compile(model, mode="max-autotune")
    with torch.inference_mode():
        result = median_ms(torch, lambda: compiled(example))
    del compiled
    gc.collect()
    torch.cuda.empty_cache()
    return result


def run_models(options):
    import copy

    import torch

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    rows = []
    for name, model, make_input in make_models(torch):
        model.eval()
        for batch in options.batches or [1, 32]:
            row = {"model": name, "batch": batch}
            try:
                with tempfile.TemporaryDirectory() as folder:
                    path = os.path.join(folder, name + ".onnx")
                    export(torch, model, make_input(batch), path)
                    result = ours_ms(options.tokamak, path)
                row |= {"ours_ms": result["device_ms"], "ours_latency_ms": result["latency_ms"]["median"], "kernels": result["kernels"], "build_s": result["build_s"]}
            except Exception as error:  # the table says so; the other rows are still wanted
                row["error"] = str(error)[:300]
            if options.peers:
                try:
                    row["theirs_ms"] = theirs_ms(torch, name, copy.deepcopy(model), make_input(batch))
                except Exception as error:
                    row["their_error"] = str(error)[:300]
            rows.append(row)
            print(json.dumps(row), flush=True)
    write(options.json, {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "precision": "fp16", "rows": rows})
    lines = ["| fp16 | batch | Tokamak ms | torch.compile ms | ratio |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        ours, theirs = row.get("ours_ms"), row.get("theirs_ms")
        ratio = f"{ours / theirs:.2f}" if ours and theirs else ""
        text = [f"{v:.3f}" if v else e for v, e in ((ours, row.get("error", "")), (theirs, row.get("their_error", "")))]
        lines.append(f"| {row['model']} | {row['batch']} | {text[0]} | {text[1]} | {ratio} |")
    write_text(options.table, "\n".join(lines) + "\n")
    return 0 if all("error" not in row for row in rows) else 1


# --- language models ---

HIDDEN, INTERMEDIATE, LAYERS, HEADS, HEAD, VOCABULARY = 4096, 11008, 32, 32, 128, 32000


def make_decoder(torch, kind, batch, length):
    nn, F = torch.nn, torch.nn.functional
    dtype = kind if isinstance(kind, torch.dtype) else torch.bfloat16

    class Int8(nn.Module):
        def __init__(self, k, n):
            super().__init__()
            self.register_buffer("weight", torch.randint(-127, 127, (n, k), dtype=torch.int8, device="cuda"))
            self.register_buffer("scale", torch.full((n,), 1e-3, dtype=dtype, device="cuda"))

        def forward(self, x):
            return F.linear(x, self.weight.to(x.dtype)) * self.scale

    class Fp8(nn.Module):
        def __init__(self, k, n):
            super().__init__()
            self.register_buffer("weight", (torch.randn(n, k, device="cuda") * 0.02).to(torch.float8_e4m3fn))
            self.register_buffer("one", torch.tensor(1.0, device="cuda"))

        def forward(self, x):
            rows = x.reshape(-1, x.shape[-1]).to(torch.float8_e4m3fn)
            return torch._scaled_mm(rows, self.weight.t(), self.one, self.one, out_dtype=dtype).view(*x.shape[:-1], -1)

    def linear(k, n):
        if kind == "int8":
            return Int8(k, n)
        if kind == "fp8":
            return Fp8(k, n)
        return nn.Linear(k, n, bias=False, device="cuda", dtype=dtype)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = linear(HIDDEN, 3 * HIDDEN), linear(HIDDEN, HIDDEN)
            self.gate_up, self.down = linear(HIDDEN, 2 * INTERMEDIATE), linear(INTERMEDIATE, HIDDEN)
            self.norm1, self.norm2 = (nn.RMSNorm(HIDDEN, eps=1e-5, device="cuda", dtype=dtype) for _ in range(2))
            for name in ("keys", "values"):
                self.register_buffer(name, torch.zeros(batch, HEADS, length, HEAD, device="cuda", dtype=dtype))

        def forward(self, x, position, cos, sin, mask):
            b, t, _ = x.shape
            q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4)
            half = HEAD // 2
            rotate = lambda z: z * cos + torch.cat((-z[..., half:], z[..., :half]), -1) * sin
            self.keys[:, :, position] = rotate(k)
            self.values[:, :, position] = v
            y = F.scaled_dot_product_attention(rotate(q), self.keys, self.values, attn_mask=mask)
            x = x + self.out(y.transpose(1, 2).reshape(b, t, HIDDEN))
            gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
            return x + self.down(F.silu(gate) * up)

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, HIDDEN, device="cuda", dtype=dtype)
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
            self.norm, self.head = nn.RMSNorm(HIDDEN, eps=1e-5, device="cuda", dtype=dtype), linear(HIDDEN, VOCABULARY)
            inverse = 10000 ** -(torch.arange(0, HEAD, 2, device="cuda") / HEAD)
            angles = torch.outer(torch.arange(length, device="cuda"), inverse).repeat(1, 2)
            self.register_buffer("cos", angles.cos().to(dtype))
            self.register_buffer("sin", angles.sin().to(dtype))
            self.register_buffer("mask", torch.tril(torch.ones(length, length, dtype=torch.bool, device="cuda")))

        def forward(self, tokens, position):
            x = self.embedding(tokens)
            for block in self.blocks:
                x = block(x, position, self.cos[position], self.sin[position], self.mask[position][None, None])
            return self.head(self.norm(x[:, -1:])).argmax(-1)

    return Decoder().eval()


def decode_rate(torch, kind, batch, prompt=128, new=128, mode="reduce-overhead"):
    torch._dynamo.reset()
    model = make_decoder(torch, kind, batch, prompt + new + 64)
    step = torch.compile(model, mode=mode, fullgraph=True)
    with torch.inference_mode():
        tokens = torch.randint(0, VOCABULARY, (batch, 1), device="cuda")
        for i in range(5):
            tokens = step(tokens, torch.tensor([prompt + i], device="cuda")).clone()
        positions = torch.arange(prompt, prompt + new, device="cuda").split(1)
        rates = []
        for _ in range(3):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for position in positions:
                tokens = step(tokens, position).clone()
            torch.cuda.synchronize()
            rates.append(batch * new / (time.perf_counter() - start))
    del model, step
    gc.collect()
    torch.cuda.empty_cache()
    return statistics.median(rates)


def run_llm(options):
    import torch

    torch.manual_seed(0)
    runs = []
    for name, kind in (("fp16", torch.float16), ("int8", "int8"), ("fp8", "fp8")):
        for batch in options.batches or [1, 8, 64]:
            if name == "fp8" and batch < 16:
                mode = "max-autotune"  # _scaled_mm alone wants rows of 16
            else:
                mode = "max-autotune" if name == "int8" and batch == 1 else "reduce-overhead"
            try:
                rate = decode_rate(torch, kind, batch, mode=mode)
                runs.append({"precision": name, "batch": batch, "mode": mode, "output_tokens_per_s": rate})
            except Exception as error:
                runs.append({"precision": name, "batch": batch, "mode": mode, "error": str(error)[:300]})
            print(json.dumps(runs[-1]), flush=True)
            write(options.json, {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "runs": runs})
    return 0


def llm_table(folder):
    theirs = {}
    peer = os.path.join(folder, "llm-torch.json")
    if os.path.exists(peer):
        theirs = {(r["precision"], r["batch"]): r.get("output_tokens_per_s") for r in json.load(open(peer))["runs"]}
    lines = ["| Llama-2-7B shape, 128 + 128 tokens | batch | Tokamak tokens/s | TPOT ms | TTFT ms | torch.compile tokens/s | ratio |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for path in sorted(glob.glob(os.path.join(folder, "llm-*.json"))):
        precision = os.path.basename(path)[4:-5]
        if precision == "torch":
            continue
        for run in json.load(open(path))["runs"]:
            ours, peer_rate = run["output_tokens_per_s"], theirs.get((precision, run["batch"]))
            lines.append(f"| {precision} | {run['batch']} | {ours:.0f} | {run['tpot_ms']:.3f} | {run['ttft_ms']:.1f} | {f'{peer_rate:.0f}' if peer_rate else ''} | {f'{ours / peer_rate:.2f}' if peer_rate else ''} |")
    print("\n".join(lines))
    return 0


def write(path, data):
    write_text(path, json.dumps(data, indent=2) + "\n")


def write_text(path, text):
    if path in (None, "-"):
        sys.stdout.write(text)
        return
    with open(path, "w") as file:
        file.write(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["models", "llm", "llm-table"])
    parser.add_argument("folder", nargs="?", default=".")
    parser.add_argument("--tokamak", default="build/release/bin/tokamak")
    parser.add_argument("--peers", action="store_true", help="models: measure torch.compile too")
    parser.add_argument("--batches", type=lambda text: [int(b) for b in text.split(",")])
    parser.add_argument("--json", default="-")
    parser.add_argument("--table", default="-")
    options = parser.parse_args()
    if options.what == "llm-table":
        return llm_table(options.folder)
    return run_models(options) if options.what == "models" else run_llm(options)


if __name__ == "__main__":
    sys.exit(main())
