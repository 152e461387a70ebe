// Memory and work of one thread's share. Included once per instruction set.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// Aligned scratch memory, freed at scope end.
template <class A>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<A*>(::operator new(sizeof(A) * (count + 1), std::align_val_t{64}))) {}
  ~Scratch() { ::operator delete(data_, std::align_val_t{64}); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  A* get() const { return data_; }

 private:
  A* data_;
};

// The share [begin, end) of `count` items that thread `thread` of `threads` owns.
struct Share {
  int64_t begin, end;
  Share(int64_t count, int thread, int threads)
      : begin(count * thread / threads), end(count * (thread + 1) / threads) {}
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
