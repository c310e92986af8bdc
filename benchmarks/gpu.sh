#!/usr/bin/env bash
# Builds, tests and measures Tokamak on a machine with an NVIDIA GPU, in one call; see --help. docs/performance.md says what the figures mean.
set -uo pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)

help() {
  cat <<'TEXT'
usage: benchmarks/gpu.sh [OPTIONS]

  --output DIR        where logs and tables go (default: benchmarks/results/gpu-DATE)
  --steps LIST        of build,tests,conformance,models,kernels,llm,onnx (default: all of these) and saturated, in this order
  --prebuilt DIR      take DIR/bin/{tokamak,tokamak_tests,...} and the libraries of DIR/lib instead of building (made by --pack)
  --pack DIR          build here (no GPU needed) and copy what --prebuilt wants to DIR, then stop
  --deps DIR          build against headers and libraries of DIR/usr, or of the .deb files in DIR, beside the system's
  --build DIR         build folder (default: build/gpu)
  --cases FILE        the ONNX backend cases as an archive, or a folder of them (default: ../shared/onnx-conformance/open.tar.zst)
  --models DIR        folders of model.onnx with expected outputs (default: ../shared/models/onnx)
  --case-filter RE    the backend cases whose path matches
  --filter PATTERN    of the tests, as GoogleTest takes it (default: Cuda*:*Gpu*:*Device*)
  --sanitizer TOOL    run the tests under compute-sanitizer's memcheck, racecheck, synccheck or initcheck; nothing else but the build
  --precisions LIST   of the llm step (default: fp16,int8,fp8,int4)
  --batches LIST      of the llm step (default: 1,8,64)
  --loads LIST        of the saturated step: prompt and new tokens of 1,000 requests (default: 128/128,2048/128,1000/1000)
  --peers             measure PyTorch with torch.compile in the same run (minutes of compiling)
  --limit SECONDS     for everything (default: 570); a step that is out of time is cut off and says so

Each step writes OUTPUT/STEP.log; OUTPUT/summary.md has the tables. Exit status 0 when every step that ran succeeded.
TEXT
}

output= steps=build,tests,conformance,models,kernels,llm,onnx prebuilt= pack= deps= build=$root/build/gpu
cases=$root/../shared/onnx-conformance/open.tar.zst models=$root/../shared/models/onnx filter='Cuda*:*Gpu*:*Device*'
case_filter= sanitizer= precisions=fp16,int8,fp8,int4 batches=1,8,64 loads=128/128,2048/128,1000/1000 peers= limit=570
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) help; exit 0 ;;
    --peers) peers=1; shift; continue ;;
    --output | --steps | --prebuilt | --pack | --deps | --build | --cases | --models | --case-filter | --filter | --sanitizer | --precisions | --batches | --loads | --limit)
      [ $# -ge 2 ] || { echo "error: $1 needs a value" >&2; exit 2; }
      name=${1#--}
      declare "${name//-/_}=$2"
      shift 2 ;;
    *) echo "error: unknown option $1 (--help lists them)" >&2; exit 2 ;;
  esac
done
[ -z "$sanitizer" ] || steps=build,sanitizer
[ -z "$pack" ] || steps=build
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

step_build() {
  if [ -n "$prebuilt" ]; then
    "$tokamak" --version
    return
  fi
  local options=(-DCMAKE_BUILD_TYPE=Release -DTOKAMAK_CUDA=ON -DTOKAMAK_ONEDNN=OFF -DTOKAMAK_BENCHMARKS=ON)
  if [ -n "$deps" ]; then
    local prefix=$deps/usr
    if ls "$deps"/*.deb >/dev/null 2>&1; then
      prefix=$build/deps/usr
      mkdir -p "$build/deps"
      for package in "$deps"/*.deb; do dpkg-deb -x "$package" "$build/deps"; done
    fi
    options+=("-DCMAKE_PREFIX_PATH=$prefix")
  fi
  cmake -G Ninja -S "$root" -B "$build" "${options[@]}" && ninja -C "$build" tokamak tokamak_tests tokamak_cuda_kernels tokamak_cuda_attention
}

pack_binaries() {
  mkdir -p "$pack/bin" "$pack/lib"
  local program
  for program in tokamak tokamak_tests tokamak_cuda_kernels tokamak_cuda_attention; do
    cp "$build/bin/$program" "$pack/bin/"
    strip "$pack/bin/$program"
    # Everything but the C and C++ run time, which every machine has.
    ldd "$build/bin/$program" | awk '$3 ~ /^\// { print $3 }' | grep -vE '/(libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s|ld-linux[^/]*)\.' |
      xargs -r -I{} cp -Ln {} "$pack/lib/"
  done
  du -sh "$pack" | cut -f1
}

step_tests() { "$bin/tokamak_tests" --gtest_filter="$filter" --gtest_brief=1; }

step_sanitizer() {
  compute-sanitizer --tool "$sanitizer" --error-exitcode 9 --print-limit 20 "$bin/tokamak_tests" --gtest_filter="$filter" --gtest_brief=1
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
    xargs -r -P 12 -n 40 bash -c 'timeout 300 "$0" verify "${@:2}" --device cuda --opt-level 0 --threads 1 --quiet --json "$1/$$.json"' "$tokamak" "$parts"
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

step_models() {
  local rc=0 precision
  printf '| models, expected outputs | passed | of them with nodes on the CPU | failed |\n| --- | --- | --- | --- |\n' >"$output/models.md"
  for precision in fp32 tf32 fp16 bf16; do
    "$tokamak" verify "$models" --device cuda --precision $precision --opt-level 1 --quiet --json "$output/models-$precision.json" || rc=1
    python3 - "$output/models-$precision.json" $precision >>"$output/models.md" <<'PY'
import json, sys
r = json.load(open(sys.argv[1]))
print(f"| {sys.argv[2]} | {r['passed']} | {r['fell_back']['passed']} | {r['failed']} |")
PY
  done
  return $rc
}

step_kernels() {
  local rc=0
  "$bin/tokamak_cuda_attention" >"$output/attention.txt" || rc=1
  "$bin/tokamak_cuda_kernels" "$root"/benchmarks/cuda/*.txt >"$output/kernels.txt" || rc=1
  cat "$output/attention.txt" "$output/kernels.txt"
  return $rc
}

step_llm() {
  local precision rc=0
  for precision in ${precisions//,/ }; do
    "$tokamak" bench --synthetic llama-2-7b --device cuda --precision "$precision" --batch "$batches" --prompt-tokens 128 --new-tokens 128 \
      --max-num-batched-tokens 8192 --no-cache --timing-cache "$output/timings.txt" --json "$output/llm-$precision.json" || rc=1
  done
  [ -z "$peers" ] || python3 "$root/benchmarks/compare_torch.py" llm --batches "$batches" --json "$output/llm-torch.json" || rc=1
  python3 "$root/benchmarks/compare_torch.py" llm-table "$output" >"$output/llm.md" || rc=1
  return $rc
}

step_saturated() {
  "$tokamak" bench --synthetic llama-3.1-8b --device cuda --precision fp8 --kv-dtype fp8 --requests 1000 --loads "$loads" --profile-layers \
    --no-cache --timing-cache "$output/timings.txt" --json "$output/saturated.json"
}

step_onnx() {
  python3 "$root/benchmarks/compare_torch.py" models --tokamak "$tokamak" --json "$output/onnx.json" ${peers:+--peers} --table "$output/onnx.md"
}

if [ ! -s "$summary" ]; then
  note "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo 'no GPU')"
  note "commit $(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown), $(date -u '+%Y-%m-%d %H:%M') UTC"
  note ""
fi
for name in build sanitizer tests conformance models kernels llm onnx saturated; do
  step "$name"
  [ "$name" = build ] && [ $status -ne 0 ] && break
done
[ -z "$pack" ] || { [ $status -eq 0 ] && pack_binaries; }
note ""
note "total $((SECONDS - started)) s"
exit $status
