// Which bytes were written and read by whom, and in what order.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fast_s2s::emulator {

// What each warp knows of every warp's accesses, as counts of their synchronizations.
typedef std::vector<uint32_t> Clock;

inline void join(Clock& into, const Clock& other) {
  for (size_t i = 0; i < into.size(); ++i)
    if (other[i] > into[i]) into[i] = other[i];
}

// The thread that makes an access.
struct Accessor {
  uint32_t thread;     // in the grid
  uint32_t warp;       // in the grid
  const Clock* clock;  // its warp's; its own entry stamps the access
};

// The history of a block of memory, in cells of two bytes.
class Shadow {
 public:
  Shadow(size_t bytes, bool written);
  // Empty, or what is wrong. `offset` and `bytes` are even.
  std::string read(size_t offset, size_t bytes, const Accessor& who);
  std::string write(size_t offset, size_t bytes, const Accessor& who);
  // A copy is under way: the bytes are there only after a later `write`.
  std::string invalidate(size_t offset, size_t bytes, const Accessor& who);
  // A launch is over: all that was written is there for the next one.
  void settle();

 private:
  struct Access {
    uint32_t thread = 0;  // plus one; 0 for none
    uint32_t warp = 0, stamp = 0;
  };
  struct Cell {
    bool written = false;
    Access writer, readers[2];
  };
  static bool before(const Access& access, const Accessor& who);
  std::vector<Cell> cells_;
};

}  // namespace fast_s2s::emulator
