// Chooses the kernel of a type of weights; the small kernels around it: packing, counts.

#include "network_cuda.cuh"

namespace fast_s2s {

// decode_cuda_*.cu
template <class Operand>
std::string launch_decode(const DecodePlan& plan, const DecodeCudaArgs& args, Stream stream);

namespace {

constexpr int kElementwiseThreads = 256;

// f(i) for i < count, over the whole grid
template <class F>
FAST_S2S_DEVICE void for_each_of(int64_t count, const F& f) {
  const int64_t stride = static_cast<int64_t>(block_count()) * block_threads();
  for (int64_t i = static_cast<int64_t>(block_rank()) * block_threads() + thread_rank(); i < count;
       i += stride)
    f(i);
}

struct PackStage {
  PackMatrix matrix;
  int64_t hidden;
  int k_tiles, units;
  Words* packed;
  int64_t words;
};

// The matrix's row that is a tile's, or -1. A tile of gates has, of 4 units, i, f, g and o.
FAST_S2S_DEVICE int64_t row_of(const PackStage& args, int64_t tile, int row) {
  const int64_t unit = 4 * tile + row % 4;
  if (args.matrix.gates) return unit < args.hidden ? row / 4 * args.hidden + unit : -1;
  return 16 * tile + row < args.matrix.rows ? 16 * tile + row : -1;
}

// The element of a matrix at a row of a tile and a depth within a k-tile; zero where there is none.
template <class Operand>
FAST_S2S_DEVICE typename Operand::Io element_of(const PackStage& args, int64_t tile, int row,
                                                int64_t k_tile, int depth) {
  typedef typename Operand::Io Io;
  const PackMatrix& matrix = args.matrix;
  int part = 0;
  for (; part < 2 && k_tile >= matrix.parts[part].k_tiles; ++part)
    k_tile -= matrix.parts[part].k_tiles;
  const PackColumns& from = matrix.parts[part];
  const int64_t k = k_tile * Operand::kDepth + depth, at = row_of(args, tile, row);
  if (at < 0 || k >= from.columns) return Io{};
  return load(static_cast<const Io*>(from.from) + at * from.stride + k);
}

// Of a tile's row, in the stage's first or second matrix.
FAST_S2S_DEVICE uint32_t scale_of(const PackStage& args, int64_t tile, int row, int which) {
  const int64_t at = row_of(args, tile, row);
  const float* scales = args.matrix.scales[which];
  return bit_copy<uint32_t>(at < 0 || scales == nullptr ? 0.0f : load_constant(scales + at));
}

// Registers of A as the products' own lanes read them: operands_cuda.cuh.
template <class Operand>
FAST_S2S_KERNEL(kElementwiseThreads)
decode_pack_kernel(const FAST_S2S_GRID_CONSTANT PackStage args) {
  typedef typename Operand::Io Io;
  constexpr int kPerWord = 4 / sizeof(Io);
  for_each_of(args.words, [&](int64_t i) {
    const int lane = i % 32;
    const int64_t k_tile = i / 32 % args.units, tile = i / 32 / args.units;
    Words words;
    for (int r = 0; r < 4; ++r) {
      const int row = lane / 4 + 8 * (r % 2);
      if (k_tile == args.k_tiles) {
        words.w[r] = scale_of(args, tile, row, r / 2);
        continue;
      }
      Io parts[kPerWord];
      for (int part = 0; part < kPerWord; ++part)
        parts[part] = element_of<Operand>(
            args, tile, row, k_tile, lane % 4 * Operand::kLaneValues + r / 2 * kPerWord + part);
      words.w[r] = bit_copy<uint32_t>(parts);
    }
    store(args.packed + i, words);
  });
}

struct PackRows {
  const float* from;
  float* to;
  int64_t rows, columns, stride;
  bool gates;
  float fill;
};

FAST_S2S_KERNEL(kElementwiseThreads)
decode_rows_kernel(const FAST_S2S_GRID_CONSTANT PackRows args) {
  for_each_of(args.rows * args.stride, [&](int64_t i) {
    const int64_t row = i / args.stride, at = i % args.stride;
    int64_t column = at;
    bool there = at < args.columns;
    if (args.gates) {
      const int64_t hidden = args.columns / 4, unit = at / 16 * 4 + at % 4;
      column = at / 4 % 4 * hidden + unit;
      there = unit < hidden;
    }
    store(args.to + i, there ? load_constant(args.from + row * args.columns + column) : args.fill);
  });
}

// One block.
FAST_S2S_KERNEL(kElementwiseThreads)
decode_count_kernel(const FAST_S2S_GRID_CONSTANT DecodeCountArgs args) {
  const DecodeArgs& call = args.call;
  const int64_t width = call.options.width, slots = call.rows * width;
  int64_t left = 0, longest = 0;
  // in pairs: memory is written in no smaller pieces than two bytes
  for (int64_t first = 2 * thread_rank(); first < slots; first += 2 * block_threads())
    for (int64_t slot = first; slot < first + 2 && slot < slots; ++slot) {
      const bool finished = load(args.finished + slot) != 0;
      store(call.state.finished + slot, finished);
      const int64_t position = load(call.state.position + slot);
      const int64_t row = slot / width;
      const int64_t to_go = load_constant(call.rules.prefix_lengths + row) +
                            load_constant(call.rules.limits + row) - position;
      if (!finished && to_go > left) left = to_go;
      const int64_t length = call.options.strategy == Strategy::kBeam
                                 ? load(call.hypotheses.position + slot)
                                 : position;
      longest = longest > position ? longest : position;
      longest = longest > length ? longest : length;
    }
  // of the block: the largest, lane by lane, warp by warp
  const auto largest = [&](int64_t mine) {
    for (int mask = 16; mask > 0; mask /= 2) {
      const int64_t other = shuffle_xor(mine, mask);
      mine = other > mine ? other : mine;
    }
    sync_threads();
    if (lane() == 0) shared_store(8 * warp(), mine);
    sync_threads();
    for (int w = 0; w < block_threads() / 32; ++w) {
      const int64_t other = shared_load<int64_t>(8 * w);
      mine = other > mine ? other : mine;
    }
    return mine;
  };
  left = largest(left);
  longest = largest(longest);
  if (thread_rank() > 0) return;
  int64_t steps = 0, computed = 0;
  for (int64_t group = 0; group < args.groups; ++group) {
    const int64_t taken = load(args.work + 2 * group);
    steps = taken > steps ? taken : steps;
    computed += load(args.work + 2 * group + 1);
  }
  store(call.counts, steps);
  store(call.counts + 1, computed);
  store(call.counts + 2, left);
  store(call.counts + 3, longest);
}

// f of the operand that multiplies weights of this type
template <class F>
std::string with_operand(WeightType weights, const F& f) {
  switch (weights) {
    case WeightType::kFloat32:
      return f(DecodeFp32{});
    case WeightType::kBFloat16:
      return f(DecodeBf16{});
    case WeightType::kFloat16:
      return f(DecodeFp16{});
    case WeightType::kInt8:
      return f(DecodeInt8{});
    default:
      return "weights of a type that there are no kernels for";
  }
}

template <class Args>
std::string launch_over(void (*kernel)(Args), int64_t count, const Args& args, Stream stream) {
  if (count == 0) return "";
  const int64_t blocks = (count + kElementwiseThreads - 1) / kElementwiseThreads;
  LaunchShape shape;
  shape.blocks = static_cast<int>(blocks < kMostBlocks ? blocks : kMostBlocks);
  shape.threads = kElementwiseThreads;
  return launch(kernel, shape, stream, args);
}

}  // namespace

std::string decode_cuda(WeightType weights, const DecodePlan& plan, const DecodeCudaArgs& args,
                        Stream stream) {
  return with_operand(
      weights, [&](auto operand) { return launch_decode<decltype(operand)>(plan, args, stream); });
}

std::string decode_count_cuda(const DecodeCountArgs& args, Stream stream) {
  LaunchShape shape;
  shape.blocks = 1;
  shape.threads = kElementwiseThreads;
  shape.shared_bytes = kElementwiseThreads / 32 * 8;
  return launch(&decode_count_kernel, shape, stream, args);
}

std::string pack_stage_cuda(const DecodePackArgs& args, const DecodeStage& stage,
                            const PackMatrix& matrix, Stream stream) {
  const int64_t units = static_cast<int64_t>(stage.tiles) * stage.units;
  Words* to = reinterpret_cast<Words*>(args.packed) + stage.first * 32;
  const PackStage pack{matrix, args.layout.hidden, stage.k_tiles, stage.units, to, units * 32};
  return with_operand(args.weights, [&](auto operand) {
    return launch_over(&decode_pack_kernel<decltype(operand)>, pack.words, pack, stream);
  });
}

std::string pack_rows_cuda(const float* from, int64_t rows, int64_t columns, float* to,
                           int64_t stride, bool gates, float fill, Stream stream) {
  return launch_over(&decode_rows_kernel, rows * stride,
                     PackRows{from, to, rows, columns, stride, gates, fill}, stream);
}

}  // namespace fast_s2s
