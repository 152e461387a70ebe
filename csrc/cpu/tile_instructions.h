// The instructions of the matrix unit (AMX): eight tiles, of at most 16 rows of 64 bytes. Included
// for the instruction sets "amx", where they are the processor's, and "amx_emulated".

namespace fast_s2s {
namespace FAST_S2S_ISA {

constexpr int kTileCount = 8;

// What `ldtilecfg` reads: the size of each tile.
struct TileSizes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileSizes) == 64);

#ifndef FAST_S2S_AMX_EMULATED

FAST_S2S_INLINE void tile_configure(const TileSizes& sizes) {
  __asm__ volatile("ldtilecfg %0" ::"m"(sizes) : "memory");
}
FAST_S2S_INLINE void tile_release() { __asm__ volatile("tilerelease"); }

// intrinsics would let the compiler move stores behind the loads that read them
template <int Tile>
FAST_S2S_INLINE void tile_load(const void* from, int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(Tile) : "memory");
}
template <int Tile>
FAST_S2S_INLINE void tile_store(void* to, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(Tile) : "memory");
}
// sums += rows · weights
template <int Sums, int Rows, int Weights>
FAST_S2S_INLINE void tile_multiply() {
  __asm__ volatile("tdpbf16ps %%tmm%c0, %%tmm%c1, %%tmm%c2" ::"i"(Weights), "i"(Rows), "i"(Sums));
}

#else

// The same in C++, after the operations in Intel's Software Developer's Manual, for machines
// without the unit: slow, and there for the tests. What would be an invalid instruction ends the
// process.
struct EmulatedTiles {
  TileSizes sizes;
  bool configured = false;
  VecU rows[kTileCount][16];

  static EmulatedTiles& mine() {
    static thread_local EmulatedTiles tiles;
    return tiles;
  }

  void check(bool valid, const char* instruction) const {
    if (configured && valid) return;
    std::fprintf(stderr, "fast_s2s: %s: invalid on tiles of these sizes\n", instruction);
    std::abort();
  }
};

inline void tile_configure(const TileSizes& sizes) {
  EmulatedTiles& tiles = EmulatedTiles::mine();
  tiles = EmulatedTiles{};
  tiles.sizes = sizes;
  tiles.configured = true;
  for (int tile = 0; tile < kTileCount; ++tile)
    tiles.check(sizes.palette == 1 && sizes.rows[tile] <= 16 && sizes.bytes[tile] <= 64,
                "ldtilecfg");
}
inline void tile_release() { EmulatedTiles::mine() = EmulatedTiles{}; }

// Zeros behind what is loaded.
template <int Tile>
void tile_load(const void* from, int64_t stride) {
  EmulatedTiles& tiles = EmulatedTiles::mine();
  tiles.check(tiles.sizes.rows[Tile] > 0, "tileloadd");
  for (int row = 0; row < 16; ++row) {
    VecU& to = tiles.rows[Tile][row] = VecU{};
    if (row < tiles.sizes.rows[Tile])
      std::memcpy(&to, static_cast<const char*>(from) + row * stride, tiles.sizes.bytes[Tile]);
  }
}

template <int Tile>
void tile_store(void* to, int64_t stride) {
  const EmulatedTiles& tiles = EmulatedTiles::mine();
  tiles.check(tiles.sizes.rows[Tile] > 0, "tilestored");
  for (int row = 0; row < tiles.sizes.rows[Tile]; ++row)
    std::memcpy(static_cast<char*>(to) + row * stride, &tiles.rows[Tile][row],
                tiles.sizes.bytes[Tile]);
}

// Zero in place of what is smaller than the smallest normal number: of operands and of results,
// whatever the thread's mode is.
FAST_S2S_INLINE VecF flushed(VecU bits) {
  return bit_cast<VecF>((bits & 0x7f800000u) == 0 ? bits & 0x80000000u : bits);
}
FAST_S2S_INLINE VecF flushed(VecF x) { return flushed(bit_cast<VecU>(x)); }

// The first and second values of all pairs are summed apart, then together, then added.
template <int Sums, int Rows, int Weights>
void tile_multiply() {
  EmulatedTiles& tiles = EmulatedTiles::mine();
  const TileSizes& sizes = tiles.sizes;
  const int depth = sizes.bytes[Rows] / 4;
  tiles.check(sizes.rows[Rows] == sizes.rows[Sums] && sizes.rows[Weights] == depth &&
                  sizes.bytes[Weights] == sizes.bytes[Sums],
              "tdpbf16ps");
  for (int row = 0; row < sizes.rows[Sums]; ++row) {
    VecF first{}, second{};
    for (int k = 0; k < depth; ++k) {
      const VecU a = VecU{} + tiles.rows[Rows][row][k], w = tiles.rows[Weights][k];
      // fused by -ffp-contract=fast; the products are exact in any case, unless subnormal
      first = flushed(flushed(a << 16) * flushed(w << 16) + first);
      second = flushed(flushed(a & 0xffff0000u) * flushed(w & 0xffff0000u) + second);
    }
    VecU& sums = tiles.rows[Sums][row];
    sums = bit_cast<VecU>(flushed(flushed(sums) + flushed(first + second)));
  }
}

#endif

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
