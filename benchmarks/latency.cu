// What a step of a recurrent kernel waits for at least: how long one exchange takes on this GPU.
//
//   latency [steps] -> JSON on stdout
//
// Each kernel runs once with `steps` exchanges and once with twice as many: the difference is free
// of the launch. What was exchanged is checked. Before, how many clusters of each size the GPU
// holds at once. Without a GPU the emulator runs the same kernels (FAST_S2S_EMULATE), whose times
// mean nothing.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "device.h"
#include "launch.cuh"

#if defined(FAST_S2S_EMULATE)
#include <chrono>
#endif

namespace fast_s2s {
namespace {

constexpr int kThreads = 128;
constexpr int kRing = 1 << 14;

struct Args {
  int steps;
  uint32_t* counter;  // 0
  uint32_t* words;    // [2][blocks], then [blocks][threads]; or the ring
  uint32_t* out;      // [blocks]
};

// One thread follows a ring of addresses: past L1, so each load waits for L2.
FAST_S2S_KERNEL(32) l2_load(FAST_S2S_GRID_CONSTANT const Args args) {
  if (thread_rank() != 0) return;
  uint32_t at = 0;
  for (int step = 0; step < args.steps; ++step) at = load_l2(args.words + at);
  store(args.out, at);
}

// What every thread leaves in global memory in a step: a release waits for it, too.
FAST_S2S_DEVICE void leave(const Args& args, uint32_t value) {
  const int at = 2 * block_count() + block_rank() * kThreads + thread_rank();
  store(args.words + at, value);
}

// All blocks meet by a counter, and each reads what its neighbour wrote: two buffers, as a block
// may be a step ahead.
template <bool kLeaves>
FAST_S2S_KERNEL(kThreads)
grid_exchange(FAST_S2S_GRID_CONSTANT const Args args) {
  const int blocks = block_count(), other = (block_rank() + 1) % blocks;
  uint32_t value = block_rank();
  for (int step = 0; step < args.steps; ++step) {
    uint32_t* words = args.words + (step % 2) * blocks;
    if constexpr (kLeaves) leave(args, value);
    if (thread_rank() == 0) store(words + block_rank(), value);
    counter_arrive(args.counter);
    counter_wait(args.counter, static_cast<uint32_t>((step + 1) * blocks));
    value = load_l2(words + other) + 1;
  }
  if (thread_rank() == 0) store(args.out + block_rank(), value);
}

FAST_S2S_KERNEL(kThreads) cluster_barrier(FAST_S2S_GRID_CONSTANT const Args args) {
  for (int step = 0; step < args.steps; ++step) {
    cluster_arrive();
    cluster_wait();
  }
  if (thread_rank() == 0) store(args.out + block_rank(), uint32_t(args.steps));
}

// 16 bytes into the neighbour's shared memory, and a barrier of the cluster: a step of the cluster
// variant without its arithmetic.
template <int kCluster, bool kLeaves>
FAST_S2S_KERNEL(kThreads)
cluster_exchange(FAST_S2S_GRID_CONSTANT const Args args) {
  const int rank = cluster_block_rank();
  uint32_t value = rank;
  // no block may write into one that has not begun
  cluster_arrive();
  cluster_wait();
  for (int step = 0; step < args.steps; ++step) {
    const uint32_t at = (step % 2) * sizeof(Words);
    if constexpr (kLeaves) leave(args, value);
    // the one before: so each reads what the one after wrote
    if (thread_rank() == 0)
      peer_store((rank + kCluster - 1) % kCluster, at, Words{{value, value, value, value}});
    cluster_arrive();
    cluster_wait();
    value = shared_load<Words>(at).w[3] + 1;
  }
  if (thread_rank() == 0) store(args.out + block_rank(), value);
  cluster_arrive();
  cluster_wait();
}

FAST_S2S_KERNEL(kThreads) block_barrier(FAST_S2S_GRID_CONSTANT const Args args) {
  for (int step = 0; step < args.steps; ++step) sync_threads();
  if (thread_rank() == 0) store(args.out + block_rank(), uint32_t(args.steps));
}

// As many threads as the recurrent kernels have.
FAST_S2S_KERNEL(32 * kWarps) cluster_member(FAST_S2S_GRID_CONSTANT const Args args) {
  cluster_arrive();
  cluster_wait();
  if (thread_rank() == 0) store(args.out + block_rank(), 1u);
}

#if defined(FAST_S2S_EMULATE)
typedef std::vector<uint32_t> Words32;
uint32_t* data(Words32& words) { return words.data(); }
std::vector<uint32_t> host(const Words32& words) { return words; }
Words32 device(const std::vector<uint32_t>& words) { return words; }
void release(Words32&) {}
#else
struct Words32 {
  uint32_t* at;
  size_t count;
};
uint32_t* data(Words32& words) { return words.at; }
void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}
std::vector<uint32_t> host(const Words32& words) {
  std::vector<uint32_t> out(words.count);
  check(cudaMemcpy(out.data(), words.at, 4 * words.count, cudaMemcpyDeviceToHost));
  return out;
}
Words32 device(const std::vector<uint32_t>& words) {
  Words32 out{nullptr, words.size()};
  check(cudaMalloc(&out.at, 4 * words.size()));
  check(cudaMemcpy(out.at, words.data(), 4 * words.size(), cudaMemcpyHostToDevice));
  return out;
}
void release(Words32& words) { check(cudaFree(words.at)); }
#endif

struct Outcome {
  double seconds = 0;
  std::vector<uint32_t> out;
  std::string failure;
};

typedef void (*Kernel)(Args);

Outcome run(Kernel kernel, const LaunchShape& shape, int steps, const std::vector<uint32_t>& ring) {
  const size_t count = ring.empty() ? (2 + kThreads) * shape.blocks : ring.size();
  Words32 counter = device({0});
  Words32 words = device(ring.empty() ? std::vector<uint32_t>(count) : ring);
  Words32 out = device(std::vector<uint32_t>(shape.blocks));
  declare_memory(data(counter), 4, Access::kState);
  declare_memory(data(words), 4 * count, Access::kState);
  declare_memory(data(out), 4 * shape.blocks, Access::kState);
  const Args args{steps, data(counter), data(words), data(out)};
  Outcome outcome;
#if defined(FAST_S2S_EMULATE)
  const auto begin = std::chrono::steady_clock::now();
  outcome.failure = launch(kernel, shape, Stream(), args);
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  emulator::forget_memory();
#else
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  check(cudaEventRecord(begin));
  outcome.failure = launch(kernel, shape, Stream(), args);
  check(cudaEventRecord(end));
  float milliseconds = 0;
  if (outcome.failure.empty()) {
    check(cudaEventSynchronize(end));
    check(cudaEventElapsedTime(&milliseconds, begin, end));
  }
  outcome.seconds = milliseconds / 1e3;
  check(cudaEventDestroy(begin));
  check(cudaEventDestroy(end));
#endif
  if (outcome.failure.empty()) outcome.out = host(out);
  release(counter);
  release(words);
  release(out);
  return outcome;
}

struct Probe {
  const char* name;
  Kernel kernel;
  LaunchShape shape;
  // what block `block` of `blocks` shall hold after `steps`
  uint32_t (*expected)(uint32_t block, uint32_t blocks, uint32_t steps);
  bool ring = false;
};

uint32_t counted(uint32_t, uint32_t, uint32_t steps) { return steps; }

// after s steps a block has the number of the one s further, and s more
template <int kGroup>
uint32_t exchanged(uint32_t block, uint32_t blocks, uint32_t steps) {
  const uint32_t group = kGroup ? kGroup : blocks;
  return (block % group + steps) % group + steps;
}

// a cycle through all of the ring with a long stride
std::vector<uint32_t> make_ring() {
  std::vector<uint32_t> ring(kRing);
  for (uint32_t i = 0; i < kRing; ++i) ring[i] = (i + 4099) % kRing;
  return ring;
}

uint32_t followed(uint32_t, uint32_t, uint32_t steps) {
  return static_cast<uint32_t>((uint64_t{4099} * steps) % kRing);
}

// ns of a step: the median of some runs of `steps` against as many of twice as many.
void report(const Probe& probe, int steps, int rounds, bool last) {
  const std::vector<uint32_t> ring = probe.ring ? make_ring() : std::vector<uint32_t>();
  std::vector<double> found;
  std::string failure;
  for (int round = 0; round < rounds && failure.empty(); ++round) {
    double seconds[2];
    for (int twice = 0; twice < 2 && failure.empty(); ++twice) {
      const int count = steps << twice;
      const Outcome outcome = run(probe.kernel, probe.shape, count, ring);
      failure = outcome.failure;
      seconds[twice] = outcome.seconds;
      for (size_t block = 0; block < outcome.out.size(); ++block)
        if (outcome.out[block] != probe.expected(block, probe.shape.blocks, count))
          failure = "wrong: block " + std::to_string(block) + " has " +
                    std::to_string(outcome.out[block]);
    }
    // the first is warm-up
    if (failure.empty() && round > 0) found.push_back((seconds[1] - seconds[0]) / steps * 1e9);
  }
  std::sort(found.begin(), found.end());
  for (char& c : failure)
    if (c == '"' || c == '\\' || c == '\n') c = ' ';
  std::printf("  {\"name\": \"%s\", \"blocks\": %d, \"cluster\": %d, \"steps\": %d, ", probe.name,
              probe.shape.blocks, probe.shape.cluster, steps);
  if (failure.empty()) {
    const size_t n = found.size();
    std::printf("\"ns\": %.1f, \"ns_least\": %.1f, \"ns_most\": %.1f}", found[n / 2], found[0],
                found[n - 1]);
  } else {
    std::printf("\"failure\": \"%s\"}", failure.c_str());
  }
  std::printf(last ? "\n" : ",\n");
  // the next may hang
  std::fflush(stdout);
}

// Clusters for which there is room at once, each of whose blocks has an SM of its own, as those of
// the recurrent kernels have, which fill its shared memory with weights. -1: `failure` says why.
int resident_clusters(int cluster, const Device& device, std::string& failure) {
#if defined(FAST_S2S_EMULATE)
  return static_cast<int>(std::min(device.sms, emulator::occupancy()) / cluster);
#else
  const void* kernel = reinterpret_cast<const void*>(cluster_member);
  const int shared_bytes = static_cast<int>(device.shared_bytes);
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(cluster);
  config.blockDim = dim3(32 * kWarps);
  config.dynamicSmemBytes = shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = 0;
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error == cudaSuccess)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  if (error == cudaSuccess) error = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
  if (error == cudaSuccess) return clusters;
  cudaGetLastError();
  failure = cudaGetErrorString(error);
  return -1;
#endif
}

void report_residents(const Device& device) {
  for (int cluster = 2; cluster <= device.max_cluster; cluster *= 2) {
    std::string failure;
    const int clusters = resident_clusters(cluster, device, failure);
    std::printf("  {\"name\": \"clusters at once\", \"blocks\": %d, \"cluster\": %d, ",
                std::max(clusters, 0) * cluster, cluster);
    if (failure.empty()) {
      std::printf("\"shared_bytes\": %d, \"clusters\": %d},\n",
                  static_cast<int>(device.shared_bytes), clusters);
    } else {
      std::printf("\"failure\": \"%s\"},\n", failure.c_str());
    }
  }
}

int all(int steps, int rounds) {
  const Device device = device_properties();
  std::vector<Probe> probes{
      {"L2 load", l2_load, {1, 32}, followed, true},
      {"block barrier", block_barrier, {1, kThreads}, counted},
  };
  const int sms = static_cast<int>(device.sms);
  for (int blocks : {2, 16, 64, sms}) {
    if (blocks > sms) continue;
    LaunchShape shape{blocks, kThreads};
    shape.cooperative = true;
    probes.push_back({"grid exchange", grid_exchange<false>, shape, exchanged<0>});
    probes.push_back({"grid exchange after stores", grid_exchange<true>, shape, exchanged<0>});
  }
  const auto add_cluster = [&](int cluster, Kernel exchange, Kernel leaves, auto expected) {
    if (cluster > device.max_cluster) return;
    const LaunchShape shape{cluster, kThreads, 2 * int(sizeof(Words)), cluster};
    probes.push_back({"cluster barrier", cluster_barrier, shape, counted});
    probes.push_back({"cluster exchange", exchange, shape, expected});
    probes.push_back({"cluster exchange after stores", leaves, shape, expected});
  };
  add_cluster(2, cluster_exchange<2, false>, cluster_exchange<2, true>, exchanged<2>);
  add_cluster(8, cluster_exchange<8, false>, cluster_exchange<8, true>, exchanged<8>);
  add_cluster(16, cluster_exchange<16, false>, cluster_exchange<16, true>, exchanged<16>);
  std::printf("[\n");
  report_residents(device);
  for (size_t i = 0; i < probes.size(); ++i)
    report(probes[i], steps, rounds, i + 1 == probes.size());
  std::printf("]\n");
  return 0;
}

}  // namespace
}  // namespace fast_s2s

int main(int count, char** arguments) {
  const int steps = count > 1 ? std::atoi(arguments[1]) : 10000;
  const int rounds = count > 2 ? std::atoi(arguments[2]) : 12;
  if (steps < 1 || rounds < 2) {
    std::fprintf(stderr, "usage: latency [steps >= 1] [rounds >= 2]\n");
    return 2;
  }
  return fast_s2s::all(steps, rounds);
}
