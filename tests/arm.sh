#!/usr/bin/env bash
# Builds the extension for 64-bit Arm, and runs tests with it on an emulated Arm processor: for
# machines that are none. There `make test` does it all.
#
#   tests/arm.sh [pytest's arguments]    (default: the tests of each instruction set, 25 minutes)
#
# As root, on Debian or Ubuntu, after
# apt-get install debootstrap g++-aarch64-linux-gnu qemu-user-static; `pip` must be on the PATH.
# A Debian for Arm, torch for Arm and what is built lie in build/arm, and are kept for the next time.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build/arm/objects
arm=$(realpath build/arm)
root=$arm/root
site=$root/opt/site
pip=${PIP:-pip}

tests=("$@")
if [ $# = 0 ]; then
  tests=(tests/test_{lstm,decode}_*.py tests/test_forecast.py tests/test_transducer*.py
    tests/test_packed_lstm.py -k "instruction or reference or isa")
fi

# the kernel hands Arm's programs to the emulator, in the root folder too
if [ ! -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]; then
  [ -e /proc/sys/fs/binfmt_misc/register ] ||
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
  cat /usr/lib/binfmt.d/qemu-aarch64.conf >/proc/sys/fs/binfmt_misc/register
fi
if [ ! -e "$root/opt/made" ]; then
  debootstrap --arch=arm64 --variant=minbase \
    --include=python3,libpython3-dev,libgomp1,libstdc++6 bookworm "$root"
  touch "$root/opt/made"
fi
# the last torch for Arm on PyPI without CUDA, and the oldest we support. Without dependencies: pip
# would choose those of this machine
if [ ! -e "$site/made" ]; then
  $pip install --quiet --no-deps --target "$site" --only-binary :all: --python-version 3.11 \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 \
    torch==2.10.0 numpy safetensors filelock fsspec jinja2 markupsafe mpmath networkx sympy \
    typing-extensions setuptools pybind11 pytest pluggy iniconfig packaging pygments \
    pytest-xdist execnet pyyaml tqdm
  printf '/opt/site\n/work\n' >"$root/usr/local/lib/python3.11/dist-packages/arm.pth"
  touch "$site/made"
fi

# as setup.py does, which cannot build for another processor
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
compile() {
  local object
  object=$arm/objects/$(tr / _ <<<"$1").o
  if [ ! -e "$object" ] || [ -n "$(find csrc "$1" -name '*.h' -newer "$object" -o \
    -path "$1" -newer "$object")" ]; then
    aarch64-linux-gnu-g++ -std=c++17 -O3 -fPIC -fopenmp -ffp-contract=fast -fvisibility=hidden \
      -Wall -DTORCH_EXTENSION_NAME=_C -DTORCH_TARGET_VERSION=0x020a000000000000 \
      -DFAST_S2S_VERSION="\"$version\"" -I"$site/pybind11/include" -isystem "$site/torch/include" \
      -isystem "$site/torch/include/torch/csrc/api/include" \
      -idirafter "$root/usr/include/python3.11" -idirafter "$root/usr/include" \
      -c "$1" -o "$object"
  fi
}
export -f compile
export arm root site version
find csrc -name '*.cpp' ! -name '*_cuda*' -print0 | xargs -0 -P "$(nproc)" -I{} bash -c 'compile {}'
rm -rf "$root/work"
mkdir "$root/work"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$root/work"
aarch64-linux-gnu-g++ -shared -fopenmp "$arm"/objects/*.o \
  -o "$root/work/fast_s2s/_C.cpython-311-aarch64-linux-gnu.so" \
  -L"$site/torch/lib" -lc10 -ltorch -ltorch_cpu -ltorch_python -Wl,--allow-shlib-undefined

mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
trap 'umount "$root/proc"' EXIT
chroot "$root" /usr/bin/env HOME=/root PATH=/opt/site/bin:/usr/bin:/bin sh -c \
  'cd /work && exec python3 -m pytest -p no:cacheprovider "$@"' pytest -n "$(nproc)" "${tests[@]}"
