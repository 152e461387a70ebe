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
  const void *x, *h;
  int64_t x_columns, h_columns, rows, hidden;
  int k_tiles, x_tiles;
  bool gates;
  Words* packed;
  int64_t words;
};

// The element of a matrix at a row of a tile and a depth; zero where there is none. A tile of gates
// has, of 4 units, i, f, g and o.
template <class Io>
FAST_S2S_DEVICE Io element_of(const PackStage& args, int64_t tile, int row, bool of_x, int64_t k) {
  const int64_t unit = 4 * tile + row % 4;
  const int64_t at = args.gates ? row / 4 * args.hidden + unit : 16 * tile + row;
  const int64_t columns = of_x ? args.x_columns : args.h_columns;
  if ((args.gates ? unit >= args.hidden : at >= args.rows) || k >= columns) return Io{};
  return load_constant(static_cast<const Io*>(of_x ? args.x : args.h) + at * columns + k);
}

// Registers of A as the products' own lanes read them: DecodeFp32, DecodeBf16.
template <class Operand>
FAST_S2S_KERNEL(kElementwiseThreads)
decode_pack_kernel(const FAST_S2S_GRID_CONSTANT PackStage args) {
  typedef typename Operand::Io Io;
  constexpr int kPerWord = 4 / sizeof(Io);
  for_each_of(args.words, [&](int64_t i) {
    const int lane = i % 32;
    const int64_t k_tile = i / 32 % args.k_tiles, tile = i / 32 / args.k_tiles;
    const bool of_x = k_tile < args.x_tiles;
    const int64_t first = (of_x ? k_tile : k_tile - args.x_tiles) * Operand::kDepth;
    Words words;
    for (int r = 0; r < 4; ++r) {
      const int row = lane / 4 + 8 * (r % 2);
      Io parts[kPerWord];
      for (int part = 0; part < kPerWord; ++part)
        parts[part] =
            element_of<Io>(args, tile, row, of_x,
                           first + lane % 4 * Operand::kLaneValues + r / 2 * kPerWord + part);
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
  return weights == WeightType::kFloat32 ? launch_decode<DecodeFp32>(plan, args, stream)
                                         : launch_decode<DecodeBf16>(plan, args, stream);
}

std::string decode_count_cuda(const DecodeCountArgs& args, Stream stream) {
  LaunchShape shape;
  shape.blocks = 1;
  shape.threads = kElementwiseThreads;
  shape.shared_bytes = kElementwiseThreads / 32 * 8;
  return launch(&decode_count_kernel, shape, stream, args);
}

std::string pack_stage_cuda(const DecodePackArgs& args, const DecodeStage& stage, bool gates,
                            const void* x, int64_t x_columns, const void* h, int64_t h_columns,
                            int64_t rows, Stream stream) {
  const int64_t units = static_cast<int64_t>(stage.tiles) * stage.k_tiles;
  Words* to = reinterpret_cast<Words*>(args.packed + kDecodeHeaderBytes) + stage.first * 32;
  const PackStage pack{
      x,     h,  x_columns, h_columns, rows, args.layout.hidden, stage.k_tiles, stage.x_tiles,
      gates, to, units * 32};
  return launch_over(args.weights == WeightType::kFloat32 ? &decode_pack_kernel<DecodeFp32>
                                                          : &decode_pack_kernel<DecodeBf16>,
                     pack.words, pack, stream);
}

std::string pack_rows_cuda(const float* from, int64_t rows, int64_t columns, float* to,
                           int64_t stride, bool gates, float fill, Stream stream) {
  return launch_over(&decode_rows_kernel, rows * stride,
                     PackRows{from, to, rows, columns, stride, gates, fill}, stream);
}

}  // namespace fast_s2s
