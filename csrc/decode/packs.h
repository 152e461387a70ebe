// Packed weights of several kinds that an op takes together.
#pragma once

#include <vector>

#include "checks.h"

namespace fast_s2s {
namespace decode_checks {

typedef std::vector<int64_t> Numbers;

// Packed weights with their headers, taken one after the other.
class Packs {
 public:
  Packs(const std::vector<Tensor>& packed, const Numbers& headers)
      : packed_(packed), headers_(headers) {
    const int64_t count = static_cast<int64_t>(packed.size());
    STD_TORCH_CHECK(static_cast<int64_t>(headers.size()) == kNumbers * count, "headers: expected ",
                    kNumbers * count, " numbers, got ", headers.size());
  }
  int64_t left() const { return static_cast<int64_t>(packed_.size()) - next_; }
  std::vector<Tensor> take(int64_t count) {
    next_ += count;
    return {packed_.begin() + next_ - count, packed_.begin() + next_};
  }
  // Of what was taken last.
  Numbers numbers() const {
    return {headers_.begin() + kNumbers * (next_ - 1), headers_.begin() + kNumbers * next_};
  }

 private:
  static constexpr int64_t kNumbers = decode_arguments::kHeaderNumbers;
  const std::vector<Tensor>& packed_;
  const Numbers& headers_;
  int64_t next_ = 0;
};

}  // namespace decode_checks
}  // namespace fast_s2s
