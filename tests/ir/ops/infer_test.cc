// One table of every operator's inference: a line of IR text, and the types its outputs get (or the error). `?` stands for a fresh symbol.

#include <gtest/gtest.h>

#include <span>

#include "ir/op.h"
#include "ir/text.h"

namespace tokamak::ir {
namespace {

// Inputs that every case may use; %1, %2... in a case are constants defined in it.
constexpr const char* kInputs =
    "%x: f32[b,s,768], %y: f32[b,1,768], %z: f32[c,s,768], %u: f32[*], %i: i64[n], %j: i64[2,3], %k: i64[], %c: bool[b,s,1], %c0: bool[], "
    "%c1: bool[4], "
    "%m: f32[768,64], %v: f32[768], %h: i8[4,8], %g: u8[8,5], %img: f32[b,3,h,w], %pix: f32[2,8,16,17], %nhwc: f32[b,h,w,3], %q: "
    "f32[b,12,s,64], "
    "%kv: f32[b,4,t,64], %str: str[2], %dyn: i64[3], %anyints: i64[*], %seqs: f32[s,b,10], %w4: f32[1,80,10], %r4: f32[1,80,20], %row: "
    "i64[5], "
    "%d4: i32[4], %w8: i8[10,768], %ws: f32[10,24], "
    "%qkv: f32[tokens,512], %cache: bf16[num_blocks,2,2,32,64], %slots: i32[tokens], %half: f32[tokens,32], %wide: "
    "f32[tokens,40], %hn: f32[64], %qh: f32[tokens,256], %tables: i32[seqs,per_seq], %lens: i32[seqs], %starts: i32[seqs+1]";

std::string mask_fresh(std::string text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool starts =
        text[i] == '_' && i + 1 < text.size() && isdigit(text[i + 1]) && (i == 0 || !(isalnum(text[i - 1]) || text[i - 1] == '_'));
    if (!starts) {
      out += text[i];
      continue;
    }
    while (i + 1 < text.size() && isdigit(text[i + 1])) ++i;
    out += '?';
  }
  return out;
}

// "f32[b,s] i64[2]{b,3}" for the outputs of the last node: types, and known contents in braces. "error: ..." when it throws.
std::string infer(const std::string& lines, const std::string& inputs = kInputs) {
  try {
    const auto graph = parse("graph main(" + inputs + ") {\n" + lines + "\nreturn\n}");
    verify(*graph);
    std::string out;
    for (const Value* v : graph->nodes().back()->outputs()) {
      if (!out.empty()) out += ' ';
      out += to_string(v->type);
      if (v->ints) out += "{" + to_string(*v->ints) + "}";
    }
    return mask_fresh(out);
  } catch (const Error& e) {
    return std::string("error: ") + e.what();
  }
}

struct Case {
  const char* lines;
  const char* expected;  // after "error: " a part of the message
};

const Case kPointwise[] = {
    {"%1 = relu(%x)", "f32[b,s,768]"},
    {"%1 = relu(%u)", "f32[*]"},
    {"%1 = exp(%i)", "error: expected a float type, found i64"},
    {"%1 = abs(%str)", "error: expected a number type"},
    {"%1 = not(%c)", "bool[b,s,1]"},
    {"%1 = not(%x)", "error: expected bool"},
    {"%1 = bitwise_not(%h)", "i8[4,8]"},
    {"%1 = isnan(%x)", "bool[b,s,768]"},
    {"%1 = isinf(%x) {detect_negative=0}", "bool[b,s,768]"},
    {"%1 = leaky_relu(%x) {alpha=0.1}", "f32[b,s,768]"},
    {"%1 = leaky_relu(%x) {beta=0.1}", "error: `beta`"},
    {"%1 = cast(%x) {to=f16}", "f16[b,s,768]"},
    {"%1 = shape(%x)  %2 = cast(%1) {to=i32}", "i32[3]{b,s,768}"},
    {"%1 = const i64[2] {300, 3}  %2 = cast(%1) {to=u8}", "u8[2]"},
    {"%1 = const i64[2] {200, 3}  %2 = cast(%1) {to=u8}", "u8[2]{200,3}"},
    {"%1 = shape(%x)  %2 = neg(%1)  %3 = abs(%2)", "i64[3]{b,s,768}"},
    {"%1 = add(%x, %y)", "f32[b,s,768]"},
    {"%1 = add(%x, %z)", "f32[max(b,c),s,768]"},
    {"%1 = add(%x, %m)", "error: 768 vs 64"},
    {"%1 = add(%x, %i)", "error: differ in type: f32 vs i64"},
    {"%1 = add(%x, %u)", "f32[*]"},
    {"%1 = add(%x)", "error: input 1 is absent"},
    {"%1 = add(_, %x)", "error: input 0 is absent"},
    {"%1 = add(%x, %x, %x)", "error: at most 2"},
    {"%1 = pow(%x, %k)", "f32[b,s,768]"},
    {"%1 = mod(%i, %k) {fmod=1}", "i64[n]"},
    {"%1 = less(%x, %v)", "bool[b,s,768]"},
    {"%1 = and(%c, %c0)", "bool[b,s,1]"},
    {"%1 = and(%x, %c0)", "error: expected bool"},
    {"%1 = xor(%c, %c)", "bool[b,s,1]"},
    {"%1 = bitwise_and(%i, %k)", "i64[n]"},
    {"%1 = bitwise_or(%x, %x)", "error: expected an integer"},
    {"%1 = shift_left(%g, %g)", "u8[8,5]"},
    {"%1 = prelu(%x, %v)", "f32[b,s,768]"},
    {"%1 = where(%c, %x, %y)", "f32[b,s,768]"},
    {"%1 = where(%x, %x, %y)", "error: must be bool"},
    {"%1 = const f32[] {0}  %2 = clip(%x, %1)", "f32[b,s,768]"},
    {"%1 = clip(%x, _, %v)", "error: must be a scalar"},
    {"%1 = fused(%x, %y) {expr=\"t0 = add(i0, i1); ret t0\"}", "f32[b,s,768]"},
    {"%1, %2 = fused(%x, %y) {expr=\"t0 = add(i0, i1); t1 = row_sum(t0); ret t0, t1\", dtypes=s[\"f16\",\"f32\"], reduced=[0,1]}",
     "f16[b,s,768] f32[b,s,1]"},
    {"%1 = fused(%x) {expr=\"ret i0\", dtypes=s[\"f99\"]}", "error: unknown type"},
    {"%1 = fused(%u, %x) {expr=\"ret i0\"}", "f32[*]"},
};

const Case kShapeArithmetic[] = {
    {"%1 = shape(%x) {start=-2}", "i64[2]{s,768}"},
    {"%1 = shape(%x) {start=1, end=99}", "i64[2]{s,768}"},
    {"%1 = shape(%u)", "i64[?]"},
    {"%1 = size(%x)", "i64[]{b*s*768}"},
    {"%1 = const i64[] {1}  %2 = shape(%x)  %3 = gather(%2, %1) {axis=0}", "i64[]{s}"},
    {"%1 = const i64[1] {-1}  %2 = shape(%x)  %3 = gather(%2, %1) {axis=0}", "i64[1]{768}"},
    {"%1 = const i64[1] {3}  %2 = shape(%x)  %3 = gather(%2, %1) {axis=0}", "i64[1]"},
    {"%1 = shape(%x)  %2 = slice(%1) {starts=<0>, ends=<2>, axes=[0]}  %3 = const i64[2] {12, 64}  %4 = concat(%2, %3) {axis=0}",
     "i64[4]{b,s,12,64}"},
    {"%1 = shape(%x)  %2 = slice(%1) {starts=<-1>, ends=<-9223372036854775808>, axes=[0], steps=[-1]}", "i64[3]{768,s,b}"},
    {"%1 = shape(%x)  %2 = const i64[] {12}  %3 = div(%1, %2)", "i64[3]{floordiv(b,12),floordiv(s,12),64}"},
    {"%1 = shape(%x)  %2 = const i64[] {-12}  %3 = div(%1, %2)", "i64[3]"},
    {"%1 = const i64[3] {-7, 7, 9}  %2 = const i64[] {2}  %3 = div(%1, %2)", "i64[3]{-3,3,4}"},
    {"%1 = const i64[] {0}  %2 = div(%1, %1)", "i64[]"},
    {"%1 = const i64[2] {-7, 7}  %2 = const i64[] {3}  %3 = mod(%1, %2)", "i64[2]{2,1}"},
    {"%1 = const i64[2] {-7, 7}  %2 = const i64[] {3}  %3 = mod(%1, %2) {fmod=1}", "i64[2]{-1,1}"},
    {"%1 = shape(%x)  %2 = mul(%1, %1)  %3 = sub(%2, %1)", "i64[3]{b*b-b,s*s-s,589056}"},
    {"%1 = const i64[3] {3, 4, 5}  %2 = shape(%x)  %3 = min(%1, %2)", "i64[3]{min(3,b),min(4,s),5}"},
    {"%1 = const i64[] {9223372036854775807}  %2 = add(%1, %1)", "i64[]"},
    {"%1 = const i64[] {-1}  %2 = shape(%x)  %3 = equal(%2, %1)", "bool[3]{0,0,0}"},
    {"%1 = const i64[] {1}  %2 = shape(%x)  %3 = equal(%2, %1)", "bool[3]"},
    {"%1 = const i64[] {0}  %2 = shape(%x)  %3 = less(%2, %1)", "bool[3]{0,0,0}"},
    {"%1 = const i64[] {0}  %2 = shape(%x)  %3 = greater_equal(%2, %1) %4 = not(%3)", "bool[3]{0,0,0}"},
    {"%1 = const i64[] {-1}  %2 = shape(%x)  %3 = equal(%2, %1)  %4 = fill() {value=dense i64[1]{1}, shape=<3>}  %5 = where(%3, %4, %2)",
     "i64[3]{b,s,768}"},
    {"%1 = fill() {value=dense i64[1]{-1}, shape=<3>}", "i64[3]{-1,-1,-1}"},
    {"%1 = shape(%x)  %2 = reduce_prod(%1) {axes=[0], keepdims=0}", "i64[]{b*s*768}"},
    {"%1 = shape(%x)  %2 = reduce_max(%1) {axes=[0]}", "i64[1]{max(768,max(b,s))}"},
    {"%1 = shape(%x)  %2, %3 = split(%1) {axis=0, sizes=<2,1>}", "i64[2]{b,s} i64[1]{768}"},
    {"%1 = const i64[] {0} %2 = const i64[] {5} %3 = const i64[] {2}  %4 = range(%1, %2, %3)", "i64[3]{0,2,4}"},
    {"%1 = const i64[] {5} %2 = const i64[] {0} %3 = const i64[] {-2}  %4 = range(%1, %2, %3)", "i64[3]{5,3,1}"},
    {"%0 = const i64[] {0} %1 = const i64[] {1}  %2 = shape(%x)  %3 = gather(%2, %1) {axis=0}  %4 = range(%0, %3, %1)", "i64[s]"},
    {"%0 = const i64[] {0}  %4 = range(%0, %k, %k)", "i64[?]"},
    {"%0 = const i64[] {0}  %4 = range(%0, %k, %0)", "error: the step is 0"},
    {"%0 = const f32[] {0} %1 = const f32[] {1} %2 = const f32[] {0.25}  %4 = range(%0, %1, %2)", "f32[4]"},
    {"%0 = const f32[] {0} %1 = const f32[] {1}  %4 = range(%0, %1, %0)", "error: no sensible length"},
    {"%1 = shape(%x)  %2 = const i64[1] {2}  %3 = tile(%1, %2)", "i64[6]{b,s,768,b,s,768}"},
    {"%1 = const i64[1] {7}  %2 = expand(%1) {shape=<3>}", "i64[3]{7,7,7}"},
    {"%1 = shape(%x)  %2 = identity(%1)  %3 = transpose(%2) {perm=[0]}", "i64[3]{b,s,768}"},
    // How torch exports the pads of F.pad: pairs of the last axes first, reversed and transposed.
    {"%1 = shape(%x)  %2 = const i64[3] {1, 2, 3}  %3 = concat(%1, %2) {axis=0}  %4 = reshape(%3) {shape=<3,2>}  %5 = slice(%4) "
     "{starts=<-1>, "
     "ends=<-9223372036854775807>, axes=[0], steps=[-1]}  %6 = transpose(%5) {perm=[1,0]}  %7 = reshape(%6) {shape=<6>}",
     "i64[6]{2,768,b,3,1,s}"},
    {"%1 = const i64[2,3] {1, 2, 3, 4, 5, 6}  %2 = slice(%1) {starts=<0,2>, ends=<2,-9>, axes=[0,1], steps=[9,-2]}", "i64[1,2]{3,1}"},
    {"%1 = const i64[4] {1, 2, 3, 4}  %2 = slice(%1) {starts=<-9>, ends=<9>, steps=[3]}", "i64[2]{1,4}"},
    {"%1 = const i64[] {2} %2 = shape(%x) %3 = clip(%2, _, %1)", "i64[3]{min(2,b),min(2,s),2}"},
    {"%1 = const i64[] {2} %2 = shape(%x) %3 = pow(%2, %1)", "i64[3]{b*b,s*s,589824}"},
    {"%1 = const bool[2] {1, 0}  %2 = const bool[2] {1, 1}  %3 = and(%1, %2)", "bool[2]{1,0}"},
};

const Case kLinear[] = {
    {"%1 = matmul(%x, %m)", "f32[b,s,64]"},
    {"%1 = matmul(%m, %x) {trans_a=1, trans_b=1}", "f32[b,64,s]"},
    {"%1 = matmul(%v, %m)", "f32[64]"},
    {"%1 = matmul(%x, %v)", "f32[b,s]"},
    {"%1 = matmul(%v, %v)", "f32[]"},
    {"%1 = matmul(%x, %m) {trans_b=1} \"/layer3/q\"", "error: [matmul \"/layer3/q\"] k differs: 768 vs 64"},
    {"%1 = matmul(%x, %u)", "f32[*]"},
    {"%1 = const f32[] {1}  %2 = matmul(%x, %1)", "error: b must have"},
    {"%1 = matmul(%x, %m, %v) {epilogue=\"t0 = add(i0, i1); ret t0\", epilogue_input=2}", "f32[b,s,64]"},
    {"%1 = matmul_integer(%h, %g)", "i32[4,5]"},
    {"%1 = matmul_integer(%m, %g)", "error: expected an integer"},
    {"%1 = quantized_matmul(%x, %w8, %ws) {group_size=32}", "f32[b,s,10]"},
    {"%1 = quantized_matmul(%x, %w8, %ws) {group_size=64}", "error: scale f32[10,24] does not fit k 768 in groups of 64"},
    {"%1 = quantized_matmul(%x, %w8, %ws) {group_size=0}", "error: group_size is 0"},
    {"%1 = quantized_matmul(%x, %w8, %ws)", "error: `group_size`"},
    {"%1 = quantized_matmul(%x, %w8, %ws) {group_size=32, epilogue=\"t0 = relu(i0); ret t0\", epilogue_input=2}",
     "error: epilogue_input is 2, needs 3 to 3"},
    {"%1 = quantized_matmul(%x, %m, %ws) {group_size=32}", "error: b is f32, needs i8, i4 or f8e4m3fn"},
    {"%1 = quantized_matmul(%u, %w8, %ws) {group_size=32}", "f32[*]"},
    {"%1 = quantized_matmul(%m, %w8, %ws) {group_size=32}", "error: k differs: 64 vs 768"},
    {"%1 = linear(%x, %w8, %ws) {group_size=32}", "f32[b,s,10]"},
    {"%1 = linear(%x, %w8, %ws, %v) {group_size=32, epsilon=1e-5}", "f32[b,s,10]"},
    {"%1 = linear(%x, %w8) {group_size=32}", "error: w without scales is i8"},
    {"%1 = linear(%x, %w8, %ws)", "error: group_size is 0"},
    {"%1 = linear(%x, %w8, %ws) {group_size=32, x_scale=1.5}", "error: x_scale is 1.5"},
    {"%1 = transpose(%m)  %2 = linear(%x, %1, _, %v) {gate=\"silu\"}", "f32[b,s,32]"},
    {"%1 = transpose(%m)  %2 = linear(%x, %1) {gate=\"relu\"}", "error: gate is \"relu\""},
    {"%1 = transpose(%m)  %2 = linear(%x, %1) {activation=\"i8\"}", "error: activation is \"i8\""},
    {"%1 = transpose(%m)  %2 = linear(%x, %1, _, _, %u) {epilogue=\"t0 = add(i0, i1); ret t0\", epilogue_input=3}",
     "error: epilogue_input is 3, needs 4 to 5"},
    {"%1 = linear(%x, %w8, %ws, %v) {group_size=32, gate=\"silu\"}", "error: has a gate, needs a multiple of 16 rows"},
    {"%1 = linear(%m, %w8, %ws) {group_size=32}", "error: k differs: 64 vs 768"},
    {"%1 = linear(%u, %w8, %ws) {group_size=32}", "f32[*]"},
    {"%1 = conv(%img, %0)", "f32[b,8,h-2,w-2]"},
    {"%1 = conv(%img, %0) {strides=[2,2], pads=[1,1,1,1]}", "f32[b,8,floordiv(h+1,2),floordiv(w+1,2)]"},
    {"%1 = conv(%nhwc, %0) {layout=\"NHWC\", pads=[1,1,1,1]}", "f32[b,h,w,8]"},
    {"%1 = conv(%img, %0) {auto_pad=\"SAME_UPPER\", strides=[2,3]}", "f32[b,8,floordiv(h+1,2),floordiv(w+2,3)]"},
    {"%1 = conv(%pix, %0)", "error: number of channels of x and of w times group differs: 8 vs 3"},
    {"%1 = conv(%img, %0) {strides=[0,1]}", "error: `strides` must be at least 1"},
    {"%1 = conv(%img, %0) {strides=[1]}", "error: `strides` must have 2 entries"},
    {"%1 = conv(%img, %0) {pads=[-1,0,0,0]}", "error: `pads` must be at least 0"},
    {"%1 = conv(%img, %0) {group=0}", "error: `group`"},
    {"%1 = conv(%img, %0) {dilations=[9223372036854775807,1]}", "error: 64-bit"},
    {"%1 = conv(%img, %0) {layout=\"CHWN\"}", "error: `layout`"},
    {"%1 = conv(%img, %0, %v)", "error: length of bias and of w differs: 768 vs 8"},
    {"%1 = conv(%u, %0)", "f32[?,8,?,?]"},
    {"%1 = conv(%img, %m)", "error: w must have"},
    {"%1 = conv_integer(%2, %3)", "error: not defined"},
    {"%1 = cast(%pix) {to=u8}  %2 = cast(%5) {to=i8}  %3 = conv_integer(%1, %2) {pads=[1,1,1,1]}", "i32[2,4,16,17]"},
    {"%1 = conv_transpose(%pix, %6) {strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]}", "f32[2,10,32,34]"},
    {"%1 = conv_transpose(%img, %4) {strides=[2,2]}", "f32[b,5,h*2,w*2]"},
    {"%1 = conv_transpose(%pix, %6) {output_shape=[20,20], strides=[2,2]}", "f32[2,10,20,20]"},
    {"%1 = max_pool(%pix) {kernel=[3,3], strides=[2,2]}", "f32[2,8,7,8]"},
    {"%1, %2 = max_pool(%pix) {kernel=[3,3], strides=[2,2], ceil_mode=1}", "f32[2,8,8,8] i64[2,8,8,8]"},
    {"%1 = max_pool(%pix) {kernel=[1,1], strides=[2,20], ceil_mode=1}", "f32[2,8,8,1]"},
    {"%1 = max_pool(%img) {kernel=[3,3], strides=[2,2], ceil_mode=1}", "f32[b,3,floordiv(h,2),floordiv(w,2)]"},
    {"%1 = max_pool(%pix) {kernel=[17,17]}", "error: does not fit"},
    {"%1 = max_pool(%pix) {kernel=[0,1]}", "error: must be positive"},
    {"%1 = max_pool(%pix) {kernel=[2]}", "error: x must have 3 dimensions"},
    {"%1 = max_pool(%pix)", "error: `kernel` is missing"},
    {"%1 = avg_pool(%nhwc) {kernel=[2,2], strides=[2,2], layout=\"NHWC\"}", "f32[b,floordiv(h,2),floordiv(w,2),3]"},
    {"%1 = avg_pool(%u) {kernel=[2,2]}", "f32[?,?,?,?]"},
    {"%1 = lp_pool(%img) {kernel=[2,2], p=1}", "f32[b,3,h-1,w-1]"},
    {"%1 = attention(%q, %kv, %kv) {is_causal=1}", "f32[b,12,s,64]"},
    {"%1 = all_reduce(%img) {rank=1, world_size=2}", "f32[b,3,h,w]"},
    {"%1 = all_reduce(%img) {rank=2, world_size=2}", "error: rank 2 of world_size 2"},
    {"%1 = attention(%q, %kv, %kv) {out_layout=\"BSHD\"}", "f32[b,s,12,64]"},
    {"%1 = attention(%q, %kv, %kv) {q_layout=\"HBSD\"}", "error: must be BHSD or BSHD"},
    {"%1 = attention(%kv, %q, %q)", "error: 4 query heads are not a multiple of 12"},
    {"%1 = attention(%q, %kv, %kv, %m)", "f32[b,12,s,64]"},
    {"%1 = attention(%q, %kv, %kv, %pix)", "error: a dimension of the mask and of the scores differs: 8 vs 12"},
    {"%1 = attention(%x, %kv, %kv)", "error: q must have 4 dimensions"},
    {"%1 = kv_cache_write(%qkv, %cache, %slots) {num_heads=4, num_kv_heads=2, head_dim=64}", "f32[tokens,256]"},
    {"%1 = kv_cache_write(%qkv, %cache, %slots, %half, %half, %hn, %hn) {num_heads=4, num_kv_heads=2, head_dim=64}", "f32[tokens,256]"},
    {"%1 = kv_cache_write(%u, %u, %slots) {num_heads=4, num_kv_heads=2, head_dim=64}", "f32[tokens,256]"},
    {"%1 = kv_cache_write(%qkv, %cache, %slots, %half) {num_heads=4, num_kv_heads=2, head_dim=64}", "error: cos and sin come together"},
    {"%1 = kv_cache_write(%qkv, %cache, %slots, %wide, %wide) {num_heads=4, num_kv_heads=2, head_dim=64}",
     "error: cos f32[tokens,40] rotates 80"},
    {"%1 = kv_cache_write(%qkv, %cache, %slots) {num_heads=6, num_kv_heads=2, head_dim=64}", "error: the width of qkv"},
    {"%1 = kv_cache_write(%qkv, %cache, %slots) {num_heads=4, num_kv_heads=3, head_dim=64}",
     "error: 4 query heads are not a multiple of 3"},
    {"%1 = kv_cache_write(%qkv, %cache, %slots) {num_heads=4, num_kv_heads=2, head_dim=63}", "error: head_dim must be even"},
    {"%1 = kv_cache_write(%qkv, %q, %slots) {num_heads=4, num_kv_heads=2, head_dim=64}", "error: cache must have 5 dimensions"},
    {"%1 = kv_cache_write(%qkv, %cache, %row) {num_heads=4, num_kv_heads=2, head_dim=64}", "error: slot_mapping must be i32"},
    {"%1 = abs(%cache)  %2 = kv_cache_write(%qkv, %1, %slots) {num_heads=4, num_kv_heads=2, head_dim=64}",
     "error: which must be an input of the main graph"},
    {"%1 = paged_attention(%qh, %cache, %tables, %lens, %starts) {num_heads=4, num_kv_heads=2, head_dim=64}", "f32[tokens,256]"},
    {"%1 = cached_attention(%qkv, %cache, %slots, %tables, %lens, %starts) {num_heads=4, num_kv_heads=2, head_dim=64}", "f32[tokens,256]"},
    {"%1 = cached_attention(%qkv, %cache, %slots, %tables, %lens, %starts, %half, %half, %hn, %hn) {num_heads=4, num_kv_heads=2, "
     "head_dim=64}",
     "f32[tokens,256]"},
    {"%1 = cached_attention(%qkv, %cache, %slots, %tables, %lens, %starts, %half) {num_heads=4, num_kv_heads=2, head_dim=64}",
     "error: cos and sin come together"},
    {"%1 = cached_attention(%qkv, %cache, %slots, %lens, %tables, %starts) {num_heads=4, num_kv_heads=2, head_dim=64}",
     "error: block_tables must have 2 dimensions"},
    {"%1 = cached_attention(%qh, %cache, %slots, %tables, %lens, %starts) {num_heads=4, num_kv_heads=2, head_dim=64}",
     "error: the width of qkv"},
    {"%1 = paged_attention(%qkv, %cache, %tables, %lens, %starts) {num_heads=4, num_kv_heads=2, head_dim=64}", "error: the width of q"},
    {"%1 = paged_attention(%qh, %cache, %tables, %lens, %d4) {num_heads=4, num_kv_heads=2, head_dim=64, window=-1}", "error: window"},
    {"%1 = paged_attention(%qh, %cache, %lens, %lens, %starts) {num_heads=4, num_kv_heads=2, head_dim=64}",
     "error: block_tables must have 2"},
    {"%1 = const f32[1,32] splat {1}  %2 = rope(%q, %1, %1)", "f32[b,12,s,64]"},
    {"%1 = const f32[1,64] splat {1}  %2 = rope(%q, %1, %1)", "error: rotates more"},
};

const Case kMovement[] = {
    {"%1 = identity(%x)", "f32[b,s,768]"},
    {"%1 = reshape(%x) {shape=<b,s,12,64>}", "f32[b,s,12,64]"},
    {"%1 = const i64[4] {0, 0, 12, -1}  %2 = reshape(%x, %1)", "f32[b,s,12,64]"},
    {"%1 = const i64[2] {-1, 768}  %2 = reshape(%x, %1)", "f32[b*s,768]"},
    {"%1 = const i64[2] {-1, 1536}  %2 = reshape(%x, %1)", "f32[floordiv(b*s,2),1536]"},
    {"%1 = const i64[2] {-1, -1}  %2 = reshape(%x, %1)", "error: more than one -1"},
    {"%1 = const i64[2] {-2, 3}  %2 = reshape(%x, %1)", "error: negative size"},
    {"%1 = const i64[2] {-1, 5}  %2 = reshape(%m, %1)", "error: do not divide"},
    {"%1 = const i64[2] {7, 5}  %2 = reshape(%m, %1)", "error: 49152 elements"},
    {"%1 = const i64[1] {0}  %2 = reshape(%m, %1) {allowzero=1}", "error: to [0]"},
    {"%1 = const i64[3] {0,0,0}  %2 = reshape(%m, %1)", "error: copies a dimension"},
    {"%1 = const i64[2] {-1, 4}  %2 = reshape(%u, %1)", "f32[?,4]"},
    {"%1 = reshape(%x, %dyn)", "f32[?,?,?]"},
    {"%1 = reshape(%x, %anyints)", "f32[*]"},
    {"%1 = reshape(%x)", "error: second input"},
    {"%1 = const i64[2] {4611686018427387904, 4611686018427387904}  %2 = reshape(%x, %1)", "error: 64-bit"},
    {"%1 = expand(%y) {shape=<b,s,768>}", "f32[b,s,768]"},
    {"%1 = expand(%v, %dyn)", "f32[?,?,768]"},
    {"%1 = expand(%v) {shape=<767>}", "error: do not broadcast"},
    {"%1 = transpose(%x) {perm=[2,0,1]}", "f32[768,b,s]"},
    {"%1 = transpose(%x)", "f32[768,s,b]"},
    {"%1 = transpose(%x) {perm=[0,0,1]}", "error: twice"},
    {"%1 = transpose(%x) {perm=[0,1,3]}", "error: axis 3 is outside"},
    {"%1 = transpose(%x) {perm=[0,1]}", "error: `perm` has 2 entries"},
    {"%1 = transpose(%u) {perm=[1,0]}", "f32[?,?]"},
    {"%1 = concat(%x, %y) {axis=1}", "f32[b,s+1,768]"},
    {"%1 = concat(%x, %z) {axis=-1}", "f32[b,s,1536]"},
    {"%1 = concat(%x, %m) {axis=0}", "error: has 2 dimensions"},
    {"%1 = concat(%x, %u) {axis=0}", "f32[?,s,768]"},
    {"%1 = concat(%k, %k) {axis=0}", "error: scalars"},
    {"%1 = concat(%x, _) {axis=0}", "error: absent"},
    {"%1, %2, %3 = split(%x) {axis=2}", "f32[b,s,256] f32[b,s,256] f32[b,s,256]"},
    {"%1, %2 = split(%row)", "i64[3] i64[2]"},
    {"%1, %2 = split(%x) {axis=2, sizes=<700,60>}", "error: 760 vs 768"},
    {"%1, %2 = split(%x) {axis=2, sizes=<768>}", "error: 1 sizes for 2 outputs"},
    {"%1, %2 = split(%x) {axis=1, sizes=<1,s-1>}", "f32[b,1,768] f32[b,s-1,768]"},
    {"%1, %2 = split(%u) {axis=1}", "f32[*] f32[*]"},
    {"%1 = slice(%x) {starts=<0>, ends=<9223372036854775807>, axes=[1], steps=[2]}", "f32[b,floordiv(s+1,2),768]"},
    {"%1 = slice(%x) {starts=<-1>, ends=<2147483647>, axes=[1]}", "f32[b,1,768]"},
    {"%1 = slice(%x) {starts=<1>, ends=<9223372036854775807>, axes=[1]}", "f32[b,max(0,s-1),768]"},
    {"%1 = slice(%x) {starts=<0>, ends=<-1>, axes=[1]}", "f32[b,max(0,s-1),768]"},
    {"%1 = slice(%m) {starts=<0>, ends=<s>, axes=[0]}", "f32[min(768,s),64]"},
    {"%1 = slice(%m) {starts=<0>, ends=<s>, axes=[0]}  %2 = slice(%x) {starts=<0>, ends=<64>, axes=[2]}  %3 = add(%2, %1)", "f32[b,s,64]"},
    {"%1 = slice(%m) {starts=<p>, ends=<p+s>, axes=[0]}", "f32[max(0,min(768,p+s)-p),64]"},
    {"%1 = slice(%z) {starts=<-b>, ends=<9223372036854775807>, axes=[1]}", "f32[c,min(b,s),768]"},
    {"%1 = slice(%m) {starts=<-b>, ends=<9223372036854775807>, axes=[1]}", "f32[768,min(64,b)]"},
    {"%1 = slice(%x) {starts=<2>, ends=<9223372036854775807>, axes=[1]}  %2 = slice(%x) {starts=<0>, ends=<2>, axes=[1]}  %3 = concat(%1, "
     "%2) {axis=1}",
     "f32[b,s,768]"},
    {"%1 = slice(%m) {starts=<700,-100>, ends=<900,-1>, axes=[0,1]}", "f32[68,63]"},
    {"%1 = slice(%m) {starts=<-1>, ends=<-9999>, axes=[1], steps=[-3]}", "f32[768,22]"},
    {"%1 = slice(%m) {starts=<5>, ends=<3>, axes=[1]}", "f32[768,0]"},
    {"%1 = slice(%m) {starts=<0>, ends=<3>, axes=[1], steps=[0]}", "error: step of axis 1 is 0"},
    {"%1 = slice(%m) {starts=<0,0>, ends=<3,3>, axes=[1,1]}", "error: sliced twice"},
    {"%1 = slice(%m) {starts=<0,0,0>, ends=<3,3,3>}", "error: axis 2 is outside"},
    {"%1 = slice(%m) {starts=<0>, ends=<3>, axes=[0,1]}", "error: 1 starts for 2 axes"},
    {"%1 = slice(%m)", "error: `starts`"},
    {"%1 = slice(%m, %dyn, %dyn)", "error: axis"},
    {"%1 = slice(%pix, %dyn, %dyn)", "f32[?,?,?,17]"},
    {"%1 = const i64[1] {1}  %2 = const i64[1] {3}  %3 = slice(%m, %1, %2, %1)", "f32[768,2]"},
    {"%1 = const i64[1] {1}  %2 = slice(%x, %i, %i, %1)", "f32[b,?,768]"},
    {"%1 = pad(%x) {pads=[0,1,0,0,2,0]}", "f32[b,s+3,768]"},
    {"%1 = pad(%x) {pads=[1,2], axes=[-1]}", "f32[b,s,771]"},
    {"%1 = pad(%x) {pads=[1,2]}", "error: expected 6 pads"},
    {"%1 = pad(%m) {pads=[-800,0,0,0]}", "error: becomes negative"},
    {"%1 = pad(%x) {pads=[0,0,0,0,0,0], mode=\"mirror\"}", "error: unknown mode"},
    {"%1 = pad(%x, %i)", "f32[?,?,?]"},
    {"%1 = const i64[3] {1, 2, 3}  %2 = tile(%x, %1)", "f32[b,s*2,2304]"},
    {"%1 = const i64[2] {1, 2}  %2 = tile(%x, %1)", "error: 2 repeats"},
    {"%1 = tile(%x, %dyn)", "f32[?,?,?]"},
    {"%1 = gather(%x, %j) {axis=1}", "f32[b,2,3,768]"},
    {"%1 = gather(%x, %x) {axis=1}", "error: indices must be i32 or i64"},
    {"%1 = gather(%k, %k)", "error: x must have"},
    {"%1 = gather_elements(%m, %j) {axis=1}", "f32[2,3]"},
    {"%1 = gather_elements(%x, %j)", "error: differ in rank"},
    {"%1 = gather_nd(%pix, %j)", "f32[2,17]"},
    {"%1 = gather_nd(%m, %j)", "error: do not address"},
    {"%1 = gather_nd(%pix, %j) {batch_dims=1}", "f32[2]"},
    {"%1 = gather_nd(%x, %j) {batch_dims=9}", "error: batch_dims 9"},
    {"%1 = scatter_elements(%m, %j, %m) {axis=1}", "f32[768,64]"},
    {"%1 = scatter_elements(%m, %j, %m) {reduction=\"sub\"}", "error: unknown reduction"},
    {"%1 = scatter_nd(%pix, %j, %m)", "f32[2,8,16,17]"},
    {"%1 = scatter_nd(%pix, %j, %v)", "error: updates must have 2"},
    {"%1 = depth_to_space(%pix) {blocksize=2}", "f32[2,2,32,34]"},
    {"%1 = depth_to_space(%img) {blocksize=2}", "error: 3 does not divide by 4"},
    {"%1 = depth_to_space(%pix) {blocksize=0}", "error: blocksize 0"},
    {"%1 = space_to_depth(%img) {blocksize=2}", "f32[b,12,floordiv(h,2),floordiv(w,2)]"},
    {"%1 = trilu(%m) {upper=0}", "f32[768,64]"},
    {"%1 = trilu(%v)", "error: x must have"},
    {"%1 = reverse_sequence(%x, %i) {batch_axis=0, time_axis=1}", "f32[b,s,768]"},
    {"%1 = const f32[4] {1,1,2,0.5}  %2 = resize(%img, _, %1)", "f32[b,3,h*2,floordiv(w,2)]"},
    {"%1 = const f32[4] {1,1,0.6,0.7}  %2 = resize(%pix, _, %1)", "f32[2,8,9,11]"},
    {"%1 = const i64[2] {30,40}  %2 = resize(%img, _, _, %1) {axes=[2,3]}", "f32[b,3,30,40]"},
    {"%1 = const i64[2] {32,32}  %2 = resize(%pix, _, _, %1) {axes=[2,3], keep_aspect_ratio_policy=\"not_larger\"}", "f32[2,8,30,32]"},
    {"%1 = const f32[4] {1,1,-2,1}  %2 = resize(%img, _, %1)", "error: scale -2"},
    {"%1 = resize(%img)", "error: either scales or sizes"},
    {"%1 = resize(%img, _, %v)", "f32[?,?,?,?]"},
    {"%1 = fill(%dyn)", "f32[?,?,?]"},
    {"%1 = shape(%x)  %2 = fill(%1) {value=dense i64[1]{3}}", "i64[b,s,768]"},
    {"%1 = const i64[1] {-3}  %2 = fill(%1)", "error: negative size"},
    {"%1 = fill()", "error: `shape`"},
    {"%1 = eye_like(%m) {dtype=i32}", "i32[768,64]"},
    {"%1 = const i64[] {10} %2 = onehot(%i, %1, %v) {axis=0}", "f32[10,n]"},
    {"%1 = const f32[] {10} %2 = onehot(%j, %1, %v)", "f32[2,3,10]"},
    {"%1 = onehot(%j, %k, %v)", "f32[2,3,?]"},
    {"%1 = random_normal() {shape=<b,3>}", "f32[b,3]"},
    {"%1 = random_uniform(%i) {dtype=f64}", "f64[n]"},
    {"%1 = bernoulli(%x)", "f32[b,s,768]"},
    {"%1 = multinomial(%m) {sample_size=5}", "i32[768,5]"},
};

const Case kRest[] = {
    {"%1 = reduce_sum(%x) {axes=[-1]}", "f32[b,s,1]"},
    {"%1 = reduce_mean(%x) {axes=[0,1], keepdims=0}", "f32[768]"},
    {"%1 = reduce_min(%x)", "f32[1,1,1]"},
    {"%1 = reduce_sum(%x) {axes=[]}", "f32[b,s,768]"},
    {"%1 = reduce_sum(%x) {axes=[3]}", "error: axis 3 is outside"},
    {"%1 = reduce_sum(%x, %i)", "f32[?,?,?]"},
    {"%1 = reduce_sum(%x, %i) {keepdims=0}", "f32[*]"},
    {"%1 = argmax(%x) {axis=1, keepdims=0}", "i64[b,768]"},
    {"%1 = argmin(%x) {axis=-1}", "i64[b,s,1]"},
    {"%1 = const i64[] {3}  %2 = cumsum(%x, %1)", "error: axis 3"},
    {"%1 = cumsum(%x, %k)", "f32[b,s,768]"},
    {"%1 = cumprod(%x, %k)", "f32[b,s,768]"},
    {"%1 = bitcast(%x) {to=i32}", "i32[b,s,768]"},
    {"%1 = bitcast(%x) {to=i16}", "error: differ in size"},
    {"%1 = softmax(%x)", "f32[b,s,768]"},
    {"%1 = softmax(%i)", "error: expected a float"},
    {"%1 = log_softmax(%x) {axis=7}", "error: axis 7 is outside"},
    {"%1, %2, %3 = layer_norm(%x, %v, %v) {axis=-1}", "f32[b,s,768] f32[b,s,1] f32[b,s,1]"},
    {"%1 = layer_norm(%x, %m) {axis=-1}", "error: differs: 64 vs 768"},
    {"%1 = rms_norm(%x, %v)", "f32[b,s,768]"},
    {"%1, %2 = add_rms_norm(%x, %y, %v)", "f32[b,s,768] f32[b,s,768]"},
    {"%1 = add_layer_norm(%x, %x, %v, %v)", "f32[b,s,768]"},
    {"%1 = batch_norm(%pix, %7, %7, %7, %7)", "f32[2,8,16,17]"},
    {"%1 = batch_norm(%img, %7, %7, %7, %7)", "error: differs: 8 vs 3"},
    {"%1 = instance_norm(%pix, %7, %7)", "f32[2,8,16,17]"},
    {"%1 = group_norm(%pix, %7, %7) {num_groups=4}", "f32[2,8,16,17]"},
    {"%1 = group_norm(%pix, %7, %7) {num_groups=3}", "error: do not divide into 3 groups"},
    {"%1 = group_norm(%pix, %7, %7) {num_groups=0}", "error: must be positive"},
    {"%1 = lrn(%pix) {size=5}", "f32[2,8,16,17]"},
    {"%1 = const i64[1] {5}  %2, %3 = topk(%x, %1)", "f32[b,s,5] i64[b,s,5]"},
    {"%1 = const i64[1] {769}  %2, %3 = topk(%x, %1)", "error: exceeds"},
    {"%1, %2 = topk(%x, %k)", "f32[b,s,?] i64[b,s,?]"},
    {"%1 = nonzero(%x)", "i64[3,?]"},
    {"%1 = nonzero(%u)", "i64[?,?]"},
    {"%1 = const f32[1,6,4] splat {1}  %2 = const f32[1,2,6] splat {1}  %3 = nms(%1, %2)", "i64[?,3]"},
    {"%1 = const f32[1,6,5] splat {1}  %2 = const f32[1,2,6] splat {1}  %3 = nms(%1, %2)", "error: differs: 5 vs 4"},
    {"%1, %2, %3, %4 = unique(%j)", "i64[?] i64[?] i64[6] i64[?]"},
    {"%1 = unique(%j) {axis=1}", "i64[2,?]"},
    {"%1 = compress(%x, %c1) {axis=1}", "f32[b,?,768]"},
    {"%1 = const bool[3] {1, 0, 1}  %2 = compress(%row, %1)", "i64[2]"},
    {"%1, %2, %3 = lstm(%seqs, %w4, %r4) {hidden_size=20}", "f32[s,1,b,20] f32[1,b,20] f32[1,b,20]"},
    {"%1, %2, %3 = lstm(%seqs, %w4, %r4) {layout=1}", "f32[s,b,1,20] f32[s,1,20] f32[s,1,20]"},
    {"%1 = lstm(%seqs, %w4, %r4) {hidden_size=10}", "error: number of rows of w differs: 80 vs 40"},
    {"%1 = lstm(%seqs, %w4, %r4) {direction=\"bidirectional\"}", "error: differs: 1 vs 2"},
    {"%1 = gru(%seqs, %w4, %r4)", "error: number of rows of w differs: 80 vs 60"},
    {"%0 = const f32[1,60,10] splat {0}  %1 = const f32[1,60,20] splat {0}  %2, %3 = gru(%seqs, %0, %1)", "f32[s,1,b,20] f32[1,b,20]"},
    {"%0 = const f32[2,20,10] splat {0}  %1 = const f32[2,20,20] splat {0}  %2, %3 = rnn(%seqs, %0, %1) {direction=\"bidirectional\"}",
     "f32[s,2,b,20] f32[2,b,20]"},
    {"%1 = const f32[] {1}  %2 = quantize(%x, %1) {to=i8}", "i8[b,s,768]"},
    {"%1 = const f32[] {1}  %2 = quantize(%x, %1)", "u8[b,s,768]"},
    {"%1 = quantize(%m, %v) {axis=0}", "u8[768,64]"},
    {"%1 = quantize(%m, %v) {axis=1}", "error: differs: 768 vs 64"},
    {"%1 = const f16[] {1}  %2 = dequantize(%h, %1)", "f16[4,8]"},
    {"%1, %2, %3 = dynamic_quantize(%x)", "u8[b,s,768] f32[] u8[]"},
    {"%1 = if(%c0) with graph t() { %2 = neg(%x) return %2 } with graph e() { %3 = concat(%x, %y) {axis=1} return %3 }", "f32[b,?,768]"},
    {"%1 = if(%c0) with graph t() { return %x } with graph e() { return %m }", "f32[*]"},
    {"%1 = if(%c0) with graph t() { return %x } with graph e() { return %i }", "error: two types"},
    {"%1 = if(%c0) with graph t() { return %x }", "error: expected 2 subgraphs"},
    {"%1 = if(%c0) with graph t() { return } with graph e() { return %x }", "error: no output 0"},
    {"%1 = const i64[] {7}  %2, %3 = loop(%1, _, %x) with graph body(%n0: i64[], %k0: bool[], %a: f32[b,s,768]) { %4 = neg(%a) return %k0, "
     "%4, %v }",
     "f32[b,s,768] f32[7,768]"},
    {"%2, %3 = loop(%k, %c0, %x) with graph body(%n0: i64[], %k0: bool[], %a: f32[b,s0,768]) { %4 = concat(%a, %y) {axis=1} return %k0, "
     "%4, %v }",
     "f32[b,?,768] f32[?,768]"},
    {"%2 = loop(%k) with graph body() { return }", "error: expected a trip count"},
    {"%2 = loop(_, _, %x) with graph body(%n0: i64[]) { return %n0, %n0 }", "error: the body takes 1 inputs"},
    {"%1, %2 = scan(%y, %x) {num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[-1]} with graph body(%a: f32[b,1,768], %e: "
     "f32[b,768]) { %3 = neg(%a) "
     "%4 = neg(%e) return %3, %4 }",
     "f32[b,1,768] f32[b,768,s]"},
    {"%1 = scan(%x) {num_scan_inputs=5} with graph body(%a: f32[*]) { return %a }", "error: num_scan_inputs is 5 of 1"},
};

// Constants of the convolution and normalisation cases, so that their lines stay short.
constexpr const char* kPrelude =
    "%0 = const f32[8,3,3,3] splat {1}  %4 = const f32[3,5,2,2] splat {1}  %5 = const f32[4,8,3,3] splat {1}  %6 = const f32[8,10,3,3] "
    "splat {1}  %7 = const f32[8] splat {1}\n";

void check(std::span<const Case> cases) {
  for (const Case& c : cases) {
    SCOPED_TRACE(c.lines);
    const std::string lines = c.lines, all = kPrelude;
    std::string used;
    for (const std::string name : {"%0", "%4", "%5", "%6", "%7"}) {
      const bool defined = lines.find(name + " =") != std::string::npos || lines.find(name + ", ") == 0 ||
                           lines.find(", " + name + " =") != std::string::npos;
      if (defined || lines.find(name) == std::string::npos) continue;
      const size_t start = all.find(name + " ="), end = all.find('}', start) + 1;
      used += all.substr(start, end - start) + "\n";
    }
    const std::string found = infer(used + lines), expected = c.expected;
    if (expected.starts_with("error: ")) {
      EXPECT_TRUE(found.starts_with("error: ") && found.find(expected.substr(7)) != std::string::npos)
          << "expected " << expected << "\n   found " << found;
    } else {
      EXPECT_EQ(found, expected);
    }
  }
}

TEST(Infer, Pointwise) { check(kPointwise); }
TEST(Infer, ShapeArithmetic) { check(kShapeArithmetic); }
TEST(Infer, Linear) { check(kLinear); }
TEST(Infer, Movement) { check(kMovement); }
TEST(Infer, Rest) { check(kRest); }

// Plain elementwise operators share their functions; the table above names one of each kind, this the rest.
TEST(Infer, EveryElementwiseOperatorKeepsItsShape) {
  for (const OpDef* op : all_ops()) {
    if (!op->has(kUnary) && !op->has(kBinary)) continue;
    bool accepted = false;
    for (const char* input : {"%x", "%i", "%c"})
      for (const char* attrs : {"", " {to=f32}"}) {
        const std::string arguments = op->has(kBinary) ? std::string(input) + ", " + input : input;
        const std::string found = infer("%1 = " + std::string(op->name) + "(" + arguments + ")" + attrs);
        const std::string shape = input == std::string("%x") ? "[b,s,768]" : input == std::string("%i") ? "[n]" : "[b,s,1]";
        if (found.starts_with("error: ")) continue;
        accepted = true;
        EXPECT_NE(found.find(shape), std::string::npos) << op->name << ": " << found;
      }
    EXPECT_TRUE(accepted) << op->name;
  }
}

// A new operator must bring a case: every name occurs in a table above, or is elementwise.
TEST(Infer, EveryOperatorIsCovered) {
  std::string all;
  for (std::span<const Case> cases : {std::span<const Case>(kPointwise), std::span<const Case>(kShapeArithmetic),
                                      std::span<const Case>(kLinear), std::span<const Case>(kMovement), std::span<const Case>(kRest)})
    for (const Case& c : cases) all += std::string(c.lines) + "\n";
  for (const OpDef* op : all_ops()) {
    const bool listed = op->has(kUnary) || op->has(kBinary) || all.find("= " + std::string(op->name) + "(") != std::string::npos;
    EXPECT_TRUE(listed) << op->name;
  }
}

// Unranked and absent inputs, odd attributes: an Error or types, never a crash. Numbers are chosen to overflow and to divide by zero.
TEST(Infer, AnythingGoesWithoutCrashing) {
  const char* inputs[] = {"%u", "_", "%x", "%k", "%anyints", "%c0", "%row", "%str"};
  const char* numbers[] = {"0", "-1", "9223372036854775807", "-9223372036854775808", "3"};
  for (const OpDef* op : all_ops()) {
    for (const char* input : inputs)
      for (const char* number : numbers) {
        std::string arguments;
        const int count = op->max_inputs < 0 ? op->min_inputs + 1 : op->max_inputs;
        for (int i = 0; i < count; ++i) arguments += std::string(i ? ", " : "") + (i % 2 ? input : inputs[(i + number[0]) % 8]);
        std::string attrs;
        for (const AttrSpec& a : op->attrs) {
          std::string value;
          switch (a.kind) {
            case AttrKind::Int:
            case AttrKind::Float: value = number; break;
            case AttrKind::Ints: value = std::string("[") + number + "," + number + "]"; break;
            case AttrKind::Dims: value = std::string("<s,") + number + ">"; break;
            case AttrKind::DType: value = "i4"; break;
            case AttrKind::Tensor: value = "dense i64[1]{-1}"; break;
            default: continue;
          }
          attrs += (attrs.empty() ? "" : ", ") + std::string(a.name) + "=" + value;
        }
        for (const std::string& text : {"{" + attrs + "}", std::string()}) {
          if (text.empty() && number != numbers[0]) continue;
          const std::string found = infer("%1 = " + std::string(op->name) + "(" + arguments + ") " + text);
          EXPECT_EQ(found.find("internal error"), std::string::npos) << op->name << ": " << found;
        }
      }
  }
}

// At bind time the same functions see numbers: symbols in attributes are replaced, and broadcasting is exact.
TEST(Infer, Binding) {
  const auto graph =
      parse("graph main(%x: f32[b,s,768], %z: f32[c,s,768]) { %1 = reshape(%x) {shape=<b,s,12,64>} %2 = add(%x, %z) return %1, %2 }");
  const Dim::Bindings bindings{{"b", 2}, {"c", 3}, {"s", 5}};
  const auto bind = [&](const Node& node) {
    std::vector<ValueInfo> inputs;
    for (const Value* v : node.inputs()) {
      TensorType t = v->type;
      for (Dim& d : t.dims) d = d.substitute(bindings);
      inputs.push_back({t, std::nullopt, Tensor()});
    }
    InferContext ctx(
        node, inputs, node.num_outputs(), []() -> Dim { return 0; }, &bindings);
    node.op().infer(ctx);
    return to_string(ctx.outputs()[0].type);
  };
  EXPECT_EQ(bind(*graph->nodes().front()), "f32[2,5,12,64]");
  EXPECT_THROW(bind(*graph->nodes().back()), Error);
}

}  // namespace
}  // namespace tokamak::ir
