#include "decode_plan.h"

#include <algorithm>
#include <optional>
#include <sstream>
#include <stdexcept>

namespace fast_s2s {

namespace {

// As in lstm/plan.cpp: published figures of Hopper in ns and bytes per ns of one multiprocessor,
// not measured for these kernels.
constexpr double kBarrierNs = 20, kClusterNs = 200, kGridNs = 900, kLaunchNs = 3000;
constexpr double kProductNs = 8;
constexpr double kSharedBytesPerNs = 200, kL2BytesPerNs = 50;
constexpr int64_t kUnit = 512;
// shared memory beside the weights: sums and reductions, what is known of a slot
constexpr int64_t kSumBytes = 2 * kDecodeTiles * kDecodeWarps * kUnit;
constexpr int64_t kReduceBytes = 2 * kDecodeWarps * 16;
constexpr int64_t kScratchBytes = kSumBytes + kReduceBytes + 64, kSlotBytes = 3 * 4 + 4;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

DecodeLayout sizes(const DecodeProblem& p) {
  DecodeLayout l = {};
  l.hidden = static_cast<int>(p.hidden);
  l.output = static_cast<int>(p.output);
  l.layers = static_cast<int>(p.layers);
  l.vocab = p.vocab;
  l.projected = p.projected;
  l.table = p.table;
  l.states = static_cast<int>(p.layers + (p.feeding ? 1 : 0));
  l.heads = static_cast<int>(p.heads);
  l.keys = static_cast<int>(p.keys);
  l.values = static_cast<int>(p.values);
  l.additive = p.additive;
  l.feeding = p.feeding;
  // 32 bytes
  l.k = p.weights == WeightType::kFloat32 ? 8 : p.weights == WeightType::kInt8 ? 32 : 16;
  l.scale_units = p.weights == WeightType::kInt8 ? 1 : 0;
  // whole k-tiles
  const int64_t piece = std::max(16, l.k);
  l.hidden_stride = static_cast<int>(round_up(p.hidden, piece));
  l.output_stride = static_cast<int>(round_up(p.output, piece));
  l.gate_tiles = static_cast<int>(ceil_div(p.hidden, 4));
  l.output_tiles = static_cast<int>(ceil_div(p.output, 16));
  l.vocab_tiles = static_cast<int>(ceil_div(p.vocab, 16));
  l.logits_stride = 16 * l.vocab_tiles;
  l.input_stride = p.table ? 16 * l.gate_tiles : static_cast<int>(round_up(p.inputs, piece));
  l.x_tiles = p.table ? 0 : static_cast<int>(ceil_div(p.inputs, l.k));
  l.values_stride = static_cast<int>(round_up(p.values, piece));
  // as far apart as a slot's states
  l.fed_tiles = p.feeding ? l.output_stride / l.k : 0;
  l.output_k_tiles = static_cast<int>(ceil_div(p.output, l.k));
  l.hidden_k_tiles = static_cast<int>(ceil_div(p.hidden, l.k));
  l.value_k_tiles = static_cast<int>(ceil_div(p.values, l.k));
  l.key_tiles = static_cast<int>(ceil_div(p.keys, 16));
  return l;
}

class Planner {
 public:
  Planner(const Device& device, const DecodeProblem& problem)
      : d_(device), p_(problem), sizes_(sizes(problem)) {}

  DecodePlan best() {
    for (int64_t row_tiles : {1, 4}) {
      const int64_t slots = p_.rows * p_.width;
      if (d_.row_tiles == 0 ? row_tiles > 1 && slots <= 8 : row_tiles != d_.row_tiles) continue;
      offer(Variant::kBlock, 1, row_tiles);
      for (int64_t ranks = 2; ranks <= std::min(d_.max_cluster, d_.sms); ranks *= 2)
        offer(Variant::kCluster, ranks, row_tiles);
      if (!d_.cooperative) continue;
      const int64_t most = std::max({sizes_.gate_tiles, sizes_.output_tiles, sizes_.vocab_tiles});
      for (int64_t parts = 1; parts <= d_.sms; parts *= 2)
        offer(Variant::kGrid, std::min(most, d_.sms / parts), row_tiles);
    }
    if (!best_)
      throw std::invalid_argument(d_.only || d_.row_tiles > 0
                                      ? "plan: the variant asked for does not fit the device"
                                      : "plan: the device has too little shared memory");
    return *best_;
  }

 private:
  void offer(Variant variant, int64_t ranks, int64_t row_tiles) {
    if (d_.only.has_value() && *d_.only != variant) return;
    DecodePlan plan = {};
    plan.variant = variant;
    plan.row_tiles = row_tiles;
    DecodeLayout& l = plan.layout = sizes_;
    l.ranks = static_cast<int>(ranks);
    l.cluster = variant == Variant::kCluster;
    // whole tiles of slots for each group, as many groups as there is room for
    const int64_t listed = (d_.shared_bytes - kScratchBytes) / kSlotBytes;
    const int64_t most = std::max<int64_t>(1, std::min(kMostGroupSlots, listed) / p_.width);
    const int64_t least = ceil_div(8 * row_tiles, p_.width);
    const int64_t room = std::max<int64_t>(1, d_.sms / ranks);
    const int64_t wanted = std::max(least, ceil_div(p_.rows, room));
    l.group_rows = static_cast<int>(std::min({wanted, most, p_.rows}));
    l.slots = static_cast<int>(l.group_rows * p_.width);
    l.units = p_.beam ? l.group_rows : l.slots;
    const int64_t groups = ceil_div(p_.rows, l.group_rows);
    plan.groups = std::min(groups, variant == Variant::kGrid ? room : groups);
    plan.launches = ceil_div(groups, plan.groups);
    if (!place(plan)) return;
    rate(plan, groups, room);
    if (!best_ || plan.estimated_ns < best_->estimated_ns) best_ = plan;
  }

  // Shared memory; false if not even what is not weights fits.
  bool place(DecodePlan& plan) const {
    DecodeLayout& l = plan.layout;
    int64_t offset = 0;
    const auto take = [&](int64_t bytes) {
      const int64_t at = offset;
      offset += round_up(bytes, 16);
      return static_cast<int>(at);
    };
    l.partial = take(kSumBytes);
    l.reduce = take(kReduceBytes);
    l.live = take(3 * 4 * l.slots);
    l.begins = take(4 * (l.units + 1));
    l.weights = take(0);
    if (offset > d_.shared_bytes) return false;
    packed_decode_bytes(p_, l);
    const DecodeStage last = l.vocabulary();
    const int64_t share = last.local + int64_t{l.share(last.tiles)} * last.units;
    l.resident = static_cast<int>(std::min(share, (d_.shared_bytes - offset) / kUnit));
    plan.shared_bytes = offset + l.resident * kUnit;
    plan.resident_bytes = l.resident * kUnit;
    plan.streamed_bytes = (share - l.resident) * kUnit;
    plan.memory_bytes =
        p_.heads > 0 ? ceil_div(int64_t{l.slots} * p_.steps * (p_.keys + p_.values) * 4, l.ranks)
                     : 0;
    return true;
  }

  void rate(DecodePlan& plan, int64_t groups, int64_t room) const {
    const DecodeLayout& l = plan.layout;
    const double exchange = plan.variant == Variant::kBlock     ? kBarrierNs
                            : plan.variant == Variant::kCluster ? kClusterNs
                                                                : kGridNs;
    const int of_attention = p_.heads == 0 ? 0 : p_.additive ? 4 : 3;
    const double exchanges = l.layers * (l.projected ? 2 : 1) + of_attention + 2;
    const int64_t passes = ceil_div(l.slots, 8 * plan.row_tiles);
    const double bytes =
        passes * (plan.resident_bytes / kSharedBytesPerNs + plan.streamed_bytes / kL2BytesPerNs);
    const double units = (plan.resident_bytes + plan.streamed_bytes) / kUnit;
    const double products = ceil_div(l.slots, 8) * units * kProductNs / 4;
    plan.estimated_ns =
        (exchanges * exchange + std::max(bytes, products) + plan.memory_bytes / kL2BytesPerNs) *
            ceil_div(groups, room) +
        (plan.variant == Variant::kGrid ? kLaunchNs / 50 : 0);
  }

  const Device& d_;
  const DecodeProblem& p_;
  const DecodeLayout sizes_;
  std::optional<DecodePlan> best_;
};

// Scores are counted by step and head in 31 bits, as are the values of a step.
void check_memory(const DecodeProblem& p) {
  if (p.keys < 1 || p.values < 1 || p.steps < 0)
    throw std::invalid_argument(
        "plan: expected keys and values of at least 1, steps of at least 0");
  if (p.keys % p.heads != 0 || p.values % p.heads != 0)
    throw std::invalid_argument("heads: expected a divisor of " + std::to_string(p.keys) + " and " +
                                std::to_string(p.values) + ", got " + std::to_string(p.heads));
  constexpr int64_t kMost = int64_t{1} << 31;
  if (std::max({p.keys, p.values, p.heads * p.steps}) >= kMost)
    throw std::invalid_argument(
        "memory: expected fewer than 2^31 keys and values, and scores of a "
        "slot, on CUDA, got " +
        std::to_string(p.keys) + ", " + std::to_string(p.values) + ", " +
        std::to_string(p.heads * p.steps));
}

}  // namespace

int64_t packed_decode_bytes(const DecodeProblem& problem, DecodeLayout& l) {
  if (l.ranks == 0) {
    l = sizes(problem);
    l.ranks = 1;
  }
  const DecodeStage last = l.vocabulary();
  l.biases = (last.first + int64_t{last.tiles} * last.units) * kUnit;
  l.score = l.biases + 4 * 16 * (int64_t{l.layers} * l.gate_tiles + l.vocab_tiles);
  l.inputs = l.score + (l.additive ? 4 * 16 * int64_t{l.key_tiles} : 0);
  return l.inputs + 4 * l.vocab * int64_t{l.input_stride};
}

DecodePlan plan_decode(const Device& device, const DecodeProblem& p) {
  for (int64_t size : {p.layers, p.hidden, p.output, p.vocab, p.inputs, p.rows, p.width})
    if (size < 1) throw std::invalid_argument("plan: expected sizes of at least 1");
  if (p.width > kMostGroupSlots)
    throw std::invalid_argument("width: expected at most " + std::to_string(kMostGroupSlots) +
                                " slots to a row on CUDA, got " + std::to_string(p.width));
  if (p.heads > 0) check_memory(p);
  return Planner(device, p).best();
}

std::string explain(const DecodePlan& plan) {
  const DecodeLayout& l = plan.layout;
  std::ostringstream out;
  out << variant_name(plan.variant) << ": " << l.ranks << " blocks to a copy of the weights, "
      << plan.groups << " x " << l.group_rows << " rows";
  if (plan.launches > 1) out << ", " << plan.launches << " launches";
  out << "; a block has " << plan.resident_bytes / 1024
      << " KiB of weights in shared memory and reads " << plan.streamed_bytes / 1024
      << " KiB from L2 a step";
  if (l.heads > 0) out << ", and " << plan.memory_bytes / 1024 << " KiB of the rows' memory";
  return out.str();
}

}  // namespace fast_s2s
