// Memory and work of one thread's share. Included once per instruction set.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// Aligned scratch memory, not initialised, given back at scope end.
template <class A>
class Scratch {
 public:
  explicit Scratch(int64_t count) : block_(ScratchPool::mine().take(sizeof(A) * count)) {}
  // As the last scratch of this name and size left it, if `found()`.
  Scratch(const ScratchPool::Name& name, int64_t count)
      : block_(ScratchPool::mine().take(name, sizeof(A) * count)) {}
  ~Scratch() { ScratchPool::mine().give_back(block_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  A* get() const { return static_cast<A*>(block_.data); }
  bool found() const { return block_.found; }

 private:
  ScratchPool::Block block_;
};

// The share [begin, end) of `count` items that thread `thread` of `threads` owns.
struct Share {
  int64_t begin, end;
  Share(int64_t count, int thread, int threads)
      : begin(count * thread / threads), end(count * (thread + 1) / threads) {}
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
