#!/usr/bin/env bash
# Builds, tests and times on the GPU of this machine, without a network; results lie under $OUT. The
# same $OUT again goes on where the time was over; put gpu.json and latency.json of a whole run into
# benchmarks/results/<device>/ for `python -m benchmarks report`.
#
#   OUT=results benchmarks/gpu.sh [seconds]      (default: 540)
#
# Needs python with torch for CUDA, triton, numpy, safetensors, setuptools, pybind11, ninja and
# pytest; what a machine lacks may lie in build/packages, put there elsewhere by
# `pip install --no-deps --target build/packages safetensors flashrnn einops`. Without a GPU a few
# tests and tiny cases run in Triton's interpreter, to see that this file works.
set -uo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-540}
python=${PYTHON:-python3}
out=${OUT:-build/gpu-results}
mkdir -p "$out"
out=$(cd "$out" && pwd)
end=$((SECONDS + seconds))
left() { echo $((end - SECONDS > 5 ? end - SECONDS : 5)); }
[ -d build/packages ] && export PYTHONPATH="$PWD/build/packages${PYTHONPATH:+:$PYTHONPATH}"

gpu=$("$python" -c 'import torch; print(int(torch.cuda.is_available()))') || exit 1
if [ "$gpu" = 1 ]; then
  nvidia-smi > "$out/machine.txt" 2>&1
  # an environment of its own over the installed torch: the system's stays as it is
  "$python" -m venv --system-site-packages build/gpu-venv || exit 1
  python=$PWD/build/gpu-venv/bin/python
  # CUDA kernels for this GPU alone; a build of all takes minutes
  export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$("$python" -c '
import torch
major, minor = torch.cuda.get_device_capability()
print(f"{major}.{minor}" + "a" * (major == 9))')}
  timeout "$(left)" "$python" -m pip install --quiet --no-index --no-deps --no-build-isolation \
    -e . > "$out/build.txt" 2>&1 || { tail -20 "$out/build.txt"; exit 1; }
  tests=(tests/test_cuda_gpu.py tests/test_cuda_decode_gpu.py tests/test_triton_ops.py
         tests/test_triton_torch.py tests/test_triton_gpu.py tests/test_triton_configs.py)
  selected=()
  quick=()
else
  echo "no GPU: a short run in Triton's interpreter, whose times mean nothing"
  tests=(tests/test_triton_ops.py)
  selected=(-k "saved_tensors and single")
  quick=(--quick --threads 1)
fi

"$python" -c 'import fast_s2s; print(fast_s2s.backends.describe())' | tee "$out/backends.txt"
# two thirds of the time at most, so that some is left to measure
timeout $((seconds * 2 / 3)) "$python" -m pytest -q -p no:cacheprovider \
  ${selected[@]+"${selected[@]}"} "${tests[@]}" > "$out/tests.txt" 2>&1
tested=$?
tail -15 "$out/tests.txt"
if [ "$gpu" = 1 ] && command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck synccheck; do
    # without torch's cache every tensor is an allocation of its own, whose ends are watched
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 60 compute-sanitizer --tool $tool --error-exitcode 9 \
      "$python" -m pytest -q -p no:cacheprovider tests/test_cuda_gpu.py \
      -k "values_and_gradients and (T1B3 or T63B3)" > "$out/sanitizer-$tool.txt" 2>&1
    echo "compute-sanitizer $tool: exit $?"
  done
fi
"$python" -m benchmarks.latency --output "$out/latency.json" > "$out/latency.txt" 2>&1
exchanged=$?
tail -12 "$out/latency.txt"
timeout 60 "$python" -m benchmarks.gpu_cell "$out/cell.json" > "$out/cell.txt" 2>&1
# rows measured by an earlier call of this script stay: the same $OUT again goes on from there
timeout --signal INT "$(left)" "$python" -m benchmarks gpu --resume "$out/gpu.json" --budget 0.7 --compile \
  --within "$(($(left) * 9 / 10))" ${quick[@]+"${quick[@]}"} > "$out/gpu.txt" 2> "$out/gpu.log"
timed=$?
# what the time did not suffice for
[ "$timed" = 130 ] && [ -s "$out/gpu.json" ] && timed=0
tail -2 "$out/gpu.log"
echo "tests: exit $tested, exchanges: exit $exchanged, timing: exit $timed, results: $out"
[ "$tested" = 0 ] && [ "$exchanged" = 0 ] && [ "$timed" = 0 ]
