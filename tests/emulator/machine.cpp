// Launches, scheduling and barriers.
#include "machine.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <sstream>

namespace fast_s2s::emulator {

Machine* machine = nullptr;
Fiber* current = nullptr;
Counts totals;

uint64_t draw() {
  uint64_t& x = machine->random;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return x;
}

void resume_another() {
  Context& mine = current->context;
  if (machine->runnable.empty() || !machine->error.empty()) {
    current = nullptr;
    switch_context(mine, machine->scheduler);
    return;
  }
  auto& runnable = machine->runnable;
  std::swap(runnable[draw() % runnable.size()], runnable.back());
  Fiber* next = runnable.back();
  runnable.pop_back();
  if (&next->context == &mine) return;
  current = next;
  switch_context(mine, next->context);
}

void sleep(const char* what) {
  current->waits_for = what;
  resume_another();
}

void wake(Fiber* fiber) {
  fiber->waits_for = nullptr;
  machine->runnable.push_back(fiber);
}

Warp& warp_of(const Fiber& fiber) { return machine->warps[fiber.warp]; }

Accessor accessor() { return {current->thread, current->warp, &warp_of(*current).clock}; }

namespace {

constexpr size_t kStackBytes = 64 * 1024;

std::vector<unsigned char*> free_stacks;

std::string name_of(const Fiber& fiber) {
  std::ostringstream out;
  out << "block " << fiber.block->rank << " warp " << fiber.here.thread / 32 << " lane "
      << fiber.here.thread % 32;
  return out.str();
}

void next_stamp(uint32_t warp) { ++machine->warps[warp].clock[warp]; }

// Called once per thread; whole warps take part.
void arrive(Barrier& barrier) {
  if (barrier.clock.empty()) barrier.clock.assign(machine->warps.size(), 0);
  ++barrier.arrived;
  if (++barrier.arrived_of_warp[current->warp] < 32) return;
  join(barrier.clock, warp_of(*current).clock);
  next_stamp(current->warp);
}

// What arrived becomes known to all; the barrier begins anew.
void complete(Barrier& barrier) {
  ++totals.barriers;
  for (const auto& [warp, count] : barrier.arrived_of_warp)
    join(machine->warps[warp].clock, barrier.clock);
  barrier.arrived_of_warp.clear();
  barrier.arrived = 0;
  ++barrier.generation;
  for (Fiber* fiber : barrier.waiters) wake(fiber);
  barrier.waiters.clear();
}

void rendezvous(Barrier& barrier, int expected, const char* what) {
  arrive(barrier);
  if (barrier.arrived > expected) fail(std::string(what) + ": more threads than it has");
  if (barrier.arrived == expected) return complete(barrier);
  barrier.waiters.push_back(current);
  sleep(what);
}

void finish_block(Block& block) {
  machine->resident -= 1;
  block.running = 0;
}

void fiber_main() {
  (*machine->kernel)();
  current->done = true;
  --machine->running;
  if (current->copies.size() > 1 || (!current->copies.empty() && !current->copies[0].empty()))
    fail("copies that nobody waited for");
  if (--current->block->running == 0) finish_block(*current->block);
  resume_another();
}

unsigned char* new_stack() {
  if (!free_stacks.empty()) {
    unsigned char* stack = free_stacks.back();
    free_stacks.pop_back();
    return stack;
  }
  void* at = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return static_cast<unsigned char*>(at);
}

void start_block(int rank, Cluster& cluster) {
  Machine& m = *machine;
  Block& block = m.blocks.emplace_back();
  block.rank = rank;
  block.running = m.grid.threads;
  block.cluster = &cluster;
  block.memory.assign(m.grid.shared_bytes, 0xff);
  block.shadow = std::make_unique<Shadow>(m.grid.shared_bytes, false);
  const int cluster_rank = static_cast<int>(cluster.blocks.size());
  cluster.blocks.push_back(&block);
  for (int thread = 0; thread < m.grid.threads; ++thread) {
    Fiber& fiber = m.fibers.emplace_back();
    fiber.here = {thread, m.grid.threads, rank, m.grid.blocks, cluster_rank};
    fiber.thread = rank * m.grid.threads + thread;
    fiber.warp = fiber.thread / 32;
    fiber.block = &block;
    fiber.stack = new_stack();
    make_context(fiber.context, fiber.stack, kStackBytes, &fiber_main);
    m.warps[fiber.warp].fibers[thread % 32] = &fiber;
    m.runnable.push_back(&fiber);
  }
  ++m.resident;
  m.running += m.grid.threads;
}

// As many clusters as there is room for, one block per multiprocessor.
void start_clusters() {
  Machine& m = *machine;
  const size_t clusters = m.grid.blocks / m.grid.cluster;
  while (m.next_cluster < clusters && m.resident + m.grid.cluster <= properties().sms) {
    Cluster& cluster = m.clusters.emplace_back();
    for (int i = 0; i < m.grid.cluster; ++i)
      start_block(static_cast<int>(m.next_cluster) * m.grid.cluster + i, cluster);
    ++m.next_cluster;
  }
}

std::string check(const Grid& grid) {
  const Properties& p = properties();
  const auto complain = [](const std::string& what) { return "launch: " + what; };
  if (grid.blocks < 1) return complain("no blocks");
  if (grid.threads < 32 || grid.threads % 32 != 0 || grid.threads > 1024)
    return complain("threads: expected whole warps, at most 1024");
  if (grid.shared_bytes < 0 || grid.shared_bytes > p.shared_bytes)
    return complain("more shared memory than a block may have");
  if (grid.cluster > p.max_cluster) return complain("cluster larger than the device has");
  if (grid.blocks % grid.cluster != 0) return complain("blocks: not whole clusters");
  if (grid.cluster > p.sms) return complain("cluster larger than the device");
  if (grid.cooperative && !p.cooperative) return complain("cooperative launch is not supported");
  if (grid.cooperative && grid.blocks > p.sms)
    return complain("too many blocks in cooperative launch");
  return "";
}

std::string describe_deadlock() {
  std::map<std::string, std::vector<std::string>> waiting;
  for (const Fiber& fiber : machine->fibers)
    if (!fiber.done && fiber.waits_for != nullptr)
      waiting[fiber.waits_for].push_back(name_of(fiber));
  std::ostringstream out;
  out << "deadlock:";
  for (const auto& [what, who] : waiting)
    out << " " << who.size() << " threads wait at " << what << ", first " << who.front() << ";";
  return out.str();
}

void run_all() {
  Machine& m = *machine;
  Context& mine = m.scheduler;
  for (;;) {
    start_clusters();
    if (!m.error.empty()) return;
    if (m.runnable.empty()) {
      if (m.running > 0) m.error = describe_deadlock();
      return;
    }
    current = m.runnable[draw() % m.runnable.size()];
    std::swap(*std::find(m.runnable.begin(), m.runnable.end(), current), m.runnable.back());
    m.runnable.pop_back();
    switch_context(mine, current->context);
  }
}

}  // namespace

Properties& properties() {
  static Properties values;
  return values;
}

const Counts& counts() { return totals; }

int64_t room() { return properties().resident > 0 ? properties().resident : INT64_MAX; }

int64_t occupancy() { return properties().occupancy > 0 ? properties().occupancy : room(); }

std::string run(const Grid& grid, const std::function<void()>& kernel) {
  if (machine != nullptr) return "launch: inside a kernel";
  std::string wrong = check(grid);
  if (!wrong.empty()) return wrong;
  ++totals.launches;
  totals.threads += static_cast<uint64_t>(grid.blocks) * grid.threads;
  Machine here;
  here.grid = grid;
  here.kernel = &kernel;
  here.random = properties().seed * 0x9e3779b97f4a7c15ull + 88172645463325252ull;
  here.warps.resize(grid.blocks * grid.threads / 32);
  for (size_t i = 0; i < here.warps.size(); ++i) {
    here.warps[i].clock.assign(here.warps.size(), 0);
    here.warps[i].clock[i] = 1;
  }
  machine = &here;
  open_memory(true);
  run_all();
  open_memory(false);
  for (Fiber& fiber : here.fibers) free_stacks.push_back(fiber.stack);
  machine = nullptr;
  current = nullptr;
  settle_memory();
  return here.error;
}

const Here& here() { return current->here; }

void fail(const std::string& what) {
  machine->error = name_of(*current) + ": " + what;
  switch_context(current->context, machine->scheduler);
  __builtin_unreachable();
}

void sync_threads() { rendezvous(current->block->barrier, current->here.threads, "sync_threads"); }

void sync_warp() { rendezvous(warp_of(*current).sync, 32, "sync_warp"); }

void sync_named(int id, int threads) {
  if (id < 1 || id > 15) fail("named barrier: expected 1..15");
  rendezvous(current->block->named[id], threads, "sync_named");
}

void cluster_arrive() {
  if (machine->grid.cluster == 1) fail("cluster barrier: launched without clusters");
  Cluster& cluster = *current->block->cluster;
  if (current->cluster_ticket != 0) fail("cluster barrier: arrived twice");
  current->cluster_ticket = cluster.barrier.generation + 1;
  arrive(cluster.barrier);
}

void cluster_wait() {
  Cluster& cluster = *current->block->cluster;
  if (current->cluster_ticket == 0) fail("cluster barrier: waits without having arrived");
  const int expected = machine->grid.threads * machine->grid.cluster;
  const uint64_t ticket = current->cluster_ticket;
  current->cluster_ticket = 0;
  if (cluster.barrier.generation >= ticket) return;
  if (cluster.barrier.arrived == expected) return complete(cluster.barrier);
  cluster.barrier.waiters.push_back(current);
  sleep("cluster_wait");
}

void polled() {
  machine->runnable.push_back(current);
  resume_another();
}

void meet(const char* name, void* mine, void (*operation)(void* const (&lanes)[32])) {
  Warp& warp = warp_of(*current);
  if (warp.arrived > 0 && std::strcmp(warp.operation, name) != 0)
    fail(std::string("lanes of one warp meet at ") + warp.operation + " and at " + name);
  warp.operation = name;
  warp.lanes[current->here.thread % 32] = mine;
  if (++warp.arrived < 32) return sleep(name);
  warp.arrived = 0;
  operation(warp.lanes);
  for (Fiber* fiber : warp.fibers)
    if (fiber != current) wake(fiber);
}

void count_product() { ++totals.products; }

}  // namespace fast_s2s::emulator
