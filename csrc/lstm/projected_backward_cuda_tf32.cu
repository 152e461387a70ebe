#include "instances_cuda.cuh"

namespace fast_s2s {

template std::string launch_backward<OperandTf32, true>(const Plan&, const BackwardArgs&, Stream);

}  // namespace fast_s2s
