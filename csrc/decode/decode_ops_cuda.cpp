// Host side of the decode ops on CUDA: check, allocate, launch. Values on the device are not looked
// at, which would take a copy of them: kernels take what is out of range as not there.

#include "decode_ops.h"

#include <cstdint>
#include <string>

#include "../cuda/launch_shape.h"
#include "decode_tensors_cuda.h"

namespace fast_s2s {
namespace cuda {

using namespace decode_arguments;

namespace {

// The head of the packed weights, of which the bytes are the only thing to hold it against here.
PackedHeader checked_header(const Tensor& packed, const std::vector<int64_t>& numbers) {
  STD_TORCH_CHECK(
      packed.dim() == 1 && packed.is_contiguous() && packed.scalar_type() == ScalarType::Byte,
      "packed: expected what decode_pack gave");
  // a part of another tensor may begin anywhere
  STD_TORCH_CHECK(reinterpret_cast<uintptr_t>(packed.const_data_ptr()) % 16 == 0,
                  "packed: expected a tensor that begins at a multiple of 16 bytes");
  PackedHeader header = header_of(numbers, packed.numel());
  STD_TORCH_CHECK(!header.normed, "header: expected no layer norm, for which CUDA has no kernels");
  DecodeLayout layout{};
  header.bytes = packed_decode_bytes(problem_of(header), layout);
  STD_TORCH_CHECK(header.bytes == packed.numel(), "packed: expected ", header.bytes, " bytes, got ",
                  packed.numel());
  return header;
}

void* input_of(const Tensor& tensor) { return const_cast<void*>(input(tensor)); }

// Arrays that live as long as the call, in two pieces: zero at first, or not yet written.
class Workspace {
 public:
  template <class T>
  void take(T*& to, int64_t count, bool zero = false) {
    wanted_.push_back(
        {reinterpret_cast<void**>(&to), count * static_cast<int64_t>(sizeof(T)), zero});
  }
  void allocate(const Tensor& like) {
    for (bool zero : {true, false}) {
      int64_t bytes = 0;
      for (const Wanted& wanted : wanted_) bytes += wanted.zero == zero ? padded(wanted.bytes) : 0;
      const auto type = ScalarType::Byte;
      Tensor& piece = pieces_.emplace_back(zero ? torch::stable::new_zeros(like, {bytes}, type)
                                                : torch::stable::new_empty(like, {bytes}, type));
      char* at = static_cast<char*>(piece.mutable_data_ptr());
      for (const Wanted& wanted : wanted_) {
        if (wanted.zero != zero) continue;
        declare_memory(at, wanted.bytes, zero ? Access::kState : Access::kOutput);
        *wanted.to = at;
        at += padded(wanted.bytes);
      }
    }
  }

 private:
  struct Wanted {
    void** to;
    int64_t bytes;
    bool zero;
  };
  static int64_t padded(int64_t bytes) { return (bytes + 255) / 256 * 256; }
  std::vector<Wanted> wanted_;
  std::vector<Tensor> pieces_;
};

Device checked_device() {
  try {
    return device_properties();
  } catch (const std::exception& error) {
    STD_TORCH_CHECK(false, error.what());
  }
}

DecodePlan checked_plan(const Device& device, const DecodeProblem& problem) {
  try {
    return plan_decode(device, problem);
  } catch (const std::exception& error) {
    STD_TORCH_CHECK(false, error.what());
  }
}

// As device_properties, after what a plan was made for turned out not to be there.
Device less(Device device, const DecodePlan& plan, int64_t resident) {
  const int64_t ranks = plan.layout.ranks, blocks = plan.groups * ranks;
  if (plan.variant == Variant::kCluster) {
    device.max_cluster = ranks / 2;
  } else if (blocks == 1) {
    // not even one block: none that must be resident
    device.cooperative = false;
  } else {
    device.sms = resident > 0 && resident < blocks ? resident : blocks / 2;
  }
  return device;
}

void take_beams(Workspace& workspace, BeamWorkspace& b, const DecodeArgs& call,
                const DecodeLayout& l) {
  const int64_t slots = call.rows * call.options.width, columns = call.columns + call.max_steps;
  // so that enough are left if all the best end here
  b.num_candidates = std::max<int64_t>(2, 1 + call.rules.eos.size) * call.options.width;
  workspace.take(b.tokens, slots * (1 + columns));
  workspace.take(b.token_scores, slots * columns);
  workspace.take(b.shift, slots);
  workspace.take(b.candidates, call.rows * b.num_candidates * (call.options.sample_beams ? 2 : 1));
  workspace.take(b.nodes, slots);
  workspace.take(b.going_on, slots);
  workspace.take(b.order, slots);
  workspace.take(b.num_ended, call.rows);
  workspace.take(reinterpret_cast<float*&>(b.ended.h), l.states * slots * l.output);
  workspace.take(reinterpret_cast<float*&>(b.ended.c), l.layers * slots * l.hidden);
  workspace.take(b.ended.tokens, slots * (1 + columns));
  workspace.take(b.ended.token_scores, slots * columns);
  workspace.take(b.ended.position, slots);
  workspace.take(b.ended.score, slots);
  workspace.take(b.ended.node, slots);
}

void take_attention(Workspace& workspace, DecodeCudaArgs& args, const DecodePlan& plan) {
  const DecodeLayout& l = plan.layout;
  const int64_t slots = plan.groups * l.slots;
  if (l.additive) workspace.take(args.queries, slots * l.keys);
  workspace.take(args.scores, slots * l.heads * args.call.memory.steps);
  workspace.take(args.contexts, slots * l.values_stride, true);
  if (!l.feeding) workspace.take(args.attended, slots * l.output_stride, true);
}

// The launches of a call, one after another on the stream. Raises NotResident.
void run_planned(const PackedHeader& header, const DecodePlan& plan, const DecodeArgs& call,
                 const Tensor& like) {
  const DecodeLayout& l = plan.layout;
  const int64_t exchanges = (call.max_steps + 1) * (2 * header.layers + 6);
  STD_TORCH_CHECK(exchanges < (int64_t{1} << 32) / l.ranks, "max_steps: expected fewer, got ",
                  call.max_steps);
  DecodeCudaArgs args = {};
  args.call = call;
  args.layout = l;
  Workspace workspace;
  const int64_t groups = plan.groups * plan.launches, slots = plan.groups * l.slots;
  workspace.take(args.h, 2 * slots * l.states * l.output_stride, true);
  workspace.take(args.c, 2 * slots * l.layers * l.hidden_stride, true);
  if (l.projected) workspace.take(args.unprojected, slots * l.hidden_stride, true);
  workspace.take(args.logits, slots * l.logits_stride);
  workspace.take(args.next, 3 * slots);
  workspace.take(args.next_count, plan.groups * l.units);
  workspace.take(args.work, 2 * groups);
  workspace.take(args.counters, groups, true);
  workspace.take(args.finished, call.rows * call.options.width);
  if (l.heads > 0) take_attention(workspace, args, plan);
  if (call.options.strategy == Strategy::kBeam) take_beams(workspace, args.beams, call, l);
  workspace.allocate(like);
  const DecodeCountArgs count{call, args.finished, args.work, groups};
  for (int64_t i = 0; i < plan.launches; ++i) {
    args.first_row = i * plan.groups * l.group_rows;
    check_launch(decode_cuda(header.weights, plan, args, current_stream()));
    args.counters += plan.groups;
    args.work += 2 * plan.groups;
  }
  check_launch(decode_count_cuda(count, current_stream()));
}

// Where the device has no room for the plan's blocks at once, another is made for fewer.
void run(const PackedHeader& header, const DecodeArgs& call, const Tensor& like) {
  DecodeProblem problem = problem_of(header);
  problem.rows = call.rows;
  problem.width = call.options.width;
  problem.beam = call.options.strategy == Strategy::kBeam;
  problem.steps = call.memory.steps;
  Device device = checked_device();
  while (true) {
    const DecodePlan plan = checked_plan(device, problem);
    try {
      run_planned(header, plan, call, like);
      return;
    } catch (const NotResident& error) {
      // ends: there are ever fewer blocks, and at last none that must be resident
      device = less(device, plan, error.resident);
    }
  }
}

}  // namespace

std::vector<Tensor> decode(const Tensor& packed, const std::vector<int64_t>& numbers,
                           const std::vector<Tensor>& state, const std::vector<Tensor>& memory,
                           const std::vector<Tensor>& rules, const std::vector<int64_t>& options,
                           const std::vector<double>& parameters, int64_t max_steps) {
  const PackedHeader header = checked_header(packed, numbers);
  DecodeArgs call{};
  call.options = read_options(options, parameters, header.vocab);
  check_call(state, call.options, max_steps);
  const StateSizes sizes{header.layers,    header.hidden_states(), header.hidden,    header.output,
                         state[2].size(0), state[2].size(1) - 1,   ScalarType::Float};
  call.packed = input(packed);
  call.rows = sizes.slots / call.options.width;
  call.columns = sizes.columns;
  call.max_steps = max_steps;
  const auto check = [&](const Tensor& tensor, const std::string& name, ScalarType type,
                         const std::vector<int64_t>& shape) {
    return checked(tensor, name, type, shape, packed);
  };
  const std::vector<Tensor> checked_memory =
      take_memory(memory, header, call.rows, ScalarType::Float, check);
  call.memory = memory_of(checked_memory, input_of);
  const auto output_of = [](Tensor tensor) { return output(tensor); };
  const bool samples = call.options.strategy == Strategy::kSample || call.options.sample_beams;
  const std::vector<Tensor> checked_rules = take_rules(rules, call.rows, samples, check);
  call.rules = rules_of(checked_rules, input_of);
  const StateTensors begin = take_state(state, 0, "state.", true, sizes, check);
  call.begin = begin.pointers(input_of);
  const StateTensors after = grown(begin, max_steps);
  call.state = after.pointers(output_of);
  std::vector<Tensor> results = after.tensors;
  StateTensors begin_hypotheses{{}, false}, hypotheses{{}, false};
  if (call.options.strategy == Strategy::kBeam) {
    begin_hypotheses = take_state(state, 8, "hypotheses.", false, sizes, check);
    call.begin_hypotheses = begin_hypotheses.pointers(input_of);
    hypotheses = grown(begin_hypotheses, max_steps);
    call.hypotheses = hypotheses.pointers(output_of);
    results.insert(results.end(), hypotheses.tensors.begin(), hypotheses.tensors.end());
  }
  // what no step writes
  const auto room = [&](const std::vector<int64_t>& shape, ScalarType type) {
    results.push_back(empty(begin.tensors[4], shape, type));
    torch::stable::fill_(results.back(), type == ScalarType::Long ? -1 : 0);
    return cuda::state(results.back());
  };
  call.kept = take_kept(options[10], sizes.slots, header, call.memory.steps, max_steps, room);
  results.push_back(torch::stable::new_zeros(begin.tensors[4], {5}, ScalarType::Long));
  call.counts = static_cast<int64_t*>(output(results.back()));
  if (sizes.slots > 0) run(header, call, packed);
  return results;
}

}  // namespace cuda
}  // namespace fast_s2s
