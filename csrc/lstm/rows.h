// Which rows run at which step, and moving them between padded and packed layouts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "lstm.h"

namespace fast_s2s {

// Rows in order of falling length, so that those running at a step are the first ones; or in
// several parts, each in that order and all with long rows and short ones alike.
class Rows {
 public:
  explicit Rows(const LstmShape& shape, int64_t parts = 1)
      : shape_(shape), order_(shape.batch), parts_(parts), offset_(parts * (shape.steps + 1)) {
    std::vector<int64_t> sorted(shape.batch);
    std::iota(sorted.begin(), sorted.end(), 0);
    if (shape.lengths != nullptr)
      std::stable_sort(sorted.begin(), sorted.end(),
                       [&](int64_t a, int64_t b) { return shape.lengths[a] > shape.lengths[b]; });
    for (int64_t part = 0; part < parts; ++part) {
      for (int64_t j = begin(part); j < begin(part + 1); ++j)
        order_[j] = sorted[(j - begin(part)) * parts + part];
      int64_t* offset = offset_.data() + part * (shape.steps + 1);
      for (int64_t t = 0, n = begin(part + 1) - begin(part); t < shape.steps; ++t) {
        while (n > 0 && length(begin(part) + n - 1) <= t) --n;
        offset[t + 1] = offset[t] + n;
      }
    }
  }
  // the first row of a part
  int64_t begin(int64_t part) const {
    return shape_.batch / parts_ * part + std::min(part, shape_.batch % parts_);
  }
  int64_t row(int64_t j) const { return order_[j]; }
  int64_t length(int64_t j) const {
    return shape_.lengths == nullptr ? shape_.steps : shape_.lengths[order_[j]];
  }
  int64_t running(int64_t t, int64_t part = 0) const {
    return offset(t + 1, part) - offset(t, part);
  }
  // where step t begins in packed rows of a part; offset(T) is the number of all
  int64_t offset(int64_t t, int64_t part = 0) const {
    return offset_[part * (shape_.steps + 1) + t];
  }
  // whether a row of a part ends with step t
  bool ends(int64_t t, int64_t part) const {
    return shape_.reverse ? t == 0
                          : t + 1 == shape_.steps || running(t + 1, part) < running(t, part);
  }
  // the j-th row at step t in a padded array, and all of them at step 0
  int64_t padded(int64_t t, int64_t j) const { return t * shape_.batch + order_[j]; }
  const int64_t* order() const { return order_.data(); }
  // the step at which the j-th row begins, and the one at which it ends
  int64_t first(int64_t j) const { return shape_.reverse ? length(j) - 1 : 0; }
  int64_t last(int64_t j) const { return shape_.reverse ? 0 : length(j) - 1; }
  int64_t following(int64_t t) const { return shape_.reverse ? t - 1 : t + 1; }
  int64_t preceding(int64_t t) const { return shape_.reverse ? t + 1 : t - 1; }
  // whether the j-th row forgets its state before step t
  bool resets(int64_t t, int64_t j) const {
    return shape_.reset != nullptr && shape_.reset[padded(t, j)];
  }

 private:
  const LstmShape& shape_;
  std::vector<int64_t> order_;
  int64_t parts_;
  std::vector<int64_t> offset_;
};

// Padded [T, B, width] -> packed [N, width], rows being `bytes` wide.
void gather_rows(const LstmShape& shape, const void* padded, void* packed, int64_t bytes,
                 int threads);

// Packed -> padded, zero past a row's length.
void scatter_rows(const LstmShape& shape, const void* packed, void* padded, int64_t bytes,
                  int threads);

// The hidden state each step started from, packed: y [T, B, R] a step earlier, h0 [B, R] at the
// first, zero where reset. `y_bytes` from one row of y to the next.
void gather_previous_hidden(const LstmShape& shape, const void* y, int64_t y_bytes, const void* h0,
                            void* packed, int64_t bytes, int threads);

}  // namespace fast_s2s
