#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
// older headers lack it
#ifndef HWCAP2_BF16
#define HWCAP2_BF16 (1 << 14)
#endif
#endif

namespace fast_s2s {

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAmx:
      return "amx";
    case Isa::kAmxEmulated:
      return "amx_emulated";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kNeonDot:
      return "neon_dot";
    case Isa::kNeonBf16:
      return "neon_bf16";
    case Isa::kNeonEmulated:
      return "neon_emulated";
    default:
      return "generic";
  }
}

#if defined(__x86_64__)
// Whether the processor has the matrix unit with bfloat16, and the kernel lets this process use it:
// a process has to ask, because the tiles make the state saved at each signal 8 KiB larger.
static bool has_amx() {
#if defined(__linux__)
  constexpr unsigned kTileState = 3 << 17, kAmxBf16 = 1 << 22, kAmxTile = 1 << 24;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // of arch_prctl
  unsigned a, b, c, d, enabled, high;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  if ((d & kAmxBf16) == 0 || (d & kAmxTile) == 0) return false;
  __asm__("xgetbv" : "=a"(enabled), "=d"(high) : "c"(0));
  if ((enabled & kTileState) != kTileState) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

std::vector<Isa> available_isas() {
  std::vector<Isa> isas{Isa::kGeneric};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isas.push_back(Isa::kAvx2);
  if (isas.back() == Isa::kAvx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    isas.push_back(Isa::kAvx512);
    isas.insert(isas.begin(), Isa::kAmxEmulated);
    if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) {
      isas.push_back(Isa::kAvx512Bf16);
      static const bool amx = has_amx();
      if (amx) isas.push_back(Isa::kAmx);
    }
  }
  isas.insert(isas.begin(), Isa::kNeonEmulated);
#elif defined(__aarch64__) && defined(__linux__)
  // NEON itself every such processor has
  if ((getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0) {
    isas.push_back(Isa::kNeonDot);
    if ((getauxval(AT_HWCAP2) & HWCAP2_BF16) != 0) isas.push_back(Isa::kNeonBf16);
  }
#endif
  return isas;
}

// `from`: who named it.
static Isa available_isa(const std::string& name, const char* from) {
  std::string names;
  for (Isa isa : available_isas()) {
    if (name == isa_name(isa)) return isa;
    names += std::string(names.empty() ? "" : ", ") + isa_name(isa);
  }
  throw std::runtime_error(std::string(from) + ": expected one of " + names +
                           " on this machine, got " + name);
}

static Isa choose_isa() {
  const char* wanted = std::getenv("FAST_S2S_ISA");
  if (wanted == nullptr || *wanted == '\0') return available_isas().back();
  return available_isa(wanted, "FAST_S2S_ISA");
}

static std::atomic<Isa>& chosen_isa() {
  static std::atomic<Isa> isa{choose_isa()};
  return isa;
}

Isa current_isa() { return chosen_isa(); }

void set_isa(const std::string& name) { chosen_isa() = available_isa(name, "name"); }

}  // namespace fast_s2s
