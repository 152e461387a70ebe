#include "decode_cuda.cuh"

namespace fast_s2s {

template std::string launch_decode<DecodeInt8>(const DecodePlan&, const DecodeCudaArgs&, Stream);

}  // namespace fast_s2s
