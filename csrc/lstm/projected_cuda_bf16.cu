#include "projected_instances_cuda.cuh"

namespace fast_s2s {

template std::string launch_projected_forward<OperandBf16>(const Plan&, const ForwardArgs&, Stream);
template std::string launch_projected_backward<OperandBf16>(const Plan&, const BackwardArgs&,
                                                            Stream);

}  // namespace fast_s2s
