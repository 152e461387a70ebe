// Chooses the kernels for this machine's instruction set.

#include "../cpu/isa.h"
#include "decode.h"
#include "forecast.h"
#include "linear.h"
#include "read.h"
#include "transducer.h"
#include "transducer_beam.h"

namespace fast_s2s {

#define FAST_S2S_DECLARE(isa)                                        \
  namespace isa {                                                    \
  void decode_describe(PackedHeader& header);                        \
  void decode_pack(const PackArgs& args, void* packed);              \
  void decode(const DecodeArgs& args, int threads);                  \
  void read(const ReadArgs& args, int threads);                      \
  void linear(const LinearArgs& args, int threads);                  \
  void transducer(const TransducerArgs& args, int threads);          \
  void transducer_beam(const TransducerBeamArgs& args, int threads); \
  void forecast(const ForecastArgs& args, int threads);              \
  }
FAST_S2S_DECLARE(generic)
#if defined(__x86_64__)
FAST_S2S_DECLARE(avx2)
FAST_S2S_DECLARE(avx512)
FAST_S2S_DECLARE(avx512_bf16)
FAST_S2S_DECLARE(neon_emulated)
#define FAST_S2S_CASES(call)  \
  case Isa::kAmx:             \
  case Isa::kAvx512Bf16:      \
    return avx512_bf16::call; \
  case Isa::kAmxEmulated:     \
  case Isa::kAvx512:          \
    return avx512::call;      \
  case Isa::kAvx2:            \
    return avx2::call;        \
  case Isa::kNeonEmulated:    \
    return neon_emulated::call;
#elif defined(__aarch64__)
FAST_S2S_DECLARE(neon_dot)
#define FAST_S2S_CASES(call) \
  case Isa::kNeonBf16:       \
  case Isa::kNeonDot:        \
    return neon_dot::call;
#else
#define FAST_S2S_CASES(call)
#endif

void decode_describe_cpu(PackedHeader& header) { FAST_S2S_DISPATCH(decode_describe(header)) }

void decode_pack_cpu(const PackArgs& args, void* packed) {
  FAST_S2S_DISPATCH(decode_pack(args, packed))
}

void decode_cpu(const DecodeArgs& args, int threads) { FAST_S2S_DISPATCH(decode(args, threads)) }

void decode_read_cpu(const ReadArgs& args, int threads) { FAST_S2S_DISPATCH(read(args, threads)) }

void decode_linear_cpu(const LinearArgs& args, int threads) {
  FAST_S2S_DISPATCH(linear(args, threads))
}

void forecast_cpu(const ForecastArgs& args, int threads) {
  FAST_S2S_DISPATCH(forecast(args, threads))
}

void transducer_beam_cpu(const TransducerBeamArgs& args, int threads) {
  FAST_S2S_DISPATCH(transducer_beam(args, threads))
}

void transducer_greedy_cpu(const TransducerArgs& args, int threads) {
  FAST_S2S_DISPATCH(transducer(args, threads))
}

}  // namespace fast_s2s
