// CPU registration of every op, by torch's stable ABI. Schemas: fast_s2s/ops.py,
// ops_cell.py, ops_variant.py and decoding/ops.py. No logic here.

#include <torch/csrc/stable/library.h>

#include "decode/decode_ops.h"
#include "lstm/lstm_ops.h"

STABLE_TORCH_LIBRARY_IMPL(fast_s2s, CPU, m) {
  m.impl("lstm_forward", TORCH_BOX(&fast_s2s::lstm_forward));
  m.impl("lstm_forward_both", TORCH_BOX(&fast_s2s::lstm_forward_both));
  m.impl("lstm_backward_both", TORCH_BOX(&fast_s2s::lstm_backward_both));
  m.impl("lstm_infer", TORCH_BOX(&fast_s2s::lstm_infer));
  m.impl("lstm_backward", TORCH_BOX(&fast_s2s::lstm_backward));
  m.impl("lstm_variant_forward", TORCH_BOX(&fast_s2s::lstm_variant_forward));
  m.impl("lstm_variant_backward", TORCH_BOX(&fast_s2s::lstm_variant_backward));
  m.impl("lstm_cell", TORCH_BOX(&fast_s2s::lstm_cell));
  m.impl("lstm_cell_backward", TORCH_BOX(&fast_s2s::lstm_cell_backward));
  m.impl("decode_pack", TORCH_BOX(&fast_s2s::decode_pack));
  m.impl("decode", TORCH_BOX(&fast_s2s::decode));
  m.impl("decode_ensemble", TORCH_BOX(&fast_s2s::decode_ensemble));
  m.impl("decode_read", TORCH_BOX(&fast_s2s::decode_read));
  m.impl("decode_encode", TORCH_BOX(&fast_s2s::decode_encode));
  m.impl("transducer_greedy", TORCH_BOX(&fast_s2s::transducer_greedy));
  m.impl("transducer_beam", TORCH_BOX(&fast_s2s::transducer_beam));
  m.impl("forecast", TORCH_BOX(&fast_s2s::forecast));
}
