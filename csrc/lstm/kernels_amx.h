// The CPU kernels of the LSTM that use the matrix unit, and when they are used. The including file
// names the namespace of those that do not, `without_tiles`.

// clang-format off: each needs the ones before it
#include "../lstm_math.h"
#include "../cpu/simd.h"
#include "../cpu/dots.h"
#include "../cpu/gemm.h"
#include "../cpu/work.h"
#include "../cpu/fingerprint.h"
#include "../cpu/packed_panels.h"
#include "../cpu/tile_instructions.h"
#include "../cpu/tiles.h"
#include "cpu_common.h"
#include "row_products_cpu.h"
#include "tile_products_cpu.h"
#include "forward_cpu.h"
// clang-format on

namespace fast_s2s {
namespace FAST_S2S_ISA {

// Which products the matrix unit takes. A matter of the layer's sizes, of T and of B alone, not of
// lengths, so that a batch gives the same bits padded and packed.
struct TileUse {
  bool inputs, hidden;

  explicit TileUse(const LstmForwardArgs& args) : inputs(false), hidden(false) {
    const LstmShape& s = args.shape;
    if (s.steps <= kUnpackedSteps || s.dtype == DType::kFloat64) return;
    if (s.dtype == DType::kBFloat16) {
      inputs = hidden = true;
      return;
    }
    // six products of half the width: smaller ones lose to one of float32, and a step of few rows
    // reads one and a half times the bytes
    inputs = s.hidden >= 128 && s.batch >= 8;
    // the state after a projection can be infinite
    hidden = inputs && s.batch >= 12 && args.weights.w_hr == nullptr;
  }
};

// `calls`: one, or two of one shape.
template <class Io, class... Args>
void run_forward(const TileUse& use, int threads, const Args&... calls) {
  if (use.hidden) return run<Forward<Io, TileInputs<Io>, TileHidden<Io>>>(threads, calls...);
  return run<Forward<Io, TileInputs<Io>, RowHidden<Io>>>(threads, calls...);
}

template <class... Args>
void forward(int threads, const LstmForwardArgs& first, const Args&... second) {
  const TileUse use(first);
  if (!use.inputs) return without_tiles::lstm_forward(first, second..., threads);
  if (first.shape.dtype == DType::kFloat32)
    return run_forward<float>(use, threads, first, second...);
  return run_forward<bfloat16>(use, threads, first, second...);
}

void lstm_forward(const LstmForwardArgs& args, int threads) { forward(threads, args); }
void lstm_forward(const LstmForwardArgs& first, const LstmForwardArgs& second, int threads) {
  forward(threads, first, second);
}

void lstm_backward(const LstmBackwardArgs& args, int threads) {
  return without_tiles::lstm_backward(args, threads);
}
void lstm_backward(const LstmBackwardArgs& first, const LstmBackwardArgs& second, int threads) {
  return without_tiles::lstm_backward(first, second, threads);
}

void lstm_variant_forward(const LstmVariantForwardArgs& args, int threads) {
  without_tiles::lstm_variant_forward(args, threads);
}
void lstm_variant_backward(const LstmVariantBackwardArgs& args, int threads) {
  without_tiles::lstm_variant_backward(args, threads);
}

void multiply(const MatrixProduct& product, bool add, int threads) {
  without_tiles::multiply(product, add, threads);
}
void sum_over_rows(const MatrixProduct& product, int threads) {
  without_tiles::sum_over_rows(product, threads);
}

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
