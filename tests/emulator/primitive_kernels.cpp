// Small kernels over the primitives, right ones and wrong ones, for tests of the emulator itself.

#include <map>
#include <string>

#include "launch.cuh"

namespace fast_s2s {

namespace {

struct ProductArgs {
  int kind;
  const uint32_t *a, *b;
  float* d;
};

void product_kernel(const ProductArgs args) {
  uint32_t a[4], b[2];
  float d[4];
  for (int i = 0; i < 4; ++i) a[i] = load(args.a + 4 * lane() + i);
  for (int i = 0; i < 2; ++i) b[i] = load(args.b + 2 * lane() + i);
  for (int i = 0; i < 4; ++i) d[i] = load(args.d + 4 * lane() + i);
  if (args.kind == 0) mma_bf16(d, a, b);
  if (args.kind == 1) mma_fp16(d, a, b);
  if (args.kind == 2) mma_tf32(d, a, b);
  for (int i = 0; i < 4; ++i) store(args.d + 4 * lane() + i, d[i]);
}

struct MatricesArgs {
  int count;
  bool transposed;
  const uint16_t* rows;  // [8 * count][8]
  uint32_t* out;         // [32][count]
};

template <int kCount>
void load_all(const MatricesArgs& args) {
  uint32_t r[kCount];
  // lanes beyond 8 * count give no address that is looked at
  const uint32_t at = lane() * 16;
  if (args.transposed) {
    load_matrices_transposed<kCount>(r, at);
  } else {
    load_matrices<kCount>(r, at);
  }
  for (int i = 0; i < kCount; ++i) store(args.out + kCount * lane() + i, r[i]);
}

void matrices_kernel(const MatricesArgs args) {
  for (int i = lane(); i < 64 * args.count; i += 32)
    shared_store<uint16_t>(2 * i, load(args.rows + i));
  sync_threads();
  if (args.count == 1) load_all<1>(args);
  if (args.count == 2) load_all<2>(args);
  if (args.count == 4) load_all<4>(args);
}

struct ScenarioArgs {
  const uint32_t* input;  // [64]
  uint32_t* output;       // [1024]
  uint32_t* state;        // [64] zeros
};

typedef void (*Scenario)(ScenarioArgs);

int me() { return thread_rank(); }

// every thread reads what the thread 33 further wrote
template <class Barrier>
void neighbour(const Barrier& barrier) {
  shared_store<uint32_t>(4 * me(), me());
  barrier();
  if (shared_load<uint32_t>(4 * ((me() + 33) % 64)) != static_cast<uint32_t>((me() + 33) % 64))
    trap();
}

void from_lane_beside(bool synchronize) {
  shared_store<uint32_t>(4 * me(), me());
  if (synchronize) sync_warp();
  if (shared_load<uint32_t>(4 * (me() ^ 1)) != static_cast<uint32_t>(me() ^ 1)) trap();
}

template <int kPending>
void copied(const ScenarioArgs& args, bool wait) {
  copy_async(16 * (me() % 8), args.input + 4 * (me() % 8));
  copy_async_commit();
  copy_async(256 + 16 * (me() % 8), args.input + 4 * (me() % 8));
  copy_async_commit();
  if (wait) copy_async_wait<kPending>();
  const uint32_t at = kPending == 0 ? 256 : 0;
  if (shared_load<uint32_t>(at + 16 * (me() % 8)) != load(args.input + 4 * (me() % 8))) trap();
  copy_async_wait<0>();
}

// each block gives its peer 16 bytes
void across_cluster(bool before, bool after) {
  if (before) {
    cluster_arrive();
    cluster_wait();
  }
  const int peer = 1 - cluster_block_rank();
  peer_store(peer, 16 * me(), Words{{static_cast<uint32_t>(cluster_block_rank()), 0, 0, 0}});
  if (after) {
    cluster_arrive();
    cluster_wait();
  }
  if (shared_load<Words>(16 * me()).w[0] != static_cast<uint32_t>(peer)) trap();
}

// each block writes, all blocks read all
void across_grid(const ScenarioArgs& args, bool arrive, bool wait) {
  store(args.output + block_rank() * 64 + me(), static_cast<uint32_t>(block_rank()));
  if (arrive) counter_arrive(args.state);
  if (wait) counter_wait(args.state, block_count());
  for (int block = 0; block < block_count(); ++block)
    if (load_l2(args.output + block * 64 + me()) != static_cast<uint32_t>(block)) trap();
}

const std::map<std::string, Scenario> scenarios = {
    {"block barrier", [](const ScenarioArgs) { neighbour([] { sync_threads(); }); }},
    {"no block barrier", [](const ScenarioArgs) { neighbour([] {}); }},
    {"warp barrier between warps", [](const ScenarioArgs) { neighbour([] { sync_warp(); }); }},
    {"named barrier", [](const ScenarioArgs) { neighbour([] { sync_named(1, 64); }); }},
    {"named barrier for too many",
     [](const ScenarioArgs) { neighbour([] { sync_named(1, 96); }); }},
    {"warp barrier", [](const ScenarioArgs) { from_lane_beside(true); }},
    {"no warp barrier", [](const ScenarioArgs) { from_lane_beside(false); }},
    {"overwritten while read",
     [](const ScenarioArgs) {
       neighbour([] { sync_threads(); });
       shared_store<uint32_t>(4 * me(), 0);
     }},
    {"unwritten shared memory", [](const ScenarioArgs) { shared_load<uint32_t>(4 * me()); }},
    {"unwritten global memory", [](const ScenarioArgs args) { load(args.output + me()); }},
    {"shared memory out of bounds", [](const ScenarioArgs) { shared_store<uint32_t>(4096, 1); }},
    {"misaligned shared memory", [](const ScenarioArgs) { shared_store<uint32_t>(2, 1); }},
    {"global memory out of bounds", [](const ScenarioArgs args) { load(args.input + 64); }},
    {"write to an input",
     [](const ScenarioArgs args) { store(const_cast<uint32_t*>(args.input), 1u); }},
    {"half of the block at a barrier",
     [](const ScenarioArgs) {
       if (me() < 32) sync_threads();
     }},
    {"lanes at different operations",
     [](const ScenarioArgs) {
       uint32_t r[1];
       shared_store<Words>(16 * me(), Words{});
       sync_warp();
       if (lane() < 16) {
         shuffle_xor(1.0f, 1);
       } else {
         load_matrices<1>(r, 0);
       }
     }},
    {"shuffle",
     [](const ScenarioArgs) {
       if (shuffle_xor(static_cast<float>(lane()), 5) != (lane() ^ 5)) trap();
       if (shuffle_xor(static_cast<int64_t>(lane()), 16) != (lane() ^ 16)) trap();
     }},
    {"copy waited for",
     [](const ScenarioArgs args) {
       if (me() < 8) copied<0>(args, true);
     }},
    {"copy group waited for",
     [](const ScenarioArgs args) {
       if (me() < 8) copied<1>(args, true);
     }},
    {"copy not waited for",
     [](const ScenarioArgs args) {
       if (me() < 8) copied<0>(args, false);
     }},
    {"copy left behind", [](const ScenarioArgs args) { copy_async(16 * me(), args.input); }},
    {"cluster", [](const ScenarioArgs) { across_cluster(true, true); }},
    {"cluster without barrier", [](const ScenarioArgs) { across_cluster(true, false); }},
    {"cluster without barrier before", [](const ScenarioArgs) { across_cluster(false, true); }},
    {"cluster barrier never waited for",
     [](const ScenarioArgs) {
       cluster_arrive();
       cluster_arrive();
     }},
    {"peer that has ended",
     [](const ScenarioArgs args) {
       cluster_arrive();
       cluster_wait();
       if (cluster_block_rank() == 1) return;
       // until the other block is gone
       for (int i = 0; i < 5000; ++i) load_acquire(args.state);
       peer_store(1, 0, Words{});
     }},
    {"grid", [](const ScenarioArgs args) { across_grid(args, true, true); }},
    {"grid without waiting", [](const ScenarioArgs args) { across_grid(args, true, false); }},
    {"grid without arriving", [](const ScenarioArgs args) { across_grid(args, false, true); }},
    {"trap", [](const ScenarioArgs) { trap(); }},
};

std::string last_error;

const char* report(const std::string& error) {
  last_error = error;
  return last_error.c_str();
}

}  // namespace

}  // namespace fast_s2s

#define EXPORT extern "C" __attribute__((visibility("default")))

// kind: 0 bf16, 1 fp16, 2 tf32; fragments of all lanes. Returns what went wrong, or nothing.
EXPORT const char* emulator_mma(int kind, const uint32_t* a, const uint32_t* b, float* d) {
  using namespace fast_s2s;
  emulator::forget_memory();
  emulator::register_memory(a, 32 * 16, emulator::Access::kInput);
  emulator::register_memory(b, 32 * 8, emulator::Access::kInput);
  emulator::register_memory(d, 32 * 16, emulator::Access::kState);
  LaunchShape shape{1, 32};
  return report(launch(&product_kernel, shape, nullptr, ProductArgs{kind, a, b, d}));
}

EXPORT const char* emulator_ldmatrix(int count, int transposed, const uint16_t* rows,
                                     uint32_t* out) {
  using namespace fast_s2s;
  emulator::forget_memory();
  emulator::register_memory(rows, 128 * count, emulator::Access::kInput);
  emulator::register_memory(out, 128 * count, emulator::Access::kOutput);
  LaunchShape shape{1, 32};
  shape.shared_bytes = 128 * count;
  const MatricesArgs args{count, transposed != 0, rows, out};
  return report(launch(&matrices_kernel, shape, nullptr, args));
}

// `out`: float16, as it is stored; `back`: as it is loaded.
EXPORT void emulator_half(const float* in, uint16_t* out, float* back, int64_t count) {
  using namespace fast_s2s;
  for (int64_t i = 0; i < count; ++i) {
    const Fp16 half = from_float<Fp16>(in[i]);
    out[i] = half.bits;
    back[i] = to_float(half);
  }
}

EXPORT const char* emulator_scenario(const char* name, int blocks, int cluster, int cooperative) {
  using namespace fast_s2s;
  const auto found = scenarios.find(name);
  if (found == scenarios.end()) return "no such scenario";
  constexpr int kInputs = 64;
  // with room behind the inputs, which might lie before the outputs
  static uint32_t input[kInputs + 1], output[1024], state[64];
  for (int i = 0; i < 64; ++i) input[i] = 1000 + i, state[i] = 0;
  emulator::forget_memory();
  emulator::register_memory(input, kInputs * sizeof(uint32_t), emulator::Access::kInput);
  emulator::register_memory(output, sizeof(output), emulator::Access::kOutput);
  emulator::register_memory(state, sizeof(state), emulator::Access::kState);
  LaunchShape shape{blocks, 64, 4096, cluster, cooperative != 0};
  return report(launch(found->second, shape, nullptr, ScenarioArgs{input, output, state}));
}
