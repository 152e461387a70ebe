#!/usr/bin/env bash
# Builds the extension for 64-bit Arm, and runs tests with it on an emulated Arm processor: for
# machines that are none. There `make test` does it all.
#
#   tests/arm.sh [pytest's arguments]    (default: the tests of each instruction set, 45 minutes)
#
# As root on Debian 12, after apt-get install debootstrap g++-aarch64-linux-gnu qemu-user-static;
# PIP=.venv/bin/pip names a pip, if there is none on the PATH. A Debian for Arm, torch for Arm and
# what is built lie in build/arm, and are kept for the next time.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build/arm/objects
arm=$(realpath build/arm)
root=$arm/root
site=$root/opt/site
exec 9>"$arm/lock"
flock 9

tests=("$@")
if [ $# = 0 ]; then
  tests=(tests/test_{lstm,decode}_*.py tests/test_forecast.py tests/test_transducer*.py
    tests/test_packed_lstm.py -k "instruction or reference or isa or bits")
fi
if [ "$(aarch64-linux-gnu-g++ -dumpversion | cut -d. -f1)" -gt 12 ]; then
  echo "aarch64-linux-gnu-g++: expected at most 12, whose library the emulated Debian has" >&2
  exit 1
fi

# the kernel hands Arm's programs to the emulator, in the root folder too
if [ ! -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]; then
  [ -e /proc/sys/fs/binfmt_misc/register ] ||
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
  cat /usr/lib/binfmt.d/qemu-aarch64.conf >/proc/sys/fs/binfmt_misc/register
fi
if [ ! -e "$root/opt/made" ]; then
  rm -rf "$root"
  debootstrap --arch=arm64 --variant=minbase \
    --include=python3,libpython3-dev,libgomp1,libstdc++6 bookworm "$root"
  touch "$root/opt/made"
fi
# the last torch for Arm on PyPI without CUDA, and the oldest we support. Without dependencies: pip
# would choose those of this machine
packages=(torch==2.10.0 numpy safetensors filelock fsspec jinja2 markupsafe mpmath networkx sympy
  typing-extensions setuptools pybind11 pytest pluggy iniconfig packaging pygments pytest-xdist
  execnet pyyaml tqdm)
if [ "$(cat "$site/made" 2>/dev/null)" != "${packages[*]}" ]; then
  rm -rf "$site"
  ${PIP:-pip} install --quiet --no-deps --target "$site" --only-binary :all: \
    --python-version 3.11 --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 \
    "${packages[@]}"
  printf '/opt/site\n/work\n' >"$root/usr/local/lib/python3.11/dist-packages/arm.pth"
  echo "${packages[*]}" >"$site/made"
fi

# as setup.py does, which cannot build for another processor
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
object_of() { echo "$arm/objects/$(tr / _ <<<"$1").o"; }
compile() {
  local object
  object=$(object_of "$1")
  if [ ! -e "$object" ] || [ -n "$(find csrc "$1" tests/arm.sh pyproject.toml "$site/made" \
    \( -name '*.h' -o ! -path 'csrc/*' -o -path "$1" \) -type f -newer "$object")" ]; then
    aarch64-linux-gnu-g++ -std=c++17 -O3 -fPIC -fopenmp -ffp-contract=fast \
      --param=avoid-fma-max-bits=0 -fvisibility=hidden -Wall \
      -DTORCH_EXTENSION_NAME=_C -DTORCH_TARGET_VERSION=0x020a000000000000 \
      -DFAST_S2S_VERSION="\"$version\"" -I"$site/pybind11/include" -isystem "$site/torch/include" \
      -isystem "$site/torch/include/torch/csrc/api/include" \
      -idirafter "$root/usr/include/python3.11" -idirafter "$root/usr/include" \
      -c "$1" -o "$object.part"
    mv "$object.part" "$object"
  fi
}
export -f compile object_of
export arm root site version
mapfile -t sources < <(find csrc -name '*.cpp' ! -name '*_cuda*')
printf '%s\n' "${sources[@]}" | xargs -P "$(nproc)" -I{} bash -euo pipefail -c 'compile {}'
rm -rf "$root/work"
mkdir "$root/work"
git ls-files -z --cached --others --exclude-standard |
  while IFS= read -rd '' path; do [ ! -e "$path" ] || printf '%s\0' "$path"; done |
  xargs -0 cp --parents -t "$root/work"
mapfile -t objects < <(for source in "${sources[@]}"; do object_of "$source"; done)
aarch64-linux-gnu-g++ -shared -fopenmp "${objects[@]}" \
  -o "$root/work/fast_s2s/_C.cpython-311-aarch64-linux-gnu.so" \
  -L"$site/torch/lib" -lc10 -ltorch -ltorch_cpu -ltorch_python -Wl,--allow-shlib-undefined

mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
trap 'umount "$root/proc"' EXIT
chroot "$root" /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/opt/site/bin:/usr/bin:/bin sh -c \
  'cd /work && exec python3 -m pytest -p no:cacheprovider "$@"' pytest -n "$(nproc)" "${tests[@]}"
