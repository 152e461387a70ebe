// Instruction sets the CPU kernels are compiled for, and the one in use.
#pragma once

#include <string>
#include <vector>

namespace fast_s2s {

enum class Isa {
  kGeneric,
  kAvx2,
  kAvx512,
  kAvx512Bf16,
  kAmx,
  kAmxEmulated,
  kNeonDot,
  kNeonBf16,
  kNeonEmulated
};

const char* isa_name(Isa isa);

// What this machine runs, slowest first.
std::vector<Isa> available_isas();

// The fastest available one, or the one named by the environment variable FAST_S2S_ISA, read once,
// or by `set_isa`. Throws std::runtime_error if that is unknown or not available.
Isa current_isa();

// For tests of the LSTM; what a decoder was packed for before does not change. Throws as above.
void set_isa(const std::string& name);

// Calls the kernels for the instruction set in use. The including file defines
// FAST_S2S_CASES(call), the cases of those that it has beside `generic`.
#define FAST_S2S_DISPATCH(call) \
  switch (current_isa()) {      \
    FAST_S2S_CASES(call)        \
    default:                    \
      return generic::call;     \
  }

}  // namespace fast_s2s
