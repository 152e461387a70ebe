// What forward and backward share: who computes what, the rows of a tile, the exchange of a step.
#pragma once

#include "operand_cuda.cuh"

namespace fast_s2s {

constexpr int kThreads = 32 * kWarps;

// This block's place in the launch.
template <class Direction>
struct Place {
  int rank, direction, group;
  int64_t row0;  // of the batch
  int rows;      // of the batch, in this tile; up to the layout's

  FAST_S2S_DEVICE explicit Place(const SequenceArgs<Direction>& args) {
    const Layout& l = args.layout;
    rank = block_rank() % l.ranks;
    group = block_rank() / l.ranks;
    direction = group % l.directions;
    row0 = args.first_row + static_cast<int64_t>(group / l.directions) * l.rows;
    const int64_t left = args.directions[direction].shape.batch - row0;
    rows = left < 0 ? 0 : left < l.rows ? static_cast<int>(left) : l.rows;
  }
};

// Lengths of the tile's rows, in shared memory; and the steps of its longest.
class TileRows {
 public:
  FAST_S2S_DEVICE TileRows(const Layout& layout, const SequenceShape& shape, int64_t row0, int rows)
      : shape_(shape), at_(layout.lengths), row0_(row0), rows_(rows) {}

  // Every thread looks at all rows: a reduction would need a barrier more.
  FAST_S2S_DEVICE void load() {
    int longest = 0;
    for (int row = 0; row < rows_; ++row) {
      const int length = length_of(row);
      if (thread_rank() == 0) shared_store(at_ + 4 * row, length);
      longest = length > longest ? length : longest;
    }
    steps_ = longest;
  }
  FAST_S2S_DEVICE int steps() const { return steps_; }
  FAST_S2S_DEVICE int length(int row) const { return shared_load<int>(at_ + 4 * row); }
  // the time of the s-th step
  FAST_S2S_DEVICE int time(int s) const { return shape_.reverse ? steps_ - 1 - s : s; }
  FAST_S2S_DEVICE bool runs(int t, int row) const { return t < length(row); }
  FAST_S2S_DEVICE int first(int row) const { return shape_.reverse ? length(row) - 1 : 0; }
  FAST_S2S_DEVICE int last(int row) const { return shape_.reverse ? 0 : length(row) - 1; }
  FAST_S2S_DEVICE int preceding(int t) const { return shape_.reverse ? t + 1 : t - 1; }
  // whether a row that runs at t forgets its state before
  FAST_S2S_DEVICE bool resets(int t, int row) const {
    return shape_.reset != nullptr && load_constant(shape_.reset + at(t, row));
  }
  FAST_S2S_DEVICE bool may_reset() const { return shape_.reset != nullptr; }
  // `reset` as it lies in memory: what is made of a value waits for its load
  FAST_S2S_DEVICE unsigned char reset_byte(int t, int row) const {
    return load_constant(reinterpret_cast<const unsigned char*>(shape_.reset) + at(t, row));
  }
  // the tile's row that a load takes for one past it, instead of a branch
  FAST_S2S_DEVICE int nearest(int row) const { return row < rows_ ? row : rows_ - 1; }
  // index of the row at step t in a padded array
  FAST_S2S_DEVICE int64_t at(int t, int row) const {
    return static_cast<int64_t>(t) * shape_.batch + row0_ + row;
  }

 private:
  FAST_S2S_DEVICE int length_of(int row) const {
    if (shape_.lengths == nullptr) return static_cast<int>(shape_.steps);
    const int64_t length = load_constant(shape_.lengths + row0_ + row);
    // checking values would take a copy to the host
    return static_cast<int>(length < 0 ? 0 : length < shape_.steps ? length : shape_.steps);
  }

  const SequenceShape& shape_;
  const uint32_t at_;
  const int64_t row0_;
  const int rows_;
  int steps_ = 0;
};

// A step's result on its way to all ranks, in two buffers by turns: a rank that still reads one is
// not overtaken. Publication n is read from buffer n % 2. kStripBytes: of a row of a strip of the
// product that makes it, whose strips are those of `source`.
template <Variant kVariant, int kStripBytes, int kRowTiles>
class Exchange {
  static constexpr bool kThroughL2 = kVariant == Variant::kGrid || kVariant == Variant::kStream;

 public:
  template <class Direction>
  FAST_S2S_DEVICE Exchange(const SequenceArgs<Direction>& args, const Layout& source,
                           const Place<Direction>& place)
      : Exchange(args.layout, source, place.rank, place.group, args.exchange, args.counters,
                 args.carried != nullptr) {}

  FAST_S2S_DEVICE Exchange(const Layout& layout, const Layout& source, int rank, int group,
                           unsigned char* buffer, uint32_t* counters, bool stepwise)
      : l_(layout),
        source_(source),
        rank_(rank),
        stepwise_(stepwise),
        row_bytes_(static_cast<int64_t>(l_.k_tiles) * 32) {
    if constexpr (kThroughL2) {
      // no array of two pointers: an index known only at run time would keep all of the kernel's
      // state from registers
      buffer_ = buffer + group * l_.rows * row_bytes_;
      to_second_ = static_cast<int64_t>(block_count() / l_.ranks) * l_.rows * row_bytes_;
      counter_ = counters + group;
    }
  }

  // Bytes of a row that no strip covers are multiplied by zeros of W: they must be finite. Global
  // buffers are zero from the start.
  FAST_S2S_DEVICE void clear_padding() {
    if constexpr (!kThroughL2) {
      const int begin = source_.strips * kStripBytes, words = (l_.k_tiles * 32 - begin) / 16;
      for (int i = thread_rank(); i < 2 * l_.rows * words; i += block_threads())
        shared_store(l_.operand + (i / words) * l_.operand_stride + begin + (i % words) * 16,
                     Words{});
    }
    // peers must have begun, too, before anything is put into their memory
    if constexpr (kVariant == Variant::kCluster) {
      cluster_arrive();
      cluster_wait();
    }
  }

  // Puts `value` into publication n, at byte `column` of a row.
  template <class T>
  FAST_S2S_DEVICE void put(int n, int row, int column, const T& value) {
    if constexpr (kThroughL2) {
      store(reinterpret_cast<T*>(global_row(n, row) + column), value);
    } else {
      shared_store(shared_row(n, row) + column, value);
    }
  }

  // A warp has put a strip of kRowTiles tiles of rows, from row `row`.
  FAST_S2S_DEVICE void strip_done(int n, int row, int strip) {
    if constexpr (kVariant == Variant::kCluster) {
      sync_warp();
      constexpr int kWords = kStripBytes / 16, kAll = 8 * kRowTiles * kWords;
      // lanes beyond one copy of the strip send to further peers at once
      constexpr int kLanes = kAll < 32 ? kAll : 32;
      for (int i = lane() % kLanes; i < kAll; i += kLanes) {
        const uint32_t at =
            shared_row(n, row + i / kWords) + strip * kStripBytes + (i % kWords) * 16;
        const Words words = shared_load<Words>(at);
        // ranks are a power of two (plan.cpp), and a remainder would be a division each
        for (int hop = 1 + lane() / kLanes; hop < l_.ranks; hop += 32 / kLanes)
          peer_store((rank_ + hop) & (l_.ranks - 1), at, words);
      }
    }
  }

  // This block has put its part of a publication. What nobody who waits reads, it stores between
  // this and `wait`: a release waits for all stores before it.
  FAST_S2S_DEVICE void arrive() {
    if constexpr (kVariant == Variant::kBlock) {
      sync_threads();
    } else if constexpr (kVariant == Variant::kCluster) {
      cluster_arrive();
    } else {
      if (!stepwise_) counter_arrive(counter_);
    }
  }

  // All of publication n is readable, of all ranks.
  FAST_S2S_DEVICE void wait(int n) {
    if constexpr (kVariant == Variant::kCluster) cluster_wait();
    if constexpr (kThroughL2) {
      if (stepwise_) return;
      counter_wait(counter_, static_cast<uint32_t>(l_.ranks) * (n + 1));
      if constexpr (kVariant == Variant::kGrid) fetch(n);
    }
  }

  // Publication n from row `row` on, as an operand.
  FAST_S2S_DEVICE auto state(int n, int row) const {
    if constexpr (kVariant == Variant::kStream) {
      return GlobalState<kRowTiles>{global_row(n, row), row_bytes_};
    } else {
      return SharedState<kRowTiles>{shared_row(n, row), l_.operand_stride};
    }
  }

 private:
  FAST_S2S_DEVICE uint32_t shared_row(int n, int row) const {
    const int buffer = kVariant == Variant::kGrid ? 0 : n % 2;
    return l_.operand + (buffer * l_.rows + row) * l_.operand_stride;
  }
  FAST_S2S_DEVICE unsigned char* global_row(int n, int row) const {
    return buffer_ + n % 2 * to_second_ + row * row_bytes_;
  }
  FAST_S2S_DEVICE void fetch(int n) {
    // rows by warps, 16 bytes by lanes: no index is a quotient. A tile has no fewer rows than the
    // block has warps, and where short rows leave lanes idle one round of copies is enough anyway.
    const int bytes = l_.k_tiles * 32;
    for (int row = warp(); row < l_.rows; row += static_cast<int>(kWarps)) {
      const uint32_t to = shared_row(n, row);
      const unsigned char* from = global_row(n, row);
      for (int column = lane() * 16; column < bytes; column += 32 * 16)
        copy_async(to + column, from + column);
    }
    copy_async_commit();
    copy_async_wait<0>();
    sync_threads();
  }

  const Layout& l_;
  const Layout& source_;
  const int rank_;
  const bool stepwise_;
  const int64_t row_bytes_;
  unsigned char* buffer_;
  int64_t to_second_;
  uint32_t* counter_;
};

// Sums of the warps that share a strip's depth, added in a fixed order by the first of them. Two
// buffers by turns make one barrier enough.
template <int kTiles, int kRowTiles>
class DepthSum {
 public:
  FAST_S2S_DEVICE DepthSum(const Layout& layout, const WarpShare& share)
      : l_(layout), share_(share) {}

  // Called by all warps of the block alike.
  FAST_S2S_DEVICE void add(float (&sums)[kTiles][kRowTiles][4]) {
    if (l_.k_groups == 1) return;
    turn_ ^= 1;
    if (share_.k_group > 0) {
      for (int m = 0; m < kTiles; ++m)
        for (int n = 0; n < kRowTiles; ++n)
          shared_store(at(share_.k_group, m, n), bit_copy<Words>(sums[m][n]));
    }
    sync_threads();
    if (share_.k_group > 0) return;
    for (int k = 1; k < l_.k_groups; ++k)
      for (int m = 0; m < kTiles; ++m)
        for (int n = 0; n < kRowTiles; ++n) {
          const Words words = shared_load<Words>(at(k, m, n));
          for (int i = 0; i < 4; ++i) sums[m][n][i] += bit_copy<float>(words.w[i]);
        }
  }

 private:
  FAST_S2S_DEVICE uint32_t at(int k_group, int m, int n) const {
    const int group = (turn_ * (l_.k_groups - 1) + k_group - 1) * share_.m_groups + share_.m_group;
    return l_.partial + (((group * kTiles + m) * kRowTiles + n) * 32 + lane()) * 16;
  }

  const Layout& l_;
  const WarpShare share_;
  int turn_ = 0;
};

}  // namespace fast_s2s
