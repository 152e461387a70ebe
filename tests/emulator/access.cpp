// Checked access to shared and global memory, and asynchronous copies.
#include "emulator.h"

#include <sys/mman.h>

#include <cstring>

#include "machine.h"

namespace fast_s2s::emulator {

namespace {

struct Region {
  const unsigned char* at;
  size_t bytes;
  Access access;
  std::unique_ptr<Shadow> shadow;
};

std::map<const unsigned char*, Region> regions;
std::vector<std::pair<void*, size_t>> guarded;

Region* region_of(const void* at, size_t bytes) {
  const auto* first = static_cast<const unsigned char*>(at);
  auto next = regions.upper_bound(first);
  if (next == regions.begin()) return nullptr;
  Region& region = std::prev(next)->second;
  return first + bytes <= region.at + region.bytes ? &region : nullptr;
}

Block& owner(const void* at) {
  const auto* byte = static_cast<const unsigned char*>(at);
  for (Block* block : current->block->cluster->blocks)
    if (byte >= block->memory.data() && byte < block->memory.data() + block->memory.size())
      return *block;
  fail("shared memory: no such block");
}

void check_result(const char* space, const std::string& wrong, size_t offset) {
  if (!wrong.empty())
    fail(std::string(space) + " memory, offset " + std::to_string(offset) + ": " + wrong);
}

unsigned char* shared_of(Block& block, uint32_t offset, size_t bytes) {
  if (offset + bytes > block.memory.size())
    fail("shared memory: offset " + std::to_string(offset) + " + " + std::to_string(bytes) +
         " is beyond " + std::to_string(block.memory.size()) + " bytes");
  if (offset % bytes != 0) fail("shared memory: misaligned offset " + std::to_string(offset));
  return block.memory.data() + offset;
}

void land(const Copy& copy) {
  Block& block = owner(copy.to);
  const size_t offset = copy.to - block.memory.data();
  check_result("shared", block.shadow->write(offset, 16, accessor()), offset);
  std::memcpy(copy.to, copy.read_early ? copy.bytes : copy.from, 16);
}

}  // namespace

void settle_memory() {
  for (auto& [at, region] : regions)
    if (region.shadow != nullptr) region.shadow->settle();
}

void register_memory(const void* at, size_t bytes, Access access) {
  if (bytes == 0) return;
  const auto* first = static_cast<const unsigned char*>(at);
  // what was there before has been freed
  auto old = regions.lower_bound(first);
  if (old != regions.begin() && std::prev(old)->second.at + std::prev(old)->second.bytes > first)
    --old;
  while (old != regions.end() && old->second.at < first + bytes) old = regions.erase(old);
  Region region{first, bytes, access, nullptr};
  if (access != Access::kInput)
    region.shadow = std::make_unique<Shadow>(bytes, access == Access::kState);
  regions[first] = std::move(region);
}

void forget_memory() { regions.clear(); }

void open_memory(bool open) {
  for (const auto& [at, bytes] : guarded)
    mprotect(at, bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void guard_memory(const std::vector<std::pair<void*, size_t>>& pages) {
  open_memory(true);
  guarded = pages;
  open_memory(false);
}

void read(Space space, const void* at, size_t bytes) {
  if (space == Space::kShared) {
    Block& block = owner(at);
    const size_t offset = static_cast<const unsigned char*>(at) - block.memory.data();
    return check_result("shared", block.shadow->read(offset, bytes, accessor()), offset);
  }
  Region* region = region_of(at, bytes);
  if (region == nullptr) fail("global memory: read out of bounds");
  if (reinterpret_cast<uintptr_t>(at) % bytes != 0) fail("global memory: misaligned read");
  if (region->shadow == nullptr) return;
  const size_t offset = static_cast<const unsigned char*>(at) - region->at;
  check_result("global", region->shadow->read(offset, bytes, accessor()), offset);
}

void write(Space space, void* at, size_t bytes) {
  if (space == Space::kShared) {
    Block& block = owner(at);
    const size_t offset = static_cast<unsigned char*>(at) - block.memory.data();
    return check_result("shared", block.shadow->write(offset, bytes, accessor()), offset);
  }
  Region* region = region_of(at, bytes);
  if (region == nullptr) fail("global memory: write out of bounds");
  if (reinterpret_cast<uintptr_t>(at) % bytes != 0) fail("global memory: misaligned write");
  if (region->shadow == nullptr) fail("global memory: write to an input");
  const size_t offset = static_cast<unsigned char*>(at) - region->at;
  check_result("global", region->shadow->write(offset, bytes, accessor()), offset);
}

unsigned char* shared(uint32_t offset, size_t bytes) {
  return shared_of(*current->block, offset, bytes);
}

unsigned char* peer_shared(int rank, uint32_t offset, size_t bytes) {
  auto& blocks = current->block->cluster->blocks;
  if (rank < 0 || rank >= static_cast<int>(blocks.size())) fail("shared memory: no such peer");
  if (blocks[rank]->running == 0) fail("shared memory: the peer has ended");
  // a block begins when it likes; that it has begun is known only from a barrier with it
  const int peer_warp = blocks[rank]->rank * machine->grid.threads / 32;
  if (blocks[rank] != current->block && warp_of(*current).clock[peer_warp] == 0)
    fail("shared memory: the peer may not have begun");
  return shared_of(*blocks[rank], offset, bytes);
}

void release(const void* variable) {
  if (region_of(variable, 4) == nullptr) fail("global memory: counter out of bounds");
  Clock& clock = machine->variables[variable];
  if (clock.empty()) clock.assign(machine->warps.size(), 0);
  join(clock, warp_of(*current).clock);
  ++warp_of(*current).clock[current->warp];
}

void acquire(const void* variable) {
  if (region_of(variable, 4) == nullptr) fail("global memory: counter out of bounds");
  const auto found = machine->variables.find(variable);
  if (found != machine->variables.end()) join(warp_of(*current).clock, found->second);
}

void copy_async(unsigned char* to, const void* from) {
  read(Space::kGlobal, from, 16);
  Block& block = owner(to);
  const size_t offset = to - block.memory.data();
  check_result("shared", block.shadow->invalidate(offset, 16, accessor()), offset);
  if (current->copies.empty()) current->copies.emplace_back();
  // the hardware may read the source at any time until the wait
  Copy copy{to, from, draw() % 2 == 0, {}};
  std::memcpy(copy.bytes, from, 16);
  current->copies.back().push_back(copy);
}

void copy_async_commit() {
  if (current->copies.empty()) current->copies.emplace_back();
  current->copies.emplace_back();
}

void copy_async_wait(int pending) {
  auto& copies = current->copies;
  while (static_cast<int>(copies.size()) > pending + 1) {
    for (const Copy& copy : copies.front()) land(copy);
    copies.erase(copies.begin());
  }
}

}  // namespace fast_s2s::emulator
