// Blocks of a product in AMX tiles: 16 rows x 16 columns of sums, and 16 slots of each factor. Four tiles hold the sums
// of a block. A factor has one tile for whole groups of slots and one for the slots that remain, because another shape
// needs another configuration, which takes as long as eight products of tiles. Blocks with more than 16 rows have two
// tiles of rows, which overlap if the number of rows is odd, or smaller than the most of the product.
#pragma once

#include <immintrin.h>

#include "core/cpu/pairs.h"

namespace trm_fast {
namespace TRM_FAST_ISA {

constexpr int64_t kTile = 16;  // rows of a tile, and the floats of a row

// The compiler does not know which memory the instructions on tiles read. It must have written it all before them.
inline void finish_writes() { __asm__ volatile("" : : : "memory"); }

struct TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};  // of a row
  uint8_t rows[16] = {};

  void set(int tile, int64_t tile_rows, int64_t floats) {
    bytes[tile] = uint16_t(4 * floats);
    rows[tile] = uint8_t(tile_rows);
  }
};

// Sets all tiles to zero.
inline void configure_tiles(const TileShapes& shapes) {
  finish_writes();
  _tile_loadconfig(&shapes);
}

class BlockMultiplier {
 public:
  // The factor is in slots, (rows, slots) with rows `left.row` floats apart. No block has more than `most_rows` rows,
  // and if there are several, none has fewer than most_rows / 2.
  BlockMultiplier(const Left& left, int64_t most_rows)
      : left_(left), rows_(most_rows > kTile ? (most_rows + 1) / 2 : most_rows) {}
  BlockMultiplier(const BlockMultiplier&) = delete;
  ~BlockMultiplier() { _tile_release(); }

  // Selects slots [k0, k0 + depth) of the factors.
  void select(int64_t k0, int64_t depth) {
    first_slot_ = k0;
    groups_ = depth / kTile;
    const int64_t remaining = depth % kTile;
    if (remaining != remaining_) configure(remaining_ = remaining);
  }

  // Computes one block of the product, (height, kWidth), and writes it to c or adds it to c. Unless `wide`, computes
  // only the first kLanes columns. Rows of c are `ldc` floats apart.
  void compute(int64_t first, int64_t height, const float* panel, bool wide, bool add, float* c, int64_t ldc) const {
    const float* a = left_.data + first * left_.row + first_slot_;
    panel += first_slot_ * kWidth;
    const int64_t second = height - rows_;
    alignas(64) float sums[kRows * kWidth];
    float* to = add ? sums : c;
    const int64_t ld = add ? kWidth : ldc;
    if (second > 0) {
      wide ? multiply<true, true>(a, second, panel, to, ld) : multiply<true, false>(a, second, panel, to, ld);
    } else {
      wide ? multiply<false, true>(a, 0, panel, to, ld) : multiply<false, false>(a, 0, panel, to, ld);
    }
    if (!add) return;
    for (int64_t i = 0; i < height; ++i) {
      for (int64_t v = 0; v < (wide ? kWidth : kLanes); v += kLanes) {
        store_vector(c + i * ldc + v, load_vector(c + i * ldc + v) + load_vector(sums + i * kWidth + v));
      }
    }
  }

 private:
  // Tiles 0 to 3 hold the sums: (rows, columns) 00, 01, 10, 11. Tiles 4 and 5 hold rows of the left factor, 6 and 7
  // those of the right one: whole groups of slots, and the remaining ones.
  void configure(int64_t remaining) const {
    TileShapes shapes;
    for (int sum = 0; sum < 4; ++sum) shapes.set(sum, rows_, kTile);
    shapes.set(4, rows_, kTile);
    shapes.set(6, kTile, kTile);
    if (remaining) shapes.set(5, rows_, remaining), shapes.set(7, remaining, kTile);
    configure_tiles(shapes);
  }

// The intrinsics need the numbers of tiles as literals.
#define TRM_FAST_TILES(left, right)                   \
  _tile_loadd(left, a, row);                          \
  _tile_loadd(right, b, 4 * kWidth);                  \
  _tile_dpbf16ps(0, left, right);                     \
  if constexpr (kTall && !kWide) {                    \
    _tile_loadd(left, a + second * left_.row, row);   \
    _tile_dpbf16ps(2, left, right);                   \
  } else if constexpr (kWide) {                       \
    _tile_loadd(right, b + kLanes, 4 * kWidth);       \
    _tile_dpbf16ps(1, left, right);                   \
    if constexpr (kTall) {                            \
      _tile_loadd(left, a + second * left_.row, row); \
      _tile_dpbf16ps(3, left, right);                 \
      _tile_loadd(right, b, 4 * kWidth);              \
      _tile_dpbf16ps(2, left, right);                 \
    }                                                 \
  }

  // Writes a block to c. If kTall, the second tile of rows starts at row `second`.
  template <bool kTall, bool kWide>
  void multiply(const float* a, int64_t second, const float* b, float* c, int64_t ldc) const {
    const int64_t row = 4 * left_.row;
    finish_writes();
    _tile_zero(0);
    if constexpr (kWide) _tile_zero(1);
    if constexpr (kTall) _tile_zero(2);
    if constexpr (kTall && kWide) _tile_zero(3);
    for (int64_t group = 0; group < groups_; ++group, a += kTile, b += kTile * kWidth) {
      TRM_FAST_TILES(4, 6)
    }
    if (remaining_) {
      TRM_FAST_TILES(5, 7)
    }
    _tile_stored(0, c, 4 * ldc);
    if constexpr (kWide) _tile_stored(1, c + kLanes, 4 * ldc);
    if constexpr (kTall) _tile_stored(2, c + second * ldc, 4 * ldc);
    if constexpr (kTall && kWide) _tile_stored(3, c + second * ldc + kLanes, 4 * ldc);
  }
#undef TRM_FAST_TILES

  const Left left_;
  const int64_t rows_;  // of a tile
  int64_t first_slot_ = 0, groups_ = 0, remaining_ = -1;
};

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
