#!/usr/bin/env bash
# Builds, tests and measures Tokamak on a machine with an NVIDIA GPU, in one call; see --help. docs/performance.md says what the figures mean.
set -uo pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)

help() {
  cat <<'TEXT'
usage: benchmarks/gpu.sh [OPTIONS]

  --output DIR        where logs and tables go (default: benchmarks/results/gpu-DATE)
  --steps LIST        of build,code,tests,sanitizer,conformance,models,goldens,kernels,attention,llm,prefill,saturated,gaps,onnx (default: all
                      but code and sanitizer), in this order whatever the list's. code: compiles what the tests run into --code-cache; needs
                      no GPU, so that a machine that has one need not spend its time on it
  --prebuilt DIR      take DIR/bin/{tokamak,tokamak_tests,...} and the libraries of DIR/lib instead of building (made by --pack)
  --pack DIR          build here (no GPU needed) and copy what --prebuilt wants to DIR, then stop
  --deps DIR          build against headers and libraries of DIR/usr, or of the .deb files in DIR, beside the system's
  --build DIR         build folder (default: build/gpu)
  --cases FILE        the ONNX backend cases as an archive, or a folder of them (default: ../shared/onnx-conformance/open.tar.zst)
  --models DIR        folders of model.onnx with expected outputs (default: ../shared/models/onnx)
  --case-filter RE    the backend cases whose path matches
  --goldens DIR       checkpoint folders with reference.json (default: ../shared/models/llm)
  --text FILE         what perplexity is measured on (default: ../shared/models/data/heldout.txt.gz)
  --filter PATTERN    of the tests, as GoogleTest takes it (default: *Cuda*:*Gpu*:*Device*; for the sanitizers those of our kernels)
  --sanitizer TOOLS   run the tests of our kernels under compute-sanitizer: of memcheck,racecheck,synccheck,initcheck, one after the other.
                      Without --steps nothing else but the build
  --jobs N            processes side by side in tests and checks (default: two less than there are cores)
  --code-cache DIR    compiled kernels, kept between calls (default: tokamak-cuda-code in the folder of temporary files)
  --engines DIR       built language models, kept between steps (default: a folder in /dev/shm that goes with the call, when it has room)
  --precisions LIST   of the llm step (default: fp16,int8,fp8,int4)
  --batches LIST      of the llm step (default: 1,8,64)
  --loads LIST        of the saturated step: prompt and new tokens of 1,000 requests (default: 128/128,2048/128,1000/1000)
  --peers             measure PyTorch with torch.compile in the same run (minutes of compiling)
  --limit SECONDS     for everything (default: 570); a step that is out of time is cut off and says so

Each step writes OUTPUT/STEP.log; OUTPUT/summary.md has the tables. Exit status 0 when every step that ran succeeded.
TEXT
}

output= steps= prebuilt= pack= deps= build=$root/build/gpu
cases=$root/../shared/onnx-conformance/open.tar.zst models=$root/../shared/models/onnx filter=
goldens=$root/../shared/models/llm text=$root/../shared/models/data/heldout.txt.gz
case_filter= sanitizer= precisions=fp16,int8,fp8,int4 batches=1,8,64 loads=128/128,2048/128,1000/1000 peers= limit=570
jobs=$(($(nproc) > 3 ? $(nproc) - 2 : 1)) code_cache=${TMPDIR:-/tmp}/tokamak-cuda-code engines=
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) help; exit 0 ;;
    --peers) peers=1; shift; continue ;;
    --output | --steps | --prebuilt | --pack | --deps | --build | --cases | --models | --case-filter | --goldens | --text | \
      --filter | --sanitizer | --jobs | --code-cache | --engines | --precisions | --batches | --loads | --limit)
      [ $# -ge 2 ] || { echo "error: $1 needs a value" >&2; exit 2; }
      name=${1#--}
      declare "${name//-/_}=$2"
      shift 2 ;;
    *) echo "error: unknown option $1 (--help lists them)" >&2; exit 2 ;;
  esac
done
all=build,tests,conformance,models,goldens,kernels,attention,llm,prefill,saturated,gaps,onnx
[ -n "$steps" ] || steps=$([ -n "$sanitizer" ] && echo build,sanitizer || echo $all)
[ -z "$pack" ] || steps=build
sanitizer=${sanitizer:-memcheck,racecheck}
output=${output:-$root/benchmarks/results/gpu-$(date +%Y%m%d-%H%M)}
mkdir -p "$output"
output=$(cd "$output" && pwd)
summary=$output/summary.md
started=$SECONDS status=0

left() { echo $((limit - (SECONDS - started))); }
note() { printf '%s\n' "$*" | tee -a "$summary"; }

# step NAME FUNCTION: runs it within the time that is left.
step() {
  case ",$steps," in *",$1,"*) ;; *) return 0 ;; esac
  local name=$1 begin=$SECONDS seconds rc
  seconds=$(left)
  if [ "$seconds" -lt 5 ]; then
    note "- $name: not run, out of time"
    status=1
    return 0
  fi
  echo "== $name" >&2
  # A function cannot be run by timeout(1): run this script's environment in a subshell that is killed when time is out.
  ( "step_$name" ) >"$output/$name.log" 2>&1 &
  local pid=$! waited=0
  while kill -0 "$pid" 2>/dev/null; do
    if [ "$waited" -ge "$seconds" ]; then
      kill_tree "$pid"
      break
    fi
    sleep 1
    waited=$((waited + 1))
  done
  wait "$pid" 2>/dev/null
  rc=$?
  if [ "$waited" -ge "$seconds" ]; then note "- $name: cut off after $((SECONDS - begin)) s"; else note "- $name: $([ $rc -eq 0 ] && echo ok || echo "FAILED ($rc)"), $((SECONDS - begin)) s"; fi
  [ $rc -eq 0 ] || { status=1; tail -n 15 "$output/$name.log" >&2; }
  [ -f "$output/$name.md" ] && { note ""; cat "$output/$name.md" | tee -a "$summary"; note ""; }
  return 0
}
kill_tree() {
  local child
  for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do kill_tree "$child"; done
  kill -9 "$1" 2>/dev/null
}

bin=$build/bin
if [ -n "$prebuilt" ]; then
  bin=$(cd "$prebuilt" && pwd)/bin
  export LD_LIBRARY_PATH=$(dirname "$bin")/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
# NVRTC, cuBLASLt and cuDNN are opened by name.
for folder in /usr/local/cuda/lib64 "$(python3 -c 'import nvidia.cudnn, os; print(os.path.join(list(nvidia.cudnn.__path__)[0], "lib"))' 2>/dev/null)"; do
  [ -d "$folder" ] && export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
done
tokamak=$bin/tokamak
export TOKAMAK_CUDA_CODE_CACHE=$code_cache
if [ -z "$engines" ]; then
  free_kib=$(df --output=avail /dev/shm 2>/dev/null | tail -n 1)
  [ "${free_kib:-0}" -gt $((60 << 20)) ] && engines=$(mktemp -d /dev/shm/tokamak-engines.XXXXXX) || engines=$(mktemp -d)
  trap 'rm -rf "$engines"' EXIT
fi

step_build() {
  if [ -n "$prebuilt" ]; then
    "$tokamak" --version
    return
  fi
  local options=(-DCMAKE_BUILD_TYPE=Release -DTOKAMAK_CUDA=ON -DTOKAMAK_ONEDNN=OFF -DTOKAMAK_SERVER=OFF -DTOKAMAK_BENCHMARKS=ON)
  if [ -n "$deps" ]; then
    local prefix=$deps/usr
    if ls "$deps"/*.deb >/dev/null 2>&1; then
      prefix=$build/deps/usr
      mkdir -p "$build/deps"
      for package in "$deps"/*.deb; do dpkg-deb -x "$package" "$build/deps"; done
    fi
    options+=("-DCMAKE_PREFIX_PATH=$prefix")
  fi
  cmake -G Ninja -S "$root" -B "$build" "${options[@]}" && ninja -C "$build" tokamak tokamak_tests tokamak_cuda_kernels tokamak_cuda_attention tokamak_cuda_trace
}

pack_binaries() {
  mkdir -p "$pack/bin" "$pack/lib"
  local program
  [ ! -f "$build/bin/libtokamak_cuda_trace.so" ] || cp "$build/bin/libtokamak_cuda_trace.so" "$pack/bin/"
  for program in tokamak tokamak_tests tokamak_cuda_kernels tokamak_cuda_attention; do
    cp "$build/bin/$program" "$pack/bin/"
    strip "$pack/bin/$program"
    # Everything but the C and C++ run time, which every machine has.
    ldd "$build/bin/$program" | awk '$3 ~ /^\// { print $3 }' | grep -vE '/(libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s|ld-linux[^/]*)\.' |
      xargs -r -I{} cp -Ln {} "$pack/lib/"
  done
  du -sh "$pack" | cut -f1
}

# run_tests OUTPUT FILTER [COMMAND...]: each test in a process of its own under COMMAND, side by side on all GPUs, those that compile most
# first, the cases of the longest divided among `shares` processes. What has not ended after `test_limit` seconds is cut off, which the
# table counts.
run_tests() {
  local parts=$1 filter=$2 gpus deadline=$(($(date +%s) + ${test_limit:-240}))
  shift 2
  rm -rf "$parts"
  mkdir -p "$parts"
  gpus=${CUDA_VISIBLE_DEVICES:-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd,)}
  "$bin/tokamak_tests" --gtest_filter="$filter" --gtest_list_tests | awk '/^[^ ].*\.$/ { suite = $1 } /^  / { print suite $1 }' |
    awk -v n="${shares:-1}" -v gpus="${gpus:-0}" 'BEGIN { num_gpus = split(gpus, gpu, ",") }
      { long = $0 ~ /(Cached|Paged|Mixed)Attention|AttentionWgmma|LinearGated|LinearWarpgroups|LargeLayers/ && $0 !~ /Compiles/
        rank = long ? 0 : $0 ~ /Attention|Conv|Matmul|Linear|MmaTile/ ? 1 : 2
        for (i = 0; i < (long ? n : 1); ++i) print rank "\t" NR "\t" $0, i "/" (long ? n : 1), gpu[count++ % num_gpus + 1] }' |
    sort -n -s -k 1,1 | cut -f3 >"$parts/names"
  xargs -a "$parts/names" -r -P "$jobs" -n 3 bash -c 'parts=$0 binary=$1 seconds=$(($2 - $(date +%s))) command=$3
    log=$(mktemp "$parts/log.XXXXXX"); echo "$4" >"$log.names"
    [ "$seconds" -gt 0 ] || exit 0
    TOKAMAK_TEST_SHARE=$5 CUDA_VISIBLE_DEVICES=$6 timeout -k 5 "$seconds" $command "$binary" --gtest_filter="$4" >"$log" 2>&1
    echo "exit $?" >>"$log"' "$parts" "$bin/tokamak_tests" "$deadline" "$*"
}

step_code() {
  local pattern=${filter:-*Cuda*:*Gpu*:*Device*}
  TOKAMAK_TEST_ALL=1 shares=4 test_limit=$(left) run_tests "$output/code-parts" "$pattern"
  local rc=0
  test_table "$output/code.md" "compiled" "$output/code-parts" || rc=1
  cat "$output"/code-parts/log.??????
  rm -rf "$output/code-parts"
  return $rc
}

# Free memory is the whole GPU's: tests that look at it run alone.
alone='Cuda*ComesBack*:Cuda*WhatDoesNotFit*:Cuda*LoadingAndUnloading*'

step_tests() {
  local rc=0 test_limit=$(($(left) - 40))
  [ "$test_limit" -lt 240 ] || test_limit=240
  local pattern=${filter:-*Cuda*:*Gpu*:*Device*}
  case $pattern in *-*) pattern+=:$alone ;; *) pattern+=-$alone ;; esac
  shares=4 run_tests "$output/tests-parts" "$pattern"
  jobs=1 run_tests "$output/tests-alone" "$alone"
  test_table "$output/tests.md" "plain" "$output/tests-parts" "$output/tests-alone" || rc=1
  cat "$output"/tests-{parts,alone}/log.?????? # the log of the step
  rm -rf "$output"/tests-{parts,alone}
  return $rc
}

# Our kernels only: instrumenting a library's takes minutes. For races only what has shared memory.
step_sanitizer() {
  local tool rc=0 begin seconds tools=${sanitizer//,/ } pattern count
  count=$(wc -w <<<"$tools")
  for tool in $tools; do
    pattern='*Cuda*-CudaExecutor.*:CudaDeviceConstants.*:*CudaConformance*:*CompilesForEveryArchitecture*:*.Compiles:CudaStep*'
    [ $tool != racecheck ] || pattern+=':CudaPointwise.*:CudaGather.*:CudaResize.*:CudaPool.*'
    # Too large for it; CudaSampler.FewDraws and *.SmallLayers run their kernels.
    [ $tool != racecheck ] || pattern+=':CudaSampler.DrawsAsTheCpuDoes:CudaLinearLayers.LargeLayers:*.DequantizedSlices:*Warpgroups.EveryTileOfTokens*:*Warpgroups.LayersOfAModel*'
    pattern=${filter:-$pattern}
    begin=$SECONDS
    seconds=$(($(left) / count - 5)) count=$((count - 1))
    TOKAMAK_TEST_KERNELS=cuda. shares=8 test_limit=$seconds run_tests "$output/$tool-parts" "$pattern" \
      compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 9 --print-limit 20
    test_table "$output/$tool.md" "$tool" "$output/$tool-parts" || rc=1
    cat "$output/$tool.md" >>"$output/sanitizer.md"
    cat "$output/$tool-parts"/log.?????? >"$output/$tool.log"
    rm -rf "$output/$tool-parts" "$output/$tool.md"
    echo "$tool: $((SECONDS - begin)) s"
  done
  return $rc
}

# test_table FILE.md NAME FOLDER...: what became of the tests of run_tests' folders, all their names in FILE.json. Fails when one failed, was cut off, or a sanitizer said something.
test_table() {
  python3 - "$@" <<'PY'
import glob, json, re, sys
table, name, folders = sys.argv[1], sys.argv[2], sys.argv[3:]
statuses, reports = {}, []  # of a test: of each process that ran some of its cases
for folder in folders:
    for path in glob.glob(folder + "/log.??????"):
        text, test = open(path, errors="replace").read(), open(path + ".names").read().strip()
        if "terminated before first instrumented API call" in text and "[  PASSED  ]" in text:
            text = text.replace("exit 255", "exit 0")  # a share without a case, as the sanitizer puts it
        status = re.search(r"^\[ +(OK|FAILED|SKIPPED) +\] [^ ,]+(?:, where .*)? \(\d+ ms\)", text, re.M)
        statuses.setdefault(test, []).append(status[1] if status else "CUT")
        reports += [f"{count} in {test}" for count in re.findall(r"(?:ERROR SUMMARY|RACECHECK SUMMARY): (\d+)", text) if int(count) > 0]
        reports += [f"exit {code} of {test}" for code in re.findall(r"^exit (\d+)$", text, re.M) if status and int(code) not in (0, 1)]
passed, failed, skipped, cut = [], [], [], []
for test, all_of in statuses.items():
    (failed if "FAILED" in all_of else cut if "CUT" in all_of else skipped if "SKIPPED" in all_of else passed).append(test)
json.dump({"passed": passed, "failed": failed, "skipped": skipped, "not finished": cut, "reports": reports}, open(table[:-2] + "json", "w"), indent=1)
with open(table, "w") as file:
    print(f"| tests, {name} | passed | failed | skipped | not finished | reports |\n| --- | --- | --- | --- | --- | --- |", file=file)
    print(f"| {len(passed) + len(failed) + len(skipped) + len(cut)} | {len(passed)} | {len(failed)} | {len(skipped)} | {len(cut)} | {len(reports)} |\n", file=file)
    for title, lines in (("failed", failed), ("not finished", cut), ("reported", reports)):
        for line in sorted(lines)[:20]:
            print(f"- {title}: {line}", file=file)
sys.exit(bool(failed or cut or reports or not passed))
PY
}

# In batches side by side: the compiler takes most of the time, and a kernel that breaks its process takes no other batch with it.
step_conformance() {
  local folder=$cases parts=$output/conformance-parts
  if [ -f "$cases" ]; then
    folder=$output/cases
    mkdir -p "$folder"
    tar -C "$folder" -xf "$cases" || return 1
  fi
  mkdir -p "$parts"
  find "$folder" -name model.onnx -printf '%h\n' | sort | grep "${case_filter:-.}" |
    xargs -r -P "$jobs" -n 40 bash -c 'timeout 300 "$0" verify "${@:2}" --device cuda --opt-level 0 --threads 1 --quiet --json "$1/$$.json"' "$tokamak" "$parts"
  python3 - "$parts" "$output/conformance.json" "$(find "$folder" -name model.onnx | grep -c "${case_filter:-.}")" >"$output/conformance.md" <<'PY'
import glob, json, sys
total = {"passed": 0, "failed": 0, "unsupported": 0, "skipped": 0, "cases": []}
for path in sorted(glob.glob(sys.argv[1] + "/*.json")):
    part = json.load(open(path))
    for key in total:
        total[key] += part[key]
json.dump(total, open(sys.argv[2], "w"), indent=1)
lost = int(sys.argv[3]) - len(total["cases"])  # of batches that ended early
host = sum(c["status"] == "passed" and c["host_nodes"] > 0 for c in total["cases"])
print("| ONNX backend cases | passed | of them with nodes on the CPU | failed | unsupported | lost in a crash |\n| --- | --- | --- | --- | --- | --- |")
print(f"| {sys.argv[3]} | {total['passed']} | {host} | {total['failed']} | {total['unsupported']} | {lost} |")
# A case or another fails for good reasons: 95 in a hundred of those that can run is what is asked.
sys.exit(total["passed"] < 19 * (total["failed"] + lost) or total["passed"] == 0)
PY
  local rc=$?
  [ "$folder" = "$cases" ] || rm -rf "$folder"
  rm -rf "$parts"
  return $rc
}

# Quantized graphs in fp32 only: a value that lower precision moves over a step of theirs moves by the whole step.
step_models() {
  local parts=$output/models-parts
  mkdir -p "$parts"
  for precision in fp32 tf32 fp16 bf16; do find -L "$models" -name model.onnx -printf "$precision %h\n"; done | sort -k 2 |
    grep -vE '^(tf32|fp16|bf16) .*\.(qdq|dynamic)$' >"$parts/list"
  xargs -a "$parts/list" -r -P "$jobs" -n 2 bash -c 'timeout 300 "$0" verify "$3" --device cuda --precision "$2" --opt-level 1 --threads 2 --quiet \
      --json "$1/$2.$(basename "$3").json" || echo "exit $?: $2 $3"' "$tokamak" "$parts"
  python3 - "$parts" "$output/models.json" >"$output/models.md" <<'PY'
import glob, json, os, sys
print("| models, expected outputs | folders | cases passed | of them with nodes on the CPU | failed | unsupported | lost in a crash |\n| --- | --- | --- | --- | --- | --- | --- |")
wanted = [line.split()[0] for line in open(sys.argv[1] + "/list")]
total, bad, names = {}, not wanted, []
for precision in ("fp32", "tf32", "fp16", "bf16"):
    sums = {"passed": 0, "failed": 0, "unsupported": 0, "host": 0}
    paths = glob.glob(f"{sys.argv[1]}/{precision}.*.json")
    for path in paths:
        part = json.load(open(path))
        total.setdefault(precision, {})[os.path.basename(path)[len(precision) + 1 : -5]] = part
        for key in ("passed", "failed", "unsupported"):
            sums[key] += part[key]
        sums["host"] += part.get("fell_back", {}).get("passed", 0)
        names += [f"- {precision} {case.get('name', case)}: {case['status']} {case.get('message', '')}" for case in part["cases"] if case["status"] not in ("passed", "skipped")]
    lost = wanted.count(precision) - len(paths)
    bad |= sums["failed"] + sums["unsupported"] > 0 or lost > 0
    print(f"| {precision} | {wanted.count(precision)} | {sums['passed']} | {sums['host']} | {sums['failed']} | {sums['unsupported']} | {lost} |")
print("\n" + "\n".join(names[:20]) if names else "")
json.dump(total, open(sys.argv[2], "w"), indent=1)
sys.exit(bad)
PY
  local rc=$?
  rm -rf "$parts"
  return $rc
}

step_goldens() {
  python3 "$root/benchmarks/llm_goldens.py" --tokamak "$tokamak" --models "$goldens" --text "$text" --precisions fp32,bf16 --jobs "$((jobs < 6 ? jobs : 6))" \
    --json "$output/goldens.json" >"$output/goldens.md"
}

step_kernels() { "$bin/tokamak_cuda_kernels" "$root"/benchmarks/cuda/*.txt; }

step_attention() { "$bin/tokamak_cuda_attention"; }

# llm_bench PRECISION JSON ARGUMENTS...
llm_bench() {
  local precision=$1 json=$2
  shift 2
  "$tokamak" bench --synthetic "${model:-llama-2-7b}" --device cuda --precision "$precision" --cache-dir "$engines" --timing-cache "$output/timings.txt" \
    --json "$json" "$@"
}

step_llm() {
  local precision rc=0
  for precision in ${precisions//,/ }; do
    llm_bench "$precision" "$output/llm-$precision.json" --batch "$batches" --prompt-tokens 128 --new-tokens 128 --max-num-batched-tokens 8192 || rc=1
  done
  [ -z "$peers" ] || python3 "$root/benchmarks/compare_torch.py" llm --batches "$batches" --json "$output/llm-torch.json" || rc=1
  python3 "$root/benchmarks/compare_torch.py" llm-table "$output" >"$output/llm.md" || rc=1
  memory_table "$output"/llm-*.json >>"$output/llm.md" || rc=1
  return $rc
}

# One prompt, nothing else running: time to the first token.
step_prefill() {
  local precision tokens rc=0
  for precision in bf16 fp8; do
    for tokens in 128 2048; do
      llm_bench "$precision" "$output/prefill-$precision-$tokens.json" --batch 1 --prompt-tokens $tokens --new-tokens 4 --max-num-batched-tokens 8192 || rc=1
    done
  done
  python3 - "$output" >"$output/prefill.md" <<'PY' || rc=1
import glob, json, sys
print("| Llama-2-7B shape, one prompt | tokens | TTFT ms | prompt tokens/s |\n| --- | --- | --- | --- |")
for path in sorted(glob.glob(sys.argv[1] + "/prefill-*.json")):
    result = json.load(open(path))
    for run in result["runs"]:
        print(f"| {result['precision']} | {run['prompt_tokens']} | {run['ttft_ms']:.2f} | {run['prefill_tokens_per_s']:.0f} |")
PY
  return $rc
}

# memory_table FILE...: what language models planned to take of the GPU's memory before allocating, and by how much free memory shrank.
memory_table() {
  python3 - "$@" <<'PY'
import json, sys
print("\n| GPU memory, GiB | weights | KV cache | activations | planned | used |\n| --- | --- | --- | --- | --- | --- |")
for path in sys.argv[1:]:
    result = json.load(open(path))
    for run in result.get("runs", []) + [result]:
        if memory := run.get("device_memory"):
            load = f", {run['prompt_tokens']} + {run['new_tokens']}" if run is not result else ""
            figures = [f"{memory[key + '_bytes'] / 2**30:.2f}" for key in ("weights", "kv_cache", "arena", "planned", "used")]
            print(f"| {result['model']} {result['precision']}{load} | " + " | ".join(figures) + " |")
PY
}

# 1,000 requests through the engine as fast as it takes them; the program prints its tables.
step_saturated() {
  local rc=0
  model=llama-3.1-8b llm_bench fp8 "$output/saturated.json" --kv-dtype fp8 --requests 1000 --loads 128/128,2048/128,1000/1000 --profile-layers || rc=1
  python3 - "$output/saturated.json" >"$output/saturated.md" <<'PY' || rc=1
import json, sys
result = json.load(open(sys.argv[1]))
print("| Llama-3.1-8B shape, saturated | requests | prompt + new | output tokens/s | all tokens/s | seconds | steps decoding, mixed | between steps |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
for r in result["runs"]:
    steps = ", ".join(str(int(r["steps"][kind]["steps"])) for kind in ("decode", "mixed"))
    print(f"| {result['precision']} | {r['requests']} | {r['prompt_tokens']} + {r['new_tokens']} | {r['output_tokens_per_s']:.0f} | {r['total_tokens_per_s']:.0f} | {r['wall_s']:.1f} | {steps} | {100 * r['gap_ms'] / 1e3 / r['wall_s']:.1f} % |")
PY
  memory_table "$output/saturated.json" >>"$output/saturated.md" || rc=1
  return $rc
}

# What part of a decode step no kernel runs, from records of every kernel (gpu_gaps.py).
step_gaps() {
  local precision level rc=0
  for precision in fp16 int4; do
    for level in graphs nodes; do
      python3 "$root/benchmarks/gpu_gaps.py" --library "$bin/libtokamak_cuda_trace.so" --level $level --json "$output/gaps-$precision-$level.json" -- \
        "$tokamak" bench --synthetic llama-2-7b --device cuda --precision $precision --batch 1 --prompt-tokens 128 --new-tokens 128 \
        --max-num-batched-tokens 8192 --cache-dir "$engines" --timing-cache "$output/timings.txt" --json - >"$output/gaps-$precision-$level.txt" || rc=1
      head -n 1 "$output/gaps-$precision-$level.txt" | sed "s/^/- $precision: /" >>"$output/gaps.md"
    done
  done
  cat "$output"/gaps-*.txt
  return $rc
}

step_onnx() {
  python3 "$root/benchmarks/compare_torch.py" models --tokamak "$tokamak" --json "$output/onnx.json" ${peers:+--peers} --table "$output/onnx.md"
}

if [ ! -s "$summary" ]; then
  note "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo 'no GPU')"
  note "commit $(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown), $(date -u '+%Y-%m-%d %H:%M') UTC"
  note ""
fi
for name in build code tests sanitizer conformance models goldens kernels attention llm prefill saturated gaps onnx; do
  step "$name"
  [ "$name" = build ] && [ $status -ne 0 ] && break
done
[ -z "$pack" ] || { [ $status -eq 0 ] && pack_binaries; }
note ""
note "total $((SECONDS - started)) s"
exit $status
