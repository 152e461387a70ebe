// All CPU kernels of decode, for the instruction set that the including file has switched on.

// clang-format off: each needs the ones before it
#include "../lstm_math.h"
#include "../cpu/simd.h"
#include "../cpu/dots.h"
#include "../cpu/gemm.h"
#include "../cpu/work.h"
#include "../cpu/moments.h"
#include "../cpu/zoneout.h"
#include "choose.h"
#include "distributions.h"
#include "panels.h"
#include "layout.h"
#include "scores_cpu.h"
#include "slots_cpu.h"
#include "kept_cpu.h"
#include "any_network_cpu.h"
#include "memory_cpu.h"
#include "normed_products_cpu.h"
#include "network_cpu.h"
#include "networks_cpu.h"
#include "beam_cpu.h"
#include "engine_cpu.h"
#include "reader_cpu.h"
#include "linear_cpu.h"
#include "transducer_cpu.h"
#include "beam_paths.h"
#include "transducer_beam_cpu.h"
#include "forecast_cpu.h"
// clang-format on

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class F>
void dispatch_panel(WeightType weights, const F& call) {
  switch (weights) {
    case WeightType::kFloat32:
      return call(FloatPanel<float>{});
    case WeightType::kFloat64:
      return call(FloatPanel<double>{});
    case WeightType::kBFloat16:
      return call(Bfloat16Panel{});
    case WeightType::kInt8:
      return call(Int8Panel{});
    case WeightType::kFloat16:
      return;
  }
}

void decode_describe(PackedHeader& header) {
  std::memcpy(header.magic, kPackedMagic, sizeof(header.magic));
  header.layout = packed_layout();
  dispatch_panel(header.weights,
                 [&](auto panel) { header.bytes = PackedLayout<decltype(panel)>(header).bytes; });
}

void decode_pack(const PackArgs& args, void* packed) {
  dispatch_panel(args.header.weights,
                 [&](auto panel) { Packer<decltype(panel)>(args, packed).run(); });
}

void decode(const DecodeArgs& args, int threads) {
  PackedHeader header;
  std::memcpy(&header, args.models > 0 ? args.members[0].packed : args.packed, sizeof(header));
  if (header.weights == WeightType::kFloat64) return Engine<double>(args, threads).run();
  Engine<float>(args, threads).run();
}

void read(const ReadArgs& args, int threads) {
  PackedHeader header;
  std::memcpy(&header, args.packed[0], sizeof(header));
  dispatch_panel(header.weights,
                 [&](auto panel) { read_directions<decltype(panel)>(header, args, threads); });
}

void linear(const LinearArgs& args, int threads) {
  PackedHeader header;
  std::memcpy(&header, args.packed, sizeof(header));
  dispatch_panel(header.weights,
                 [&](auto panel) { Linear<decltype(panel)>(header, args).run(threads); });
}

void transducer(const TransducerArgs& args, int threads) {
  PackedHeader header;
  std::memcpy(&header, args.predictor, sizeof(header));
  dispatch_panel(header.weights,
                 [&](auto panel) { Transducer<decltype(panel)>(header, args).run(threads); });
}

void transducer_beam(const TransducerBeamArgs& args, int threads) {
  PackedHeader header;
  std::memcpy(&header, args.predictor, sizeof(header));
  dispatch_panel(header.weights,
                 [&](auto panel) { TransducerBeam<decltype(panel)>(header, args).run(threads); });
}

void forecast(const ForecastArgs& args, int threads) {
  PackedHeader header;
  std::memcpy(&header, args.network, sizeof(header));
  dispatch_panel(header.weights,
                 [&](auto panel) { forecast_paths<decltype(panel)>(header, args, threads); });
}

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
