#!/usr/bin/env bash
# Builds, tests and times on the GPU of this machine, without a network; results lie under $OUT. The
# same $OUT again goes on where the time was over; put gpu.json and latency.json of a whole run into
# benchmarks/results/<device>/ for `python -m benchmarks report`.
#
#   OUT=results benchmarks/gpu.sh [seconds [step...]]
#                                  (default: 540 tests latency variants bench sanitize)
#
# Needs python with torch for CUDA, triton, numpy, safetensors, setuptools, pybind11, ninja and
# pytest; what a machine lacks may lie in build/packages, put there elsewhere by
# `pip install --no-deps --target build/packages safetensors flashrnn einops`. With pytest-xdist and
# pytest-timeout tests run beside each other, and one that hangs or loses the GPU takes no other
# along. BUILD=0: the libraries in fast_s2s/ are of these sources, built elsewhere. Without a GPU a few
# tests and tiny cases run in Triton's interpreter, to see that this file works.
set -uo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-540}
steps=${*:2}
steps=${steps:-tests latency variants bench sanitize}
python=${PYTHON:-python3}
out=${OUT:-build/gpu-results}
mkdir -p "$out"
out=$(cd "$out" && pwd)
end=$((SECONDS + seconds))
left() { echo $((end - SECONDS > 5 ? end - SECONDS : 5)); }
wanted() { [[ " $steps " == *" $1 "* ]]; }
# runs a command for at most so many seconds, or what is left; it may say what it has by then
within() {
  local most=$1 rest
  rest=$(left)
  shift
  timeout --signal INT --kill-after 10 "$((most < rest ? most : rest))" "$@"
}
export PYTHONUNBUFFERED=1
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
[ -d build/packages ] && PYTHONPATH="$PWD/build/packages:$PYTHONPATH"

# a wait for a block that is lost ends after some seconds, not minutes: nothing else would end it.
# Read by nvcc, also where benchmarks.latency calls it, and by Triton's kernels when imported
export FAST_S2S_SPINS=${FAST_S2S_SPINS:-8388608}
export NVCC_APPEND_FLAGS="${NVCC_APPEND_FLAGS:-} -DFAST_S2S_SPINS=$FAST_S2S_SPINS"

gpu=$("$python" -c 'import torch; print(int(torch.cuda.is_available()))') || exit 1
triton=(tests/test_triton_gpu.py tests/test_triton_ops.py tests/test_triton_torch.py)
if [ "$gpu" = 1 ]; then
  nvidia-smi > "$out/machine.txt" 2>&1
  # CUDA kernels for this GPU alone; a build of all takes minutes
  export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$("$python" -c '
import torch
major, minor = torch.cuda.get_device_capability()
print(f"{major}.{minor}" + "a" * (major == 9))')}
  # in place and not installed: the machine's Python stays as it is, and an environment made within
  # another one would not see the other's torch
  if [ "${BUILD:-1}" = 1 ]; then
    FAST_S2S_CUDA=1 within "$seconds" "$python" setup.py --quiet build_ext --inplace \
      > "$out/build.txt" 2>&1 || { tail -20 "$out/build.txt"; exit 1; }
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
# where it is not installed, a part of the package lies outside its folder; a link that stayed would
# be in the way of an installation
if ! "$python" -c 'import fast_s2s.kernels' 2> /dev/null; then
  ln -sfn ../kernels fast_s2s/kernels
  trap 'rm -f fast_s2s/kernels' EXIT
fi

# a process of the GPU's own for each of a few tests at a time, where there is what starts them
# without pytest-benchmark, absent or not: beside xdist its older versions warn, which is an error here
pytest=("$python" -m pytest -v --tb=short -p no:cacheprovider -p no:benchmark)
together=()
has() { "$python" -c "import $1" 2> /dev/null; }
has pytest_timeout && together+=(--timeout 120 --timeout-method thread)
[ "$gpu" = 1 ] && has xdist && together+=(-n 8 --dist worksteal --max-worker-restart 100)

"$python" -c 'import fast_s2s; print(fast_s2s.backends.describe())' | tee "$out/backends.txt"
tested=0 exchanged=0 timed=0
# tests <file of the report> <seconds> <pytest's arguments>: says how they ended
tests() {
  within "$2" "${pytest[@]}" ${together[@]+"${together[@]}"} "${@:3}" > "$out/$1.txt" 2>&1 || tested=$?
  grep -E "^(FAILED|ERROR)|^=+ .* =+$" "$out/$1.txt" | tail -15
}
if wanted tests; then
  # at most half of the time, so that some is left to measure
  [ ${#native[@]} -gt 0 ] && tests tests-native $((seconds * 3 / 10)) "${native[@]}"
  tests tests $((seconds / 5)) ${selected[@]+"${selected[@]}"} "${triton[@]}"
fi
if wanted latency; then
  within 150 "$python" -m benchmarks.latency --output "$out/latency.json" > "$out/latency.txt" 2>&1
  exchanged=$?
  tail -12 "$out/latency.txt"
fi
if wanted variants && [ "$gpu" = 1 ]; then
  within 90 "$python" -m benchmarks.variants --output "$out/variants.json" > "$out/variants.txt" 2>&1
  echo "variants: exit $?, $(grep -c expected "$out/variants.txt") of them timed"
fi
if wanted bench; then
  within 60 "$python" -m benchmarks.gpu_cell "$out/cell.json" > "$out/cell.txt" 2>&1
  share=$(left)
  [ "$gpu" = 1 ] && wanted sanitize && share=$((share * 7 / 10))
  # rows measured by an earlier call of this script stay: the same $OUT again goes on from there. A
  # kernel that fails takes the GPU from its process: another goes on
  timed=75
  for ((again = 0; again < 20 && timed == 75; ++again)); do
    within "$share" "$python" -m benchmarks gpu --resume "$out/gpu.json" --budget 0.7 --compile \
      --within "$((share * 9 / 10))" ${quick[@]+"${quick[@]}"} > "$out/gpu.txt" 2> "$out/gpu.log"
    timed=$?
    tail -2 "$out/gpu.log"
    share=$((share < $(left) ? share : $(left)))
  done
  # what the time did not suffice for; 124: timeout's own
  [[ "$timed" = 130 || "$timed" = 124 ]] && [ -s "$out/gpu.json" ] && timed=0
fi
if wanted sanitize && [ "$gpu" = 1 ] && command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck synccheck; do
    # without torch's cache every tensor is an allocation of its own, whose ends are watched
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 within 90 compute-sanitizer --tool $tool --error-exitcode 9 \
      "${pytest[@]}" tests/test_cuda_gpu.py \
      -k "values_and_gradients and (T1B3 or T63B3)" > "$out/sanitizer-$tool.txt" 2>&1
    echo "compute-sanitizer $tool: exit $?"
  done
fi
echo "tests: exit $tested, exchanges: exit $exchanged, timing: exit $timed, results: $out"
[ "$tested" = 0 ] && [ "$exchanged" = 0 ] && [ "$timed" = 0 ]
