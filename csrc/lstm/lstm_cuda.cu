// Chooses the kernel of a precision, and launches the small ones.

#include "cell_cuda.cuh"
#include "elementwise_cuda.cuh"

namespace fast_s2s {

// forward_cuda_*.cu, backward_cuda_*.cu, with a projection projected_*.cu
template <class Operand, bool kProjected>
std::string launch_forward(const Plan& plan, const ForwardArgs& args, Stream stream);
template <class Operand, bool kProjected>
std::string launch_backward(const Plan& plan, const BackwardArgs& args, Stream stream);

namespace {

template <class F>
std::string by_precision(Precision precision, const F& f) {
  switch (precision) {
    case Precision::kBf16:
      return f(OperandBf16{});
    case Precision::kFp16:
      return f(OperandFp16{});
    case Precision::kTf32:
      return f(OperandTf32{});
    default:
      return f(OperandFp32{});
  }
}

template <class Args>
std::string launch_elementwise(void (*kernel)(Args), int64_t count, const Args& args,
                               Stream stream) {
  if (count == 0) return "";
  const int64_t blocks = (count + kElementwiseThreads - 1) / kElementwiseThreads;
  LaunchShape shape;
  shape.blocks = static_cast<int>(blocks < kMostBlocks ? blocks : kMostBlocks);
  shape.threads = kElementwiseThreads;
  return launch(kernel, shape, stream, args);
}

int64_t elements(const SequenceShape& shape, int64_t width) {
  return shape.steps * shape.batch * width;
}

}  // namespace

std::string lstm_forward_cuda(Precision precision, const Plan& plan, const ForwardArgs& args,
                              Stream stream) {
  return by_precision(precision, [&](auto operand) {
    typedef decltype(operand) Operand;
    return args.directions[0].w_hr == nullptr ? launch_forward<Operand, false>(plan, args, stream)
                                              : launch_forward<Operand, true>(plan, args, stream);
  });
}

std::string lstm_backward_cuda(Precision precision, const Plan& plan, const BackwardArgs& args,
                               Stream stream) {
  return by_precision(precision, [&](auto operand) {
    typedef decltype(operand) Operand;
    return args.directions[0].w_hr == nullptr ? launch_backward<Operand, false>(plan, args, stream)
                                              : launch_backward<Operand, true>(plan, args, stream);
  });
}

int64_t packed_bytes(const Layout& layout, bool backward) {
  return static_cast<int64_t>(layout.strips) * layout.k_tiles * (backward ? 512 : 1024);
}

std::string pack_weights_cuda(Precision precision, const Layout& layout, bool backward,
                              const void* w_hh, Words* packed, Stream stream) {
  const int64_t words = packed_bytes(layout, backward) / 16;
  const PackArgs args{w_hh, packed, layout.hidden, layout.outputs, layout.k_tiles, words};
  return by_precision(precision, [&](auto operand) {
    typedef typename decltype(operand)::Io Io;
    return launch_elementwise(backward ? &pack_kernel<Io, true> : &pack_kernel<Io, false>, words,
                              args, stream);
  });
}

int64_t packed_projection_bytes(const Layout& projection) {
  return static_cast<int64_t>(projection.strips) * projection.k_tiles * 512;
}

std::string pack_projection_cuda(Precision precision, const Layout& projection, bool backward,
                                 const void* w_hr, Words* packed, Stream stream) {
  const int64_t words = packed_projection_bytes(projection) / 16;
  const int h = projection.hidden, r = projection.outputs, k_tiles = projection.k_tiles;
  const PackMatrixArgs args = backward ? PackMatrixArgs{w_hr, packed, h, r, k_tiles, 1, h, words}
                                       : PackMatrixArgs{w_hr, packed, r, h, k_tiles, h, 1, words};
  return by_precision(precision, [&](auto operand) {
    return launch_elementwise(&pack_matrix_kernel<typename decltype(operand)::Io>, words, args,
                              stream);
  });
}

std::string previous_hidden_cuda(Precision precision, const PreviousHidden& args, Stream stream) {
  return by_precision(precision, [&](auto operand) {
    return launch_elementwise(&previous_hidden_kernel<typename decltype(operand)::Io>,
                              elements(args.shape, args.outputs), args, stream);
  });
}

std::string unprojected_cuda(Precision precision, const Unprojected& args, Stream stream) {
  return by_precision(precision, [&](auto operand) {
    return launch_elementwise(&unprojected_kernel<typename decltype(operand)::Io>,
                              elements(args.shape, args.hidden), args, stream);
  });
}

std::string running_cuda(Precision precision, const Running& args, Stream stream) {
  return by_precision(precision, [&](auto operand) {
    return launch_elementwise(&running_kernel<typename decltype(operand)::Io>,
                              elements(args.shape, args.width), args, stream);
  });
}

std::string activate_cuda(Precision precision, const Activate& args, Stream stream) {
  return by_precision(precision, [&](auto operand) {
    return launch_elementwise(&activate_kernel<typename decltype(operand)::Io>,
                              args.rows * args.hidden, args, stream);
  });
}

std::string lstm_cell_cuda(Precision precision, const CellArgs& args, Stream stream) {
  const int64_t blocks = (args.hidden + kWarps - 1) / kWarps;
  LaunchShape shape;
  shape.blocks = static_cast<int>(blocks < kMostBlocks ? blocks : kMostBlocks);
  shape.threads = 32 * kWarps;
  return by_precision(precision, [&](auto operand) {
    typedef typename decltype(operand)::Io Io;
    return launch(args.batch == 1 ? &lstm_cell_kernel<Io, 1> : &lstm_cell_kernel<Io, 8>, shape,
                  stream, args);
  });
}

}  // namespace fast_s2s
