#include "rows.h"

#include <cstring>

namespace fast_s2s {

namespace {

const char* at(const void* data, int64_t row, int64_t bytes) {
  return static_cast<const char*>(data) + row * bytes;
}

char* at(void* data, int64_t row, int64_t bytes) { return static_cast<char*>(data) + row * bytes; }

}  // namespace

void gather_rows(const LstmShape& shape, const void* padded, void* packed, int64_t bytes,
                 int threads) {
  const Rows rows(shape);
#pragma omp parallel for num_threads(threads)
  for (int64_t t = 0; t < shape.steps; ++t)
    for (int64_t j = 0; j < rows.running(t); ++j)
      std::memcpy(at(packed, rows.offset(t) + j, bytes), at(padded, rows.padded(t, j), bytes),
                  bytes);
}

void scatter_rows(const LstmShape& shape, const void* packed, void* padded, int64_t bytes,
                  int threads) {
  const Rows rows(shape);
#pragma omp parallel for num_threads(threads)
  for (int64_t t = 0; t < shape.steps; ++t) {
    for (int64_t j = 0; j < rows.running(t); ++j)
      std::memcpy(at(padded, rows.padded(t, j), bytes), at(packed, rows.offset(t) + j, bytes),
                  bytes);
    for (int64_t j = rows.running(t); j < shape.batch; ++j)
      std::memset(at(padded, rows.padded(t, j), bytes), 0, bytes);
  }
}

void gather_previous_hidden(const LstmShape& shape, const void* y, int64_t y_bytes, const void* h0,
                            void* packed, int64_t bytes, int threads) {
  const Rows rows(shape);
#pragma omp parallel for num_threads(threads)
  for (int64_t t = 0; t < shape.steps; ++t)
    for (int64_t j = 0; j < rows.running(t); ++j) {
      char* out = at(packed, rows.offset(t) + j, bytes);
      if (rows.resets(t, j)) {
        std::memset(out, 0, bytes);
      } else if (t == rows.first(j)) {
        std::memcpy(out, at(h0, rows.row(j), bytes), bytes);
      } else {
        std::memcpy(out, at(y, rows.padded(rows.preceding(t), j), y_bytes), bytes);
      }
    }
}

}  // namespace fast_s2s
