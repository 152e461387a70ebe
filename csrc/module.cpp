// The Python module `fast_s2s._C`: what is not a tensor. Importing it also registers the ops
// (ops.cpp).

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>

#include "cpu/isa.h"

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

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled part of fast_s2s: op kernels and facts about the build.";
  m.def("build_info", &build_info, "Facts about the build and this machine, name -> value.");
}
