#include "instances_cuda.cuh"

namespace fast_s2s {

template std::string launch_forward<OperandFp32, false>(const Plan&, const ForwardArgs&, Stream);

}  // namespace fast_s2s
