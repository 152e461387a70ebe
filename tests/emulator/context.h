// Switching between fibers: a few instructions where we have them, ucontext elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

namespace fast_s2s::emulator {

#if defined(__x86_64__) || defined(__aarch64__)

struct Context {
  void* stack_pointer = nullptr;
};

// Saves what a callee must preserve, goes on where `to` was saved.
extern "C" void fast_s2s_switch(void** from, void* to);

inline void switch_context(Context& from, Context& to) {
  fast_s2s_switch(&from.stack_pointer, to.stack_pointer);
}

// `entry` never returns.
inline void make_context(Context& context, unsigned char* stack, size_t bytes, void (*entry)()) {
  auto* top = reinterpret_cast<uintptr_t*>(reinterpret_cast<uintptr_t>(stack + bytes) & ~15ull);
#if defined(__x86_64__)
  // as if `entry` had been called: a return address below an aligned top, six saved registers
  top -= 2;
  top[0] = reinterpret_cast<uintptr_t>(entry);
  top[1] = 0;
  context.stack_pointer = top - 6;
#else
  // x19..x30 and d8..d15; the link register comes last of the former
  top -= 20;
  top[11] = reinterpret_cast<uintptr_t>(entry);
  context.stack_pointer = top;
#endif
}

#else

struct Context {
  ucontext_t context;
};

inline void switch_context(Context& from, Context& to) { swapcontext(&from.context, &to.context); }

inline void make_context(Context& context, unsigned char* stack, size_t bytes, void (*entry)()) {
  getcontext(&context.context);
  context.context.uc_stack.ss_sp = stack;
  context.context.uc_stack.ss_size = bytes;
  context.context.uc_link = nullptr;
  makecontext(&context.context, entry, 0);
}

#endif

}  // namespace fast_s2s::emulator
