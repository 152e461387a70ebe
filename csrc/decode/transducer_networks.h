// The packed networks of a transducer, as its ops are given them.
#pragma once

#include "packs.h"

namespace fast_s2s {
namespace decode_checks {

// The packed linear layer that comes next, of `inputs` values (kAny: of any number).
inline PackedHeader take_linear(Packs& packs, WeightType weights, int64_t inputs,
                                const void*& data) {
  const Tensor packed = packs.take(1)[0];
  const PackedHeader header = read_header(packed, packs.numbers(), /*of_layers=*/false);
  STD_TORCH_CHECK(header.weights == weights, "packed: expected weights of one type");
  STD_TORCH_CHECK(inputs == kAny || header.output == inputs, "packed: expected a linear layer of ",
                  inputs, " inputs, got one of ", header.output);
  data = packed.const_data_ptr();
  return header;
}

struct TransducerNetworks {
  PackedHeader header{}, joiner_header{};  // of the predictor and the joiner
  const void *predictor = nullptr, *projection = nullptr, *joiner = nullptr;
  int64_t joined = 0;  // J

  TransducerNetworks(const std::vector<Tensor>& packed, const Numbers& headers) {
    STD_TORCH_CHECK(packed.size() == 2 || packed.size() == 3,
                    "packed: expected predictor, projection if there is one, and joiner, got ",
                    packed.size(), " tensors");
    Packs packs(packed, headers);
    const Tensor first = packs.take(1)[0];
    header = read_header(first, packs.numbers());
    STD_TORCH_CHECK(header.heads == 0, "packed: expected a predictor without attention");
    predictor = first.const_data_ptr();
    joined = header.output;
    if (packed.size() == 3)
      joined = take_linear(packs, header.weights, header.output, projection).vocab;
    joiner_header = take_linear(packs, header.weights, joined, joiner);
  }

  void check_joiner(int64_t durations) const {
    STD_TORCH_CHECK(joiner_header.vocab == header.vocab + durations,
                    "packed: expected a joiner of ", header.vocab, " tokens and ", durations,
                    " durations, got one of ", joiner_header.vocab);
  }
  void check_numbers(int64_t blank, int64_t max_symbols) const {
    STD_TORCH_CHECK(blank >= 0 && blank < header.vocab, "blank: expected a token id in 0..",
                    header.vocab - 1, ", got ", blank);
    STD_TORCH_CHECK(max_symbols >= 1, "max_symbols: expected at least 1, got ", max_symbols);
  }
};

}  // namespace decode_checks
}  // namespace fast_s2s
