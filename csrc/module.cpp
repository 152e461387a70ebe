// The Python module `fast_s2s._C`: what is not a tensor. Importing it also registers the ops
// (ops.cpp).

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>

#include "cpu/crowding.h"
#include "cpu/isa.h"
#include "cpu/packing_count.h"
#include "decode/decode_plan.h"
#include "lstm/plan.h"

namespace py = pybind11;

namespace {

std::map<std::string, std::string> build_info() {
  std::string isas;
  for (fast_s2s::Isa isa : fast_s2s::available_isas())
    isas += (isas.empty() ? "" : " ") + std::string(fast_s2s::isa_name(isa));
  return {{"cpu isa", fast_s2s::isa_name(fast_s2s::current_isa())},
          {"cpu isas available", isas},
          {"compiler", __VERSION__},
#ifdef FAST_S2S_SANITIZERS
          {"sanitizers", FAST_S2S_SANITIZERS},
#endif
          {"version", FAST_S2S_VERSION}};
}

std::map<std::string, py::object> plan_lstm(const std::string& precision, int64_t hidden,
                                            int64_t batch, int64_t directions, bool backward,
                                            int64_t sms, int64_t shared_bytes, int64_t max_cluster,
                                            bool cooperative, int64_t weight_registers,
                                            const std::string& only, int64_t row_tiles,
                                            int64_t projection) {
  using fast_s2s::Precision;
  using fast_s2s::Variant;
  static const std::map<std::string, Precision> precisions = {{"bf16", Precision::kBf16},
                                                              {"fp16", Precision::kFp16},
                                                              {"tf32", Precision::kTf32},
                                                              {"fp32", Precision::kFp32}};
  static const std::map<std::string, std::optional<Variant>> variants = {
      {"", std::nullopt},
      {"block", Variant::kBlock},
      {"cluster", Variant::kCluster},
      {"grid", Variant::kGrid},
      {"stream", Variant::kStream}};
  if (precisions.count(precision) == 0)
    throw std::invalid_argument("precision: expected bf16, fp16, tf32 or fp32, got " + precision);
  if (variants.count(only) == 0)
    throw std::invalid_argument("only: expected block, cluster, grid or stream, got " + only);
  const fast_s2s::Plan plan = fast_s2s::plan_lstm(
      {sms, shared_bytes, max_cluster, cooperative, weight_registers, variants.at(only), row_tiles},
      {precisions.at(precision), hidden, batch, directions, backward, projection});
  const fast_s2s::Layout& l = plan.layout;
  return {{"variant", py::cast(fast_s2s::variant_name(plan.variant))},
          {"explanation", py::cast(fast_s2s::explain(plan))},
          {"ranks", py::cast(l.ranks)},
          {"strips", py::cast(l.strips)},
          {"strips_per_block", py::cast(l.strips_per_block)},
          {"rows", py::cast(l.rows)},
          {"row_tiles", py::cast(plan.row_tiles)},
          {"k_tiles", py::cast(l.k_tiles)},
          {"k_groups", py::cast(l.k_groups)},
          {"register_tiles", py::cast(l.register_tiles)},
          {"shared_tiles", py::cast(l.shared_tiles)},
          {"projection_strips", py::cast(plan.projection.strips)},
          {"projection_strips_per_block", py::cast(plan.projection.strips_per_block)},
          {"projection_k_tiles", py::cast(plan.projection.k_tiles)},
          {"projection_register_tiles", py::cast(plan.projection.register_tiles)},
          {"projection_shared_tiles", py::cast(plan.projection.shared_tiles)},
          {"tiles", py::cast(plan.tiles)},
          {"launches", py::cast(plan.launches)},
          {"stepwise", py::cast(plan.stepwise)},
          {"shared_bytes", py::cast(plan.shared_bytes)},
          {"workspace_bytes", py::cast(plan.workspace_bytes)},
          {"register_bytes", py::cast(plan.register_bytes)},
          {"resident_bytes", py::cast(plan.resident_bytes)},
          {"streamed_bytes", py::cast(plan.streamed_bytes)},
          {"exchanged_bytes", py::cast(plan.exchanged_bytes)},
          {"estimated_ns", py::cast(plan.estimated_ns)}};
}

std::map<std::string, py::object> plan_decode(
    const std::string& weights, int64_t layers, int64_t hidden, int64_t output, int64_t vocab,
    int64_t inputs, bool projected, bool table, int64_t rows, int64_t width, bool beam, int64_t sms,
    int64_t shared_bytes, int64_t max_cluster, bool cooperative, int64_t row_tiles, int64_t heads,
    int64_t keys, int64_t values, bool additive, bool feeding, int64_t steps) {
  using fast_s2s::WeightType;
  const std::map<std::string, WeightType> types = {{"fp32", WeightType::kFloat32},
                                                   {"bf16", WeightType::kBFloat16},
                                                   {"fp16", WeightType::kFloat16},
                                                   {"int8", WeightType::kInt8}};
  const auto type = types.find(weights);
  if (type == types.end())
    throw std::invalid_argument("weights: expected fp32, bf16, fp16 or int8, got " + weights);
  const fast_s2s::DecodePlan plan = fast_s2s::plan_decode(
      {sms, shared_bytes, max_cluster, cooperative, 128, std::nullopt, row_tiles},
      {type->second, layers, hidden, output, vocab, inputs, projected, table, rows, width, beam,
       heads, keys, values, additive, feeding, steps});
  const fast_s2s::DecodeLayout& l = plan.layout;
  const fast_s2s::DecodeStage last = l.vocabulary();
  return {{"variant", py::cast(fast_s2s::variant_name(plan.variant))},
          {"explanation", py::cast(fast_s2s::explain(plan))},
          {"ranks", py::cast(l.ranks)},
          {"group_rows", py::cast(l.group_rows)},
          {"groups", py::cast(plan.groups)},
          {"launches", py::cast(plan.launches)},
          {"row_tiles", py::cast(plan.row_tiles)},
          {"units", py::cast(last.first + int64_t{last.tiles} * last.units)},
          {"shared_bytes", py::cast(plan.shared_bytes)},
          {"resident_bytes", py::cast(plan.resident_bytes)},
          {"streamed_bytes", py::cast(plan.streamed_bytes)},
          {"memory_bytes", py::cast(plan.memory_bytes)},
          {"estimated_ns", py::cast(plan.estimated_ns)}};
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled part of fast_s2s: op kernels and facts about the build.";
  m.def("build_info", &build_info, "Facts about the build and this machine, name -> value.");
  m.def("set_isa", &fast_s2s::set_isa, py::arg("name"),
        "Changes the instruction set of the LSTM's CPU kernels; for tests, and not for decoders.");
  m.def(
      "panels_packed", [] { return fast_s2s::panels_packed.load(); },
      "How many panels of weights inference with the LSTM has packed so far.");
  using fast_s2s::Crowding;
  py::class_<Crowding>(m, "Crowding", "When calls take one thread because the cores are wanted.")
      .def(py::init<>())
      .def("threads", &Crowding::threads, py::arg("most"), py::arg("now"))
      .def("waited_for", &Crowding::waited_for, py::arg("now"), py::arg("elapsed"),
           py::arg("delayed"));
  m.attr("crowding") = py::cast(&fast_s2s::crowding, py::return_value_policy::reference);
  m.def("waited_for_core", &fast_s2s::waited_for_core,
        "Nanoseconds that this thread has waited for a core, or -1.");
  m.def("plan_lstm", &plan_lstm, "How an LSTM layer is laid over a GPU, name -> value.",
        py::kw_only(), py::arg("precision"), py::arg("hidden"), py::arg("batch"),
        py::arg("directions") = 1, py::arg("backward") = false, py::arg("sms"),
        py::arg("shared_bytes"), py::arg("max_cluster"), py::arg("cooperative") = true,
        py::arg("weight_registers") = 128, py::arg("only") = "", py::arg("row_tiles") = 0,
        py::arg("projection") = 0);
  m.def("plan_decode", &plan_decode, "How a decoder is laid over a GPU, name -> value.",
        py::kw_only(), py::arg("weights"), py::arg("layers"), py::arg("hidden"), py::arg("output"),
        py::arg("vocab"), py::arg("inputs"), py::arg("projected"), py::arg("table"),
        py::arg("rows"), py::arg("width") = 1, py::arg("beam") = false, py::arg("sms"),
        py::arg("shared_bytes"), py::arg("max_cluster"), py::arg("cooperative") = true,
        py::arg("row_tiles") = 0, py::arg("heads") = 0, py::arg("keys") = 0, py::arg("values") = 0,
        py::arg("additive") = false, py::arg("feeding") = false, py::arg("steps") = 0);
}
