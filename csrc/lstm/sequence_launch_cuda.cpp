#include "../cuda/launch_shape.h"
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

// In an order that does not depend on the variant.
template <class Direction>
std::vector<Tensor> pack(const Sequence& sequence, const Plan& plan,
                         std::vector<Direction>& directions) {
  constexpr bool kBackward = kIsBackward<Direction>;
  std::vector<Tensor> packed;
  const auto room = [&](int64_t count) {
    return static_cast<Words*>(output(packed.emplace_back(bytes(sequence.w_hh[0], count, false))));
  };
  for (size_t i = 0; i < directions.size(); ++i) {
    Words* w_hh = room(packed_bytes(plan.layout, kBackward));
    check_launch(pack_weights_cuda(sequence.precision, plan.layout, kBackward,
                                   input(sequence.w_hh[i]), w_hh, sequence.stream));
    directions[i].w_hh = w_hh;
    if (sequence.projection == 0) continue;
    Words* w_hr = room(packed_projection_bytes(plan.projection));
    check_launch(pack_projection_cuda(sequence.precision, plan.projection, kBackward,
                                      input(sequence.w_hr[i]), w_hr, sequence.stream));
    directions[i].w_hr = w_hr;
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
  args.projection = plan.projection;
  const bool projected = sequence.projection > 0;
  std::copy(directions.begin(), directions.end(), args.directions);
  Tensor exchange = bytes(like, plan.workspace_bytes, true);
  // those of the second product behind those of the first; filling them is a launch, too
  const bool counts = plan.workspace_bytes > 0 && !plan.stepwise;
  const int64_t of_one = counts ? groups * plan.launches : 0;
  Tensor counters = bytes(like, 4 * of_one * (projected ? 2 : 1), true);
  Tensor carried = bytes(like, 0, false);
  if (plan.workspace_bytes > 0) args.exchange = static_cast<unsigned char*>(state(exchange));
  auto* counter = counts ? static_cast<uint32_t*>(state(counters)) : nullptr;
  if (projected && plan.workspace_bytes > 0) {
    args.projection_exchange =
        args.exchange + 2 * groups * l.rows * static_cast<int64_t>(l.k_tiles) * 32;
  }
  if (plan.stepwise) {
    const int64_t strip = kIsBackward<Direction> ? 16 : 8;
    carried = bytes(like, kStepwiseState * 4 * groups * l.rows * l.strips * strip, true);
    args.carried = static_cast<float*>(state(carried));
  }
  const int64_t phases = sequence.steps + 1;
  args.phases = plan.stepwise ? 1 : phases;
  for (int64_t i = 0; i < plan.launches; ++i) {
    args.first_row = i * plan.tiles * l.rows;
    if (counts) args.counters = counter + i * groups;
    if (counts && projected) args.projection_counters = args.counters + of_one;
    for (args.first_phase = 0; args.first_phase < phases; args.first_phase += args.phases) {
      const std::string wrong = launch_sequence(sequence.precision, plan, args, sequence.stream);
      if (!wrong.empty()) return wrong;
    }
  }
  return "";
}

// As device_properties, after what a plan was made for turned out not to be there.
Device less(Device device, const Plan& plan, int64_t resident) {
  const Layout& l = plan.layout;
  if (plan.variant == Variant::kCluster) {
    device.max_cluster = l.ranks / 2;
    return device;
  }
  const int64_t blocks = plan.tiles * l.directions * l.ranks;
  device.sms = resident > 0 && resident < blocks ? resident : blocks / 2;
  if (device.sms < l.directions) {
    // not even one block in each direction: nothing that waits for other blocks
    device.sms = 1;
    device.cooperative = false;
  }
  return device;
}

template <class Direction>
void run_planned(const Sequence& sequence, std::vector<Direction> directions) {
  const Problem problem{sequence.precision,     sequence.hidden,
                        sequence.batch,         static_cast<int64_t>(directions.size()),
                        kIsBackward<Direction>, sequence.projection};
  Device device = device_properties();
  Plan plan = plan_lstm(device, problem);
  const std::vector<Tensor> packed = pack(sequence, plan, directions);
  while (true) {
    try {
      check_launch(launch_all(sequence, plan, directions));
      return;
    } catch (const NotResident& error) {
      // ends: there are ever fewer blocks, and at last none that must be resident
      device = less(device, plan, error.resident);
    }
    plan = plan_lstm(device, problem);
  }
}

template <class Direction>
void run(const Sequence& sequence, std::vector<Direction> directions) {
  std::string wrong;
  try {
    run_planned(sequence, std::move(directions));
  } catch (const std::invalid_argument& error) {
    wrong = error.what();
  }
  STD_TORCH_CHECK(wrong.empty(), wrong);
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
