#!/usr/bin/env bash
# Builds, checks and times on the GPU of this machine, without a network, what is most valuable first:
# all of it takes half an hour, and what is ready when the time is over stays.
#
#   OUT=results benchmarks/gpu.sh [seconds [step...]]
#                                  (default: 540 smoke latency variants bench tests sanitize)
#
# $OUT has six files at most: gpu.json, latency.json and variants.json, to be put into
# benchmarks/results/<device>/ for `python -m benchmarks report`; cell.json; logs.tgz with all that
# was printed, as of the step before; and gpu.running if a benchmark's process did not outlive the
# row named there. RESUME=gpu.json measures the rows that an earlier result of the same sources lacks.
#
# Needs python with torch for CUDA, triton, numpy, safetensors, setuptools, pybind11, ninja and
# pytest; what a machine lacks may lie in build/packages, put there elsewhere by
# `pip install --no-deps --target build/packages safetensors flashrnn einops`. With pytest-xdist and
# pytest-timeout tests run beside each other, and one that hangs or loses the GPU takes no other
# along. BUILD=0: the libraries in fast_s2s/ are of these sources, built elsewhere or before. Without
# a GPU a few tests and tiny cases run in Triton's interpreter, to see that this file works.
set -uo pipefail
resume=${RESUME:+$(realpath -e "$RESUME")} || exit 1
cd "$(dirname "$0")/.."
seconds=${1:-540}
steps=${*:2}
steps=${steps:-smoke latency variants bench tests sanitize}
python=${PYTHON:-python3}
out=${OUT:-build/gpu-results}
mkdir -p "$out"
out=$(cd "$out" && pwd)
logs=$(mktemp -d)
# ten seconds are for what does not end when told to
end=$((SECONDS + seconds - 10))
wanted() { [[ " $steps " == *" $1 "* ]]; }

# the file is there as a whole or not at all, whenever this script is killed
keep_logs() { tar -C "$logs" -czf "$out/logs.part" . && mv "$out/logs.part" "$out/logs.tgz"; }
finish() {
  keep_logs
  rm -rf "$logs"
  [ -z "${linked:-}" ] || rm -f fast_s2s/kernels
}
trap finish EXIT

# seconds that a step needs at least, of 540
least() {
  case $1 in
    smoke | latency) echo 30 ;;
    variants) echo 45 ;;
    bench) echo 200 ;;
    *) echo 0 ;;
  esac
}
# share <step> <most>: seconds it may take, so that those after it get what they need at least
share() {
  local rest=$((end - SECONDS)) after="" step needed
  for step in build smoke latency variants bench tests sanitize; do
    if [ -n "$after" ] && wanted "$step"; then
      needed=$(least "$step")
      rest=$((rest - (seconds < 540 ? needed * seconds / 540 : needed)))
    fi
    [ "$step" = "$1" ] && after=1
  done
  echo $(($2 < rest ? $2 : rest))
}
# within <seconds> <log> <command>: 124 or 137 if it takes longer; it may say what it has by then
within() {
  local most=$1 log=$logs/$2.txt
  shift 2
  if ((most < 5)); then
    echo "no time was left" | tee -a "$log"
    return 124
  fi
  timeout --signal INT --kill-after 10 "$most" "$@" >> "$log" 2>&1
}
export PYTHONUNBUFFERED=1
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
[ -d build/packages ] && PYTHONPATH="$PWD/build/packages:$PYTHONPATH"
# a wait for a block that is lost ends after some seconds, not minutes: nothing else would end it.
# Read by nvcc, also where benchmarks.latency calls it, and by Triton's kernels when imported
export FAST_S2S_SPINS=${FAST_S2S_SPINS:-8388608}
export NVCC_APPEND_FLAGS="${NVCC_APPEND_FLAGS:-} -DFAST_S2S_SPINS=$FAST_S2S_SPINS"

# at once, since importing torch takes seconds: whether there is a GPU, its architecture, and whether
# the part of the package that lies outside its folder is found
read -r gpu architecture found < <("$python" -c '
import torch
gpu, found = torch.cuda.is_available(), True
major, minor = torch.cuda.get_device_capability() if gpu else (0, 0)
try:
    import fast_s2s.kernels
except ImportError:
    found = False
print(int(gpu), f"{major}.{minor}" + "a" * (major == 9), int(found))')
[ -n "$gpu" ] || exit 1
triton=(tests/test_triton_gpu.py tests/test_triton_ops.py tests/test_triton_torch.py tests/test_triton_variant.py)
if [ "$gpu" = 1 ]; then
  nvidia-smi > "$logs/machine.txt" 2>&1
  # CUDA kernels for this GPU alone; a build of all takes minutes
  export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$architecture}
  # in place and not installed: the machine's Python stays as it is, and an environment made within
  # another one would not see the other's torch
  if [ "${BUILD:-1}" = 1 ]; then
    export MAX_JOBS=${MAX_JOBS:-$(nproc)} FAST_S2S_CUDA=1
    within "$(share build 300)" build "$python" setup.py --quiet build_ext --inplace \
      || { tail -20 "$logs/build.txt"; exit 1; }
    echo "build: $SECONDS s"
  fi
  native=(tests/test_cuda_gpu.py tests/test_cuda_decode_gpu.py)
  selected=()
  quick=()
else
  echo "no GPU: a short run in Triton's interpreter, whose times mean nothing"
  native=()
  triton=(tests/test_triton_ops.py)
  selected=(-k "saved_tensors and single")
  quick=(--quick --threads 1)
fi
# a link that stayed would be in the way of an installation
if [ "$found" = 0 ]; then
  ln -sfn ../kernels fast_s2s/kernels
  linked=1
fi

# a process of the GPU's own for each of a few tests at a time, where there is what starts them.
# Without pytest-benchmark, absent or not: beside xdist its older versions warn, an error here
pytest=("$python" -m pytest -v --tb=short -p no:cacheprovider -p no:benchmark)
together=()
has() { "$python" -c "import $1" 2> /dev/null; }
has pytest_timeout && together+=(--timeout 120 --timeout-method thread)
[ "$gpu" = 1 ] && has xdist && together+=(-n 8 --dist worksteal --max-worker-restart 100)

"$python" -c 'import fast_s2s; print(fast_s2s.backends.describe())' | tee "$logs/backends.txt"
keep_logs
smoked=0 tested=0 exchanged=0 timed=0
# tests <log> <seconds> <pytest's arguments>: says how they ended
tests() {
  local status=0
  within "$2" "$1" "${pytest[@]}" ${together[@]+"${together[@]}"} "${@:3}" || status=$?
  grep -E "^(FAILED|ERROR)|^=+ .* =+$" "$logs/$1.txt" | tail -15
  keep_logs
  return $status
}
if wanted smoke && [ "$gpu" = 1 ]; then
  # a small shape of every family of kernels: both passes, the cell, all variants with and without a
  # projection, generations, Triton's
  tests smoke "$(share smoke 60)" "${native[@]}" tests/test_triton_ops.py::test_saved_tensors \
    -k "saved_tensors or every_variant or values_and_gradients and (T1B3 or T63B3)" || smoked=$?
fi
if wanted latency; then
  within "$(share latency 60)" latency "$python" -m benchmarks.latency --output "$out/latency.json"
  exchanged=$?
  tail -20 "$logs/latency.txt"
  keep_logs
fi
if wanted variants && [ "$gpu" = 1 ]; then
  within "$(share variants 90)" variants "$python" -m benchmarks.variants \
    --output "$out/variants.json"
  echo "variants: exit $?, $(grep -c expected "$logs/variants.txt") of them timed"
  keep_logs
fi

# measures until `until`. A kernel that fails takes the GPU from its process (75), and one that hangs
# is ended with it: another goes on behind the row
bench() {
  local until=$1 again most
  for ((again = 0; again < 20; ++again)); do
    most=$((until - SECONDS))
    ((most < 20)) && return
    within "$most" gpu "$python" -m benchmarks gpu --resume "$out/gpu.json" --budget 0.7 \
      --compile --limit 40 --hung 60 --within "$((most * 9 / 10))" ${quick[@]+"${quick[@]}"}
    timed=$?
    tail -2 "$logs/gpu.txt"
    keep_logs
    if [ "$again$timed" = 01 ] && grep -q "^--resume: .* was .* and is now" "$logs/gpu.txt"; then
      # an earlier result of other sources or another machine
      mv "$out/gpu.json" "$logs"
    elif [ "$timed" != 75 ] && [ ! -e "$out/gpu.running" ]; then
      return
    fi
  done
}
if wanted bench; then
  [ -n "$resume" ] && cp "$resume" "$out/gpu.json"
  most=$((end - SECONDS))
  if [ "$gpu" = 1 ] && { wanted tests || wanted sanitize; }; then
    most=$((most * 7 / 10 > $(least bench) ? most * 7 / 10 : $(least bench)))
  fi
  timed=124
  # the last seconds are those of the cell
  bench $((SECONDS + $(share bench "$most") - 15))
  within "$(share bench 20)" cell "$python" -m benchmarks.gpu_cell "$out/cell.json"
  [ -e "$out/gpu.running" ] && echo "ended in this row: $(cat "$out/gpu.running")"
  # what the time did not suffice for; 124: timeout's own
  [[ "$timed" = 130 || "$timed" = 124 ]] && [ -s "$out/gpu.json" ] && timed=0
  keep_logs
fi
if wanted tests; then
  most=$(share tests "$seconds")
  [ "$gpu" = 1 ] && wanted sanitize && most=$((most * 3 / 4))
  until=$((SECONDS + most))
  if [ ${#native[@]} -gt 0 ]; then
    tests tests-native $((most * 3 / 5)) "${native[@]}" || tested=$?
  fi
  tests tests $((until - SECONDS)) ${selected[@]+"${selected[@]}"} "${triton[@]}" || tested=$?
fi
if wanted sanitize && [ "$gpu" = 1 ] && command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck synccheck; do
    # without torch's cache every tensor is an allocation of its own, whose ends are watched
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 within "$(share sanitize 90)" "sanitizer-$tool" \
      compute-sanitizer --tool $tool --error-exitcode 9 "${pytest[@]}" tests/test_cuda_gpu.py \
      -k "values_and_gradients and (T1B3 or T63B3)"
    echo "compute-sanitizer $tool: exit $?"
    keep_logs
  done
fi
echo "smoke: exit $smoked, tests: exit $tested, exchanges: exit $exchanged, timing: exit $timed"
echo "results: $out"
[ "$smoked" = 0 ] && [ "$tested" = 0 ] && [ "$exchanged" = 0 ] && [ "$timed" = 0 ]
