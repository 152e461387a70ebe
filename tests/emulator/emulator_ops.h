// Where the emulator's ops register; a mutant of the library does so under another name.
#pragma once

#if !defined(EMULATOR_NAMESPACE)
#define EMULATOR_NAMESPACE fast_s2s_emulator
#endif
