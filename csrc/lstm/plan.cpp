#include "plan.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>

namespace fast_s2s {

namespace {

// In ns, and bytes per ns of one multiprocessor, at 1.75 GHz, from figures published for Hopper and
// not measured for these kernels: a product's latency of 33 cycles, L2's bandwidth of 3942 bytes a
// cycle over 132 multiprocessors, shared memory's of 128 bytes a cycle (arXiv:2402.13499,
// arXiv:2501.12084). The others are estimates: three trips to L2 and the polling between them for a
// grid's barrier, and what launches and barriers commonly take.
constexpr double kBarrierNs = 20, kClusterNs = 200, kGridNs = 900, kLaunchNs = 3000;
constexpr double kProductNs = 5, kProductLatencyNs = 19;
constexpr double kSharedBytesPerNs = 200, kL2BytesPerNs = 50;
constexpr int64_t kTileWords = 512;  // bytes of one m16 tile along one k-tile

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

int64_t element_bytes(Precision precision) {
  return precision == Precision::kBf16 || precision == Precision::kFp16 ? 2 : 4;
}

// Depends on the product alone, and so on neither the batch nor the variant: a sum is always taken
// in the same order, and a row has the same bits in every batch. The whole block shares a strip
// where strips are few for their depth: in backward, whose depth is that of four gates, and in 32
// bits.
int64_t depth_groups(int64_t k_tiles, Precision precision, bool backward) {
  if (k_tiles < 8) return 1;
  if (k_tiles < 16) return 2;
  const bool few_strips = backward ? k_tiles > 128 : k_tiles > 56 && element_bytes(precision) == 4;
  return few_strips ? 8 : 4;
}

class Planner {
 public:
  Planner(const Device& device, const Problem& problem) : d_(device), p_(problem) {}

  Plan best() {
    for (int64_t row_tiles : {1, 4}) {
      if (d_.row_tiles == 0 ? row_tiles > 1 && p_.batch <= 8 : row_tiles != d_.row_tiles) continue;
      // blocks with something to do in one of a step's products
      const int64_t most = p_.projection > 0 ? std::max(strips(), projection_strips()) : strips();
      offer(Variant::kBlock, 1, row_tiles, false);
      for (int64_t ranks = 2; ranks <= std::min(d_.max_cluster, most); ranks *= 2)
        if (ranks <= d_.sms) offer(Variant::kCluster, ranks, row_tiles, false);
      if (d_.cooperative) {
        for (int64_t parts = 1; parts * p_.directions <= d_.sms; parts *= 2) {
          const int64_t ranks = std::min(most, d_.sms / (parts * p_.directions));
          offer(Variant::kGrid, ranks, row_tiles, false);
          offer(Variant::kStream, ranks, row_tiles, false);
        }
      }
      // two products of a step would be two launches
      if (p_.projection > 0) continue;
      for (int64_t ranks = std::min(strips(), std::max<int64_t>(1, d_.sms / p_.directions));;
           ranks = std::min(strips(), 2 * ranks)) {
        offer(Variant::kStream, ranks, row_tiles, true);
        if (ranks == strips()) break;
      }
    }
    if (!best_) throw std::invalid_argument(why_none());
    return *best_;
  }

 private:
  const char* why_none() const {
    if (d_.only || d_.row_tiles > 0) return "plan: the variant asked for does not fit the device";
    if (p_.projection > 0 && !d_.cooperative)
      return "plan: a layer with a projection of this size needs cooperative launches, which the "
             "device lacks or has no room for";
    return "plan: the device has too little shared memory";
  }

  int64_t strip_units() const { return p_.backward ? 16 : 8; }
  int64_t strips() const { return ceil_div(p_.backward ? p_.outputs() : p_.hidden, strip_units()); }
  // of the projection's matrix, or its transpose
  int64_t projection_strips() const {
    return ceil_div(p_.backward ? p_.hidden : p_.projection, 16);
  }
  int64_t m_tiles() const { return p_.backward ? 1 : 2; }
  // bytes of one row of the exchanged state: what the strips of the product that makes it cover
  int64_t row_bytes() const {
    if (p_.backward) return bytes_of_row(4 * round_up(p_.hidden, 16));
    return bytes_of_row(p_.projection > 0 ? round_up(p_.projection, 16) : round_up(p_.hidden, 8));
  }
  // the same of what the projection multiplies
  int64_t projection_row_bytes() const {
    return bytes_of_row(p_.backward ? round_up(p_.projection, 16) : round_up(p_.hidden, 8));
  }
  int64_t bytes_of_row(int64_t elements) const {
    return round_up(elements * element_bytes(p_.precision), 32);
  }

  void offer(Variant variant, int64_t ranks, int64_t row_tiles, bool stepwise) {
    if (d_.only.has_value() && *d_.only != variant) return;
    const int64_t spb = ceil_div(strips(), ranks);
    const int64_t projection_spb = p_.projection > 0 ? ceil_div(projection_strips(), ranks) : 0;
    ranks = ceil_div(strips(), spb);
    if (p_.projection > 0) ranks = std::max(ranks, ceil_div(projection_strips(), projection_spb));
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
      if (auto plan =
              fill(variant, ranks, spb, projection_spb, row_tiles, per_tile, tiles, stepwise)) {
        plan->launches = ceil_div(all_tiles, per_tile * tiles);
        rate(*plan);
        if (!best_ || plan->estimated_ns < best_->estimated_ns) best_ = plan;
        return;
      }
      if (per_tile == 1) return;
    }
  }

  // The plan with as much of W on chip as there is room for; none if not even the rest fits.
  std::optional<Plan> fill(Variant variant, int64_t ranks, int64_t spb, int64_t projection_spb,
                           int64_t row_tiles, int64_t per_tile, int64_t tiles,
                           bool stepwise) const {
    const bool projected = p_.projection > 0;
    const int64_t rows = 8 * row_tiles * per_tile;
    const int64_t stride = row_bytes() + 16;
    const int64_t projection_stride = projected ? projection_row_bytes() + 16 : 0;
    // floats of state per row: cells, in backward gradients of cells and of outputs
    const int64_t units =
        p_.backward ? 16 * (spb + (projected ? projection_spb : spb)) : spb * strip_units();
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
    l.outputs = static_cast<int>(p_.outputs());
    l.directions = static_cast<int>(p_.directions);
    l.ranks = static_cast<int>(ranks);
    l.rows = static_cast<int>(rows);
    l.operand_stride = static_cast<int>(stride);
    plan.projection = l;
    const auto cut = [&](Layout& layout, int64_t strips, int64_t per_block, int64_t row_bytes) {
      layout.strips = static_cast<int>(strips);
      layout.strips_per_block = static_cast<int>(per_block);
      layout.k_tiles = static_cast<int>(row_bytes / 32);
      layout.k_groups = static_cast<int>(depth_groups(layout.k_tiles, p_.precision, p_.backward));
    };
    cut(l, strips(), spb, row_bytes());
    if (projected)
      cut(plan.projection, projection_strips(), projection_spb, projection_row_bytes());
    // rows shared_bytes cannot hold would overflow the offsets
    if (rows * ((stride + projection_stride) * buffers + units * 4) > d_.shared_bytes)
      return std::nullopt;
    l.operand = place(buffers * rows * stride);
    plan.projection.operand = place(buffers * rows * projection_stride);
    plan.projection.operand_stride = static_cast<int>(projection_stride);
    l.state = place(units * rows * 4);
    l.bias = place(p_.backward ? 0 : 4 * units * 4);
    l.lengths = place(rows * 4);
    plan.projection.lengths = l.lengths;
    const auto place_partial = [&](Layout& layout, int64_t m_tiles) {
      const int64_t others = (layout.k_groups - 1) * (kWarps / layout.k_groups);
      layout.partial = place(2 * others * m_tiles * row_tiles * kTileWords);
    };
    place_partial(l, m_tiles());
    if (projected) place_partial(plan.projection, 1);
    if (offset > d_.shared_bytes) return std::nullopt;
    plan.row_tiles = row_tiles;
    plan.tiles = tiles;
    plan.stepwise = stepwise;
    const int r = static_cast<int>(row_tiles);
    // W, first what registers hold, then what fits shared memory
    const auto place_weights = [&](Layout& layout, int64_t m_tiles, int64_t registers) {
      const int64_t tile_bytes = m_tiles * kTileWords;
      const int64_t chunk = ceil_div(layout.k_tiles, layout.k_groups);
      const int64_t m_groups = kWarps / layout.k_groups;
      const int64_t warp_tiles = ceil_div(layout.strips_per_block, m_groups) * chunk;
      const int64_t held = std::min<int64_t>(d_.weight_registers, registers) / (4 * m_tiles);
      // one launch a step reads W once in any case
      const int64_t in_registers = stepwise ? 0 : std::min(chunk, held);
      const int64_t room = (d_.shared_bytes - offset) / (kWarps * tile_bytes);
      const int64_t in_shared = stepwise ? 0 : std::min(warp_tiles - in_registers, room);
      layout.register_tiles = static_cast<int>(in_registers);
      layout.shared_tiles = static_cast<int>(in_shared);
      layout.weights = place(kWarps * in_shared * tile_bytes);
      plan.register_bytes += kWarps * in_registers * tile_bytes;
      plan.resident_bytes += kWarps * in_shared * tile_bytes;
      plan.streamed_bytes +=
          kWarps * (warp_tiles - in_registers - in_shared) * tile_bytes * per_tile;
    };
    place_weights(l, m_tiles(),
                  projected ? projected_registers(r, false) : weight_registers(variant, r));
    if (projected) place_weights(plan.projection, 1, projected_registers(r, true));
    plan.shared_bytes = offset;
    // how often a block reads what is exchanged
    const auto readers = [&](int64_t strips) { return variant == Variant::kStream ? strips : 1; };
    const int64_t projection_bytes = projected ? projection_row_bytes() : 0;
    if (ranks > 1 || stepwise)
      plan.exchanged_bytes =
          rows * (row_bytes() * readers(spb) + projection_bytes * readers(projection_spb));
    const int64_t exchanged_row = row_bytes() + projection_bytes;
    if (buffers < 2) plan.workspace_bytes = 2 * tiles * p_.directions * rows * exchanged_row;
    return plan;
  }

  // of the multiplications of one product of a step
  double product_ns(const Plan& plan, const Layout& l, int64_t m_tiles) const {
    const double per_product = p_.precision == Precision::kFp32 ? 3 : 1;
    const double groups_of_rows = static_cast<double>(l.rows) / (8 * plan.row_tiles);
    const double strips = ceil_div(l.strips_per_block, kWarps / l.k_groups);
    const double chain = strips * groups_of_rows * ceil_div(l.k_tiles, l.k_groups) * per_product;
    const double products = chain * m_tiles * plan.row_tiles * kWarps / 4;
    const double operands = static_cast<double>(l.strips_per_block) * l.rows * l.k_tiles * 32;
    return std::max(products * kProductNs, chain * kProductLatencyNs) +
           operands / kSharedBytesPerNs;
  }

  // of waiting for the other blocks
  static double exchange_ns(const Plan& plan) {
    switch (plan.variant) {
      case Variant::kBlock:
        return kBarrierNs;
      case Variant::kCluster:
        return kClusterNs;
      default:
        return plan.stepwise ? kLaunchNs : kGridNs;
    }
  }

  void rate(Plan& plan) const {
    const Layout& l = plan.layout;
    const double groups_of_rows = static_cast<double>(l.rows) / (8 * plan.row_tiles);
    double ns = product_ns(plan, l, m_tiles());
    if (p_.projection > 0) ns += product_ns(plan, plan.projection, 1);
    ns += plan.resident_bytes * groups_of_rows / kSharedBytesPerNs;
    ns += (plan.streamed_bytes + (plan.variant == Variant::kCluster ? 0 : plan.exchanged_bytes)) /
          kL2BytesPerNs;
    ns += exchange_ns(plan) * (p_.projection > 0 ? 2 : 1);
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
  expect(problem.projection >= 0 && problem.projection <= (1 << 24),
         "projection: expected 0 for none, at most 2^24");
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
  if (plan.projection.strips > 0) out << ", two products a step";
  if (plan.launches > 1) out << ", " << plan.launches << " launches";
  if (plan.stepwise) out << ", one launch a step";
  out << "; a block has " << plan.register_bytes / 1024 << " KiB of weights in registers, "
      << plan.resident_bytes / 1024 << " KiB in shared memory and reads "
      << plan.streamed_bytes / 1024 << " KiB from L2 a step";
  return out.str();
}

}  // namespace fast_s2s
