// Host side of the op that encodes: layer after layer, then what the decoder starts from.

#include <algorithm>
#include <cstring>

#include "../cpu/thread_count.h"
#include "checks.h"
#include "decode_ops.h"
#include "linear.h"
#include "packs.h"

namespace fast_s2s {

using namespace decode_checks;

namespace {

// A linear layer, and the rows that it is to multiply.
class Rows {
 public:
  Rows(Packs& packs, int64_t inputs, ScalarType acc) : packed_(packs.take(1)[0]) {
    const PackedHeader header = read_header(packed_, packs.numbers(), /*of_layers=*/false);
    STD_TORCH_CHECK(header.output == inputs && acc_type(header.weights) == acc,
                    "packed: expected a linear layer of ", inputs, " inputs, and of type ",
                    toString(acc), ", got one of ", header.output);
    outputs = header.vocab;
  }
  void add(const char* x, char* y) { x_.push_back(x), y_.push_back(y); }
  void multiply(bool tanh) const {
    const int64_t rows = static_cast<int64_t>(x_.size());
    if (rows > 0)
      decode_linear_cpu({packed_.const_data_ptr(), x_.data(), y_.data(), rows, tanh},
                        thread_count());
  }
  int64_t outputs;

 private:
  const Tensor packed_;
  std::vector<const void*> x_;
  std::vector<void*> y_;
};

class Encoding {
 public:
  Encoding(Packs& packs, const Tensor& tokens, const Tensor& lengths, int64_t directions)
      : packs_(packs),
        tokens_(dense(tokens, "tokens", ScalarType::Long, {kAny, kAny})),
        batch_(tokens_.size(0)),
        steps_(tokens_.size(1)),
        lengths_(dense(lengths, "lengths", ScalarType::Long, {batch_})),
        directions_(directions) {}

  void read(int64_t layers, bool outputs) {
    values_ = tokens_;
    for (int64_t layer = 0; layer < layers; ++layer) {
      const std::vector<Tensor> here = packs_.take(directions_);
      const Numbers numbers = packs_.numbers();
      const PackedHeader header = read_header(here[0], numbers);
      STD_TORCH_CHECK(header.layers == 1 && !header.projected,
                      "packed: expected one layer each, without a projection");
      STD_TORCH_CHECK(layer == 0 || header.hidden == h_[0].size(2), "packed: expected layers of ",
                      h_[0].size(2), " units, got ", header.hidden);
      acc_ = acc_type(header.weights);
      const Tensor zeros =
          torch::stable::new_zeros(tokens_, {directions_, batch_, header.hidden}, acc_);
      const bool wanted = outputs || layer + 1 < layers;
      auto [h, c, y] = decode_read(here, numbers, zeros, zeros, values_, lengths_, wanted);
      h_.push_back(h), c_.push_back(c);
      values_ = y;
    }
    joined_ = directions_ * h_.back().size(2);
    bytes_ = acc_ == ScalarType::Double ? sizeof(double) : sizeof(float);
  }

  // What decoder layers start from, that of the encoder's layer in `pairs`: h with `hidden`, or c.
  Tensor start(const Numbers& pairs, bool bridged, bool hidden, bool feeding) {
    const int64_t count = static_cast<int64_t>(pairs.size());
    std::vector<Rows> bridges;
    for (int64_t i = 0; bridged && i < count; ++i) bridges.emplace_back(packs_, joined_, acc_);
    const int64_t size = bridged && count > 0 ? bridges[0].outputs : joined_;
    const Tensor out = empty(h_[0], {count + (feeding ? 1 : 0), batch_, size});
    char* to = mutable_data<char>(out);
    const int64_t stride = batch_ * size * bytes_;
    for (int64_t i = 0; i < count; ++i, to += stride) {
      const std::vector<char> from = joined((hidden ? h_ : c_)[pairs[i]]);
      if (!bridged) {
        std::copy(from.begin(), from.end(), to);
        continue;
      }
      STD_TORCH_CHECK(bridges[i].outputs == size, "packed: expected bridges of ", size,
                      " outputs, got ", bridges[i].outputs);
      for (int64_t row = 0; row < batch_; ++row)
        bridges[i].add(from.data() + row * joined_ * bytes_, to + row * size * bytes_);
      bridges[i].multiply(/*tanh=*/hidden);
    }
    if (feeding) std::memset(to, 0, stride);
    return out;
  }

  // Outputs of the last layer, and what attention compares them by: nothing without a linear layer.
  const Tensor& values() const { return values_; }
  Tensor keys() {
    if (packs_.left() == 0) return empty(h_[0], {0, steps_, 0});
    Rows key(packs_, joined_, acc_);
    const Tensor out = empty(h_[0], {batch_, steps_, key.outputs});
    const char* from = data<char>(values_);
    char* to = mutable_data<char>(out);
    const int64_t size = key.outputs * bytes_;
    for (int64_t row = 0; row < batch_; ++row) {
      const int64_t first = row * steps_, end = first + data<int64_t>(lengths_)[row];
      for (int64_t at = first; at < end; ++at)
        key.add(from + at * joined_ * bytes_, to + at * size);
      std::memset(to + end * size, 0, (first + steps_ - end) * size);
    }
    key.multiply(/*tanh=*/false);
    return out;
  }

 private:
  // (D, B, H) -> (B, D·H)
  std::vector<char> joined(const Tensor& states) const {
    const int64_t size = joined_ / directions_ * bytes_;
    std::vector<char> out(batch_ * joined_ * bytes_);
    const char* from = data<char>(states);
    for (int64_t direction = 0; direction < directions_; ++direction)
      for (int64_t row = 0; row < batch_; ++row, from += size)
        std::copy_n(from, size, out.data() + (row * directions_ + direction) * size);
    return out;
  }

  Packs& packs_;
  const Tensor tokens_;
  const int64_t batch_, steps_;
  const Tensor lengths_;
  const int64_t directions_;
  Tensor values_;
  std::vector<Tensor> h_, c_;  // of each layer
  ScalarType acc_ = ScalarType::Float;
  int64_t joined_ = 0, bytes_ = 0;
};

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> decode_encode(const std::vector<Tensor>& packed,
                                                         const Numbers& headers,
                                                         const Tensor& tokens,
                                                         const Tensor& lengths, int64_t layers,
                                                         int64_t directions, const Numbers& pairs,
                                                         bool bridged, bool outputs, bool feeding) {
  STD_TORCH_CHECK(layers >= 1, "layers: expected at least 1, got ", layers);
  STD_TORCH_CHECK(directions == 1 || (directions == 2 && bridged),
                  "directions: expected 1, or 2 with bridges, got ", directions);
  for (int64_t layer : pairs)
    STD_TORCH_CHECK(layer >= 0 && layer < layers, "pairs: expected values in 0..", layers - 1,
                    ", got ", layer);
  Packs packs(packed, headers);
  const int64_t bridges = bridged ? 2 * static_cast<int64_t>(pairs.size()) : 0;
  const int64_t without_keys = layers * directions + bridges;
  STD_TORCH_CHECK(packs.left() == without_keys || (outputs && packs.left() == without_keys + 1),
                  "packed: expected ", without_keys,
                  " tensors, with outputs one more for keys, got ", packs.left());
  Encoding encoding(packs, tokens, lengths, directions);
  encoding.read(layers, outputs);
  const Tensor h = encoding.start(pairs, bridged, /*hidden=*/true, feeding);
  const Tensor c = encoding.start(pairs, bridged, /*hidden=*/false, /*feeding=*/false);
  const Tensor keys = encoding.keys();
  return {h, c, encoding.values(), keys};
}

}  // namespace fast_s2s
