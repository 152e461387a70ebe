#include "sequence_launch.h"

namespace fast_s2s {
namespace cuda {

namespace {

Tensor bytes(const Tensor& like, int64_t count, bool zero) {
  const auto type = ScalarType::Byte;
  return zero ? torch::stable::new_zeros(like, {count}, type)
              : torch::stable::new_empty(like, {count}, type);
}

std::string launch_sequence(Precision precision, const Plan& plan, const ForwardArgs& args,
                            Stream stream) {
  return lstm_forward_cuda(precision, plan, args, stream);
}
std::string launch_sequence(Precision precision, const Plan& plan, const BackwardArgs& args,
                            Stream stream) {
  return lstm_backward_cuda(precision, plan, args, stream);
}

template <class Direction>
constexpr bool kIsBackward = std::is_same_v<Direction, BackwardDirection>;

template <class Direction>
std::vector<Tensor> pack(const Sequence& sequence, const Plan& plan,
                         std::vector<Direction>& directions) {
  constexpr bool kBackward = kIsBackward<Direction>;
  std::vector<Tensor> packed;
  for (size_t i = 0; i < directions.size(); ++i) {
    const Tensor& w_hh = sequence.w_hh[i];
    Tensor& words = packed.emplace_back(bytes(w_hh, packed_bytes(plan.layout, kBackward), false));
    directions[i].w_hh = static_cast<Words*>(output(words));
    check_launch(pack_weights_cuda(sequence.precision, plan.layout, kBackward, input(w_hh),
                                   static_cast<Words*>(words.mutable_data_ptr()), sequence.stream));
  }
  return packed;
}

// The launches of a plan, one after another on the stream. Empty on success.
template <class Direction>
std::string launch_all(const Sequence& sequence, const Plan& plan,
                       const std::vector<Direction>& directions) {
  const Layout& l = plan.layout;
  const Tensor& like = sequence.w_hh[0];
  const int64_t groups = plan.tiles * l.directions;
  SequenceArgs<Direction> args = {};
  args.layout = l;
  std::copy(directions.begin(), directions.end(), args.directions);
  Tensor exchange = bytes(like, plan.workspace_bytes, true);
  Tensor counters = bytes(like, 4 * groups * plan.launches, true);
  Tensor carried = bytes(like, 0, false);
  if (plan.workspace_bytes > 0) args.exchange = static_cast<unsigned char*>(state(exchange));
  auto* counter = static_cast<uint32_t*>(state(counters));
  if (plan.stepwise) {
    const int64_t strip = kIsBackward<Direction> ? 16 : 8;
    carried = bytes(like, kStepwiseState * 4 * groups * l.rows * l.strips * strip, true);
    args.carried = static_cast<float*>(state(carried));
  }
  const int64_t phases = sequence.steps + 1;
  args.phases = plan.stepwise ? 1 : phases;
  for (int64_t i = 0; i < plan.launches; ++i) {
    args.first_row = i * plan.tiles * l.rows;
    args.counters = counter + i * groups;
    for (args.first_phase = 0; args.first_phase < phases; args.first_phase += args.phases) {
      const std::string wrong = launch_sequence(sequence.precision, plan, args, sequence.stream);
      if (!wrong.empty()) return wrong;
    }
  }
  return "";
}

Plan checked_plan(const Problem& problem) {
  try {
    return plan_lstm(device_properties(), problem);
  } catch (const std::exception& error) {
    STD_TORCH_CHECK(false, error.what());
  }
}

template <class Direction>
void run(const Sequence& sequence, std::vector<Direction> directions) {
  const Problem problem{sequence.precision, sequence.hidden, sequence.batch,
                        static_cast<int64_t>(directions.size()), kIsBackward<Direction>};
  const Plan plan = checked_plan(problem);
  const std::vector<Tensor> packed = pack(sequence, plan, directions);
  check_launch(launch_all(sequence, plan, directions));
}

}  // namespace

void run_forward(const Sequence& sequence, std::vector<ForwardDirection> directions) {
  run(sequence, std::move(directions));
}

void run_backward(const Sequence& sequence, std::vector<BackwardDirection> directions) {
  run(sequence, std::move(directions));
}

}  // namespace cuda
}  // namespace fast_s2s
