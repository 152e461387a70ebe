// Values by chance from a distribution's parameters. Free of torch.
//
// The same in plain torch: fast_s2s/decoding/distributions.py.
#pragma once

#include <cmath>
#include <cstdint>

#include "choose.h"
#include "forecast.h"

namespace fast_s2s {

FAST_S2S_HD double make_positive(double x, Positive how) {
  switch (how) {
    case Positive::kSoftplus:
      return (x > 0 ? x : 0) + std::log1p(std::exp(-std::abs(x)));
    case Positive::kSquareplus:
      return (x + std::sqrt(x * x + 4)) / 2;
    case Positive::kExp:
      return std::exp(x);
  }
  return x;
}

// Above 0 and at most 1, by the upper 53 bits of both words.
FAST_S2S_HD double uniform(uint32_t high, uint32_t low) {
  const uint64_t bits = (uint64_t{high} << 32 | low) >> 11;
  return (static_cast<double>(bits) + 0.5) * 0x1p-53;
}

// Of a standard normal distribution by Box and Muller's formula, or of Student's t with `df`
// degrees of freedom by Bailey's, 1994, https://doi.org/10.2307/2153537.
FAST_S2S_HD double standard_draw(Family family, double df, const PhiloxWords& words) {
  constexpr double kLargestDf = 1e300;  // the normal distribution, and no infinity
  constexpr double kTwoPi = 6.283185307179586;
  df = df > kLargestDf ? kLargestDf : df;
  const double log_u = std::log(uniform(words.word[0], words.word[1]));
  const double squared =
      family == Family::kStudentT ? df * std::expm1(-2 / df * log_u) : -2 * log_u;
  return std::sqrt(squared) * std::cos(kTwoPi * uniform(words.word[2], words.word[3]));
}

}  // namespace fast_s2s
