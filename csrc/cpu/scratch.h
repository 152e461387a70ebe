// Scratch memory that a thread keeps from call to call. Fresh memory costs a page fault for every
// 4 KiB: packed weights of 8 MiB two thousand, a third of the time of a short call.
//
// A block with a name is kept with what was written to it, for the next call that asks for it.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

namespace fast_s2s {

class ScratchPool {
 public:
  // of the calling thread
  static ScratchPool& mine() {
    static thread_local ScratchPool pool;
    return pool;
  }

  struct Name {
    const void* owner = nullptr;  // null: no name
    int64_t detail = 0;
    bool operator==(const Name& other) const {
      return owner == other.owner && detail == other.detail;
    }
  };

  struct Block {
    void* data;
    int64_t bytes;
    Name name;
    bool found;  // as the last one of this name left it
  };

  // At least so many bytes, not initialised; to be given back on the same thread.
  Block take(int64_t bytes) {
    if (bytes == 0) return {nullptr, 0, {}, false};
    auto best = kept_.end();
    for (auto it = kept_.begin(); it != kept_.end(); ++it)
      if (it->name == Name{} && it->bytes >= bytes &&
          (best == kept_.end() || it->bytes < best->bytes))
        best = it;
    return best == kept_.end() ? allocate(bytes, {}) : take(best);
  }

  // The block of this name and size; if there is none, one that is not initialised.
  Block take(const Name& name, int64_t bytes) {
    for (auto it = kept_.begin(); it != kept_.end(); ++it) {
      if (!(it->name == name && it->bytes == bytes)) continue;
      Block block = take(it);
      block.found = true;
      return block;
    }
    if (kept_bytes_ + bytes <= kMaxKeptBytes) return allocate(bytes, name);
    // the oldest of those that would have to go, rather than fresh memory
    for (auto it = kept_.begin(); it != kept_.end(); ++it) {
      if (it->bytes != bytes) continue;
      Block block = take(it);
      block.name = name;
      return block;
    }
    return allocate(bytes, name);
  }

  void give_back(const Block& block) {
    if (block.data == nullptr) return;
    const bool unnamed = block.name == Name{};
    if (block.bytes > kMaxKeptBytes || (kFresh && unnamed)) return release(block);
    kept_.push_back(block);
    kept_bytes_ += block.bytes;
    // the oldest go first
    size_t old = 0;
    for (; kept_bytes_ > kMaxKeptBytes || kept_.size() - old > kMaxKept; ++old) {
      kept_bytes_ -= kept_[old].bytes;
      release(kept_[old]);
    }
    kept_.erase(kept_.begin(), kept_.begin() + old);
  }

  ScratchPool() = default;
  ScratchPool(const ScratchPool&) = delete;
  ScratchPool& operator=(const ScratchPool&) = delete;
  ~ScratchPool() {
    for (const Block& block : kept_) release(block);
  }

 private:
#ifdef FAST_S2S_SANITIZERS
  // every block without a name is a fresh one, whose bounds and life are watched, full of NaN
  static constexpr bool kFresh = true;
#else
  static constexpr bool kFresh = false;
#endif
  static constexpr int64_t kMaxKeptBytes = int64_t{64} << 20;
  // they are searched one by one
  static constexpr size_t kMaxKept = 128;
  static constexpr std::align_val_t kAlignment{64};

  Block take(std::vector<Block>::iterator it) {
    Block block = *it;
    kept_.erase(it);
    kept_bytes_ -= block.bytes;
    block.found = false;
    return block;
  }

  static Block allocate(int64_t bytes, const Name& name) {
    void* data = ::operator new(bytes, kAlignment);
    if (kFresh) std::memset(data, 0xff, bytes);
    return {data, bytes, name, false};
  }
  static void release(const Block& block) { ::operator delete(block.data, kAlignment); }

  std::vector<Block> kept_;
  int64_t kept_bytes_ = 0;
};

}  // namespace fast_s2s
