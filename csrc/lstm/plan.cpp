#include "plan.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>

namespace fast_s2s {

namespace {

// From published latencies and bandwidths of Hopper, in ns and bytes per ns of one multiprocessor.
// Not yet measured for these kernels.
constexpr double kBarrierNs = 20, kClusterNs = 200, kGridNs = 900, kLaunchNs = 3000;
constexpr double kProductNs = 5, kProductLatencyNs = 19;
constexpr double kSharedBytesPerNs = 200, kL2BytesPerNs = 50;
constexpr int64_t kTileWords = 512;  // bytes of one m16 tile along one k-tile

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

int64_t element_bytes(Precision precision) {
  return precision == Precision::kBf16 || precision == Precision::kFp16 ? 2 : 4;
}

// Depends on the depth alone, and so on neither the batch nor the variant: a sum is always taken in
// the same order, and a row has the same bits in every batch.
int64_t depth_groups(int64_t k_tiles) {
  if (k_tiles < 8) return 1;
  return k_tiles < 16 ? 2 : 4;
}

class Planner {
 public:
  Planner(const Device& device, const Problem& problem) : d_(device), p_(problem) {}

  Plan best() {
    for (int64_t row_tiles : {1, 4}) {
      if (d_.row_tiles == 0 ? row_tiles > 1 && p_.batch <= 8 : row_tiles != d_.row_tiles) continue;
      offer(Variant::kBlock, 1, row_tiles, false);
      for (int64_t ranks = 2; ranks <= std::min(d_.max_cluster, strips()); ranks *= 2)
        if (ranks <= d_.sms) offer(Variant::kCluster, ranks, row_tiles, false);
      if (d_.cooperative) {
        for (int64_t parts = 1; parts * p_.directions <= d_.sms; parts *= 2) {
          const int64_t ranks = std::min(strips(), d_.sms / (parts * p_.directions));
          offer(Variant::kGrid, ranks, row_tiles, false);
          offer(Variant::kStream, ranks, row_tiles, false);
        }
      }
      for (int64_t ranks = std::min(strips(), std::max<int64_t>(1, d_.sms / p_.directions));;
           ranks = std::min(strips(), 2 * ranks)) {
        offer(Variant::kStream, ranks, row_tiles, true);
        if (ranks == strips()) break;
      }
    }
    if (!best_)
      throw std::invalid_argument(d_.only || d_.row_tiles > 0
                                      ? "plan: the variant asked for does not fit the device"
                                      : "plan: the device has too little shared memory");
    return *best_;
  }

 private:
  int64_t strip_units() const { return p_.backward ? 16 : 8; }
  int64_t strips() const { return ceil_div(p_.hidden, strip_units()); }
  int64_t m_tiles() const { return p_.backward ? 1 : 2; }
  // bytes of one row of the exchanged state
  int64_t row_bytes() const {
    const int64_t per_unit = p_.backward ? 4 : 1;
    return round_up(strips() * strip_units() * per_unit * element_bytes(p_.precision), 32);
  }

  void offer(Variant variant, int64_t ranks, int64_t row_tiles, bool stepwise) {
    if (d_.only.has_value() && *d_.only != variant) return;
    const int64_t spb = ceil_div(strips(), ranks);
    ranks = ceil_div(strips(), spb);
    if (variant == Variant::kCluster) {
      // whole clusters only, of a size that exists
      int64_t size = 1;
      while (size < ranks) size *= 2;
      ranks = size;
    }
    const bool resident = !stepwise && (variant == Variant::kGrid || variant == Variant::kStream);
    const int64_t all_tiles = ceil_div(p_.batch, 8 * row_tiles);
    const int64_t room =
        resident ? std::max<int64_t>(1, d_.sms / (ranks * p_.directions)) : all_tiles;
    if (resident && ranks * p_.directions > d_.sms) return;
    const int64_t at_once = std::min(all_tiles, room);
    // several groups of rows in one tile, where blocks are few
    for (int64_t per_tile = resident ? ceil_div(all_tiles, at_once) : 1;; per_tile = per_tile / 2) {
      const int64_t tiles = std::min(at_once, ceil_div(all_tiles, per_tile));
      if (auto plan = fill(variant, ranks, spb, row_tiles, per_tile, tiles, stepwise)) {
        plan->launches = ceil_div(all_tiles, per_tile * tiles);
        rate(*plan);
        if (!best_ || plan->estimated_ns < best_->estimated_ns) best_ = plan;
        return;
      }
      if (per_tile == 1) return;
    }
  }

  // The plan with as much of W on chip as there is room for; none if not even the rest fits.
  std::optional<Plan> fill(Variant variant, int64_t ranks, int64_t spb, int64_t row_tiles,
                           int64_t per_tile, int64_t tiles, bool stepwise) const {
    const int64_t rows = 8 * row_tiles * per_tile, units = spb * strip_units();
    const int64_t k_tiles = row_bytes() / 32, k_groups = depth_groups(k_tiles);
    const int64_t m_groups = kWarps / k_groups, tile_bytes = m_tiles() * kTileWords;
    const int64_t stride = row_bytes() + 16;
    const int64_t buffers = variant == Variant::kStream ? 0 : variant == Variant::kGrid ? 1 : 2;
    int64_t offset = 0;
    const auto place = [&](int64_t bytes) {
      const int64_t at = offset;
      offset += round_up(bytes, 16);
      return static_cast<int>(at);
    };
    Plan plan = {};
    plan.variant = variant;
    Layout& l = plan.layout;
    l.hidden = static_cast<int>(p_.hidden);
    l.directions = static_cast<int>(p_.directions);
    l.ranks = static_cast<int>(ranks);
    l.strips = static_cast<int>(strips());
    l.strips_per_block = static_cast<int>(spb);
    l.rows = static_cast<int>(rows);
    l.k_tiles = static_cast<int>(k_tiles);
    l.k_groups = static_cast<int>(k_groups);
    l.operand_stride = static_cast<int>(stride);
    // rows shared_bytes cannot hold would overflow the offsets
    if (rows * (stride * buffers + units * 4) > d_.shared_bytes) return std::nullopt;
    l.operand = place(buffers * rows * stride);
    l.state = place((p_.backward ? 2 : 1) * units * rows * 4);
    l.bias = place(p_.backward ? 0 : 4 * units * 4);
    l.lengths = place(rows * 4);
    l.partial = place(2 * (k_groups - 1) * m_groups * m_tiles() * row_tiles * kTileWords);
    l.weights = place(0);
    if (offset > d_.shared_bytes) return std::nullopt;
    const int64_t chunk = ceil_div(k_tiles, k_groups);
    const int64_t warp_tiles = ceil_div(spb, m_groups) * chunk;
    const int64_t held = std::min<int64_t>(d_.weight_registers,
                                           weight_registers(variant, static_cast<int>(row_tiles)));
    // one launch a step reads W once in any case
    const int64_t in_registers = stepwise ? 0 : std::min(chunk, held / (4 * m_tiles()));
    const int64_t in_shared = stepwise
                                  ? 0
                                  : std::min(warp_tiles - in_registers,
                                             (d_.shared_bytes - offset) / (kWarps * tile_bytes));
    l.register_tiles = static_cast<int>(in_registers);
    l.shared_tiles = static_cast<int>(in_shared);
    plan.row_tiles = row_tiles;
    plan.tiles = tiles;
    plan.stepwise = stepwise;
    plan.shared_bytes = offset + kWarps * in_shared * tile_bytes;
    plan.register_bytes = kWarps * in_registers * tile_bytes;
    plan.resident_bytes = kWarps * in_shared * tile_bytes;
    plan.streamed_bytes = kWarps * (warp_tiles - in_registers - in_shared) * tile_bytes * per_tile;
    const int64_t readers = variant == Variant::kStream ? spb : 1;
    plan.exchanged_bytes = ranks == 1 && !stepwise ? 0 : rows * row_bytes() * readers;
    if (buffers < 2) plan.workspace_bytes = 2 * tiles * p_.directions * rows * row_bytes();
    return plan;
  }

  void rate(Plan& plan) const {
    const Layout& l = plan.layout;
    const double per_product = p_.precision == Precision::kFp32 ? 3 : 1;
    const double groups_of_rows = static_cast<double>(l.rows) / (8 * plan.row_tiles);
    const double strips = ceil_div(l.strips_per_block, kWarps / l.k_groups);
    const double chain = strips * groups_of_rows * ceil_div(l.k_tiles, l.k_groups) * per_product;
    const double products = chain * m_tiles() * plan.row_tiles * kWarps / 4;
    const double shared = plan.resident_bytes * groups_of_rows +
                          static_cast<double>(l.strips_per_block) * l.rows * row_bytes();
    double ns = std::max(products * kProductNs, chain * kProductLatencyNs);
    ns += shared / kSharedBytesPerNs;
    ns += (plan.streamed_bytes + (plan.variant == Variant::kCluster ? 0 : plan.exchanged_bytes)) /
          kL2BytesPerNs;
    switch (plan.variant) {
      case Variant::kBlock:
        ns += kBarrierNs;
        break;
      case Variant::kCluster:
        ns += kClusterNs;
        break;
      default:
        ns += plan.stepwise ? kLaunchNs : kGridNs;
    }
    const int64_t blocks = plan.tiles * l.directions * l.ranks;
    plan.estimated_ns = ns * plan.launches * ceil_div(blocks, d_.sms);
  }

  const Device& d_;
  const Problem& p_;
  std::optional<Plan> best_;
};

}  // namespace

Plan plan_lstm(const Device& device, const Problem& problem) {
  const auto expect = [](bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(std::string("plan: ") + what);
  };
  expect(problem.hidden >= 1, "hidden: expected at least 1");
  expect(problem.hidden <= (1 << 24), "hidden: expected at most 2^24");
  expect(problem.batch >= 1, "batch: expected at least 1");
  expect(problem.directions == 1 || problem.directions == 2, "directions: expected 1 or 2");
  expect(device.sms >= 1, "sms: expected at least 1");
  return Planner(device, problem).best();
}

const char* variant_name(Variant variant) {
  switch (variant) {
    case Variant::kBlock:
      return "block";
    case Variant::kCluster:
      return "cluster";
    case Variant::kGrid:
      return "grid";
    default:
      return "stream";
  }
}

std::string explain(const Plan& plan) {
  const Layout& l = plan.layout;
  std::ostringstream out;
  out << variant_name(plan.variant) << ": " << l.ranks << (l.ranks == 1 ? " block" : " blocks")
      << " to a copy of the weights, " << plan.tiles << " x " << l.rows << " rows";
  if (l.directions == 2) out << " in both directions";
  if (plan.launches > 1) out << ", " << plan.launches << " launches";
  if (plan.stepwise) out << ", one launch a step";
  out << "; a block has " << plan.register_bytes / 1024 << " KiB of weights in registers, "
      << plan.resident_bytes / 1024 << " KiB in shared memory and reads "
      << plan.streamed_bytes / 1024 << " KiB from L2 a step";
  return out.str();
}

}  // namespace fast_s2s
