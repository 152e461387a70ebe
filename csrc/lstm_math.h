// The LSTM cell, once: gate math and state update, forward and backward.
//
// `V` is float, double or a SIMD vector, `Math` has its `sigmoid` and `tanh`.
// Gates in torch's order i, f, g, o. Formula: torch.nn.LSTM.
#pragma once

#if defined(__CUDACC__)
#define FAST_S2S_HD __host__ __device__ __forceinline__
#else
#define FAST_S2S_HD inline __attribute__((always_inline))
#endif

namespace fast_s2s {

template <class V>
struct Gates {
  V i, f, g, o;
};

// Pre-activations -> activated gates.
template <class Math, class V>
FAST_S2S_HD Gates<V> activate(const Gates<V>& pre) {
  return {Math::sigmoid(pre.i), Math::sigmoid(pre.f), Math::tanh(pre.g), Math::sigmoid(pre.o)};
}

// c_t = f·c_{t-1} + i·g
template <class V>
FAST_S2S_HD V next_cell(const Gates<V>& gates, V c_prev) {
  return gates.f * c_prev + gates.i * gates.g;
}

// h_t = o·tanh(c_t), before any projection
template <class Math, class V>
FAST_S2S_HD V next_hidden(const Gates<V>& gates, V c) {
  return gates.o * Math::tanh(c);
}

// Gradients of one step. `dh`: of h_t before any projection. `dc`: of c_t on entry, of c_{t-1} on
// return. Returns the gradients of the pre-activations.
template <class Math, class V>
FAST_S2S_HD Gates<V> step_backward(const Gates<V>& gates, V c, V c_prev, V dh, V& dc) {
  const V tanh_c = Math::tanh(c);
  const V dc_t = dc + dh * gates.o * (1 - tanh_c * tanh_c);
  dc = dc_t * gates.f;
  return {dc_t * gates.g * gates.i * (1 - gates.i), dc_t * c_prev * gates.f * (1 - gates.f),
          dc_t * gates.i * (1 - gates.g * gates.g), dh * tanh_c * gates.o * (1 - gates.o)};
}

}  // namespace fast_s2s
