// The sudoku generator. It removes digits from a random grid in random order, as long as the solution stays unique.
#pragma once

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <utility>

#include "random.h"
#include "sudoku_board.h"

namespace trm_fast::sudoku {

// Fills the board with a random solution. Returns false if it has none.
template <class G>
bool fill(Board<G>& board, Rng& rng) {
  if (!board.propagate()) return false;
  const int cell = board.branching_cell();
  if (cell < 0) return true;
  std::array<Mask, G::kSize> digits;
  int n = 0;
  for (Mask left = board.possible(cell); left; left &= static_cast<Mask>(left - 1))
    digits[n++] = left & static_cast<Mask>(-left);
  rng.shuffle(digits.data(), n);
  for (int i = 0; i < n; ++i) {
    Board<G> next = board;
    next.place(cell, digits[i]);
    if (fill(next, rng)) {
      board = next;
      return true;
    }
  }
  return false;
}

// Removes digits from a solved grid. `question` receives the puzzle, which always has one solution.
template <class G>
class Digger {
 public:
  Digger(std::uint8_t* question, const std::uint8_t* answer) : question_(question) {
    std::copy_n(answer, G::kCells, question);
    for (int cell = 0; cell < G::kCells; ++cell) flip(cell, bit(cell));
  }

  // Removes digits until `givens` are left or all cells were tried. Returns the number of digits left.
  int dig(int givens, Rng& rng) {
    std::array<std::uint8_t, G::kCells> order;
    for (int cell = 0; cell < G::kCells; ++cell) order[cell] = static_cast<std::uint8_t>(cell);
    rng.shuffle(order.data(), G::kCells);
    int left = G::kCells;
    for (int i = 0; i < G::kCells && left > givens; ++i) left -= remove(order[i]);
    return left;
  }

 private:
  Mask bit(int cell) const { return static_cast<Mask>(1 << (question_[cell] - 1)); }

  void flip(int cell, Mask digit) {
    rows_[G::row(cell)] ^= digit;
    cols_[G::col(cell)] ^= digit;
    boxes_[G::box(cell)] ^= digit;
  }

  Mask seen(int cell) const { return rows_[G::row(cell)] | cols_[G::col(cell)] | boxes_[G::box(cell)]; }

  bool remove(int cell) {
    const Mask digit = bit(cell);
    const std::uint8_t given = std::exchange(question_[cell], std::uint8_t(0));
    flip(cell, digit);
    if (forced(cell, digit)) return true;
    Board<G> board(question_), unused;
    board.exclude(cell, digit);
    std::int32_t tried = 0;
    if (!board.propagate() || !count_solutions(board, 1, tried, unused)) return true;
    question_[cell] = given;
    flip(cell, digit);
    return false;
  }

  // Whether the givens make `digit` a naked or hidden single in this cell. This decides most early removals without a
  // search.
  bool forced(int cell, Mask digit) const {
    if ((seen(cell) | digit) == G::kAll) return true;
    for (int unit : {G::row(cell), G::kSize + G::col(cell), 2 * G::kSize + G::box(cell)}) {
      bool alone = true;
      for (int other : kGeometry<G>.units[unit]) alone &= other == cell || question_[other] || (seen(other) & digit);
      if (alone) return true;
    }
    return false;
  }

  std::uint8_t* question_;
  std::array<Mask, G::kSize> rows_{}, cols_{}, boxes_{};
};

// After kPatience attempts with the same number of givens, each attempt draws a new number.
constexpr int kPatience = 100, kAttempts = 20000;

struct Limits {
  int min_givens, max_givens;
  std::int32_t min_rating, max_rating;
};

// Writes one puzzle and its solution, and returns its rating. Throws std::runtime_error after kAttempts attempts. With
// a minimum rating, each attempt removes as many digits as it can, because puzzles that need a search are then common.
template <class G>
std::int32_t generate_one(const Limits& limits, Rng& rng, std::uint8_t* question, std::uint8_t* answer) {
  const bool hard = limits.min_rating > 0;
  int givens = limits.min_givens;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    if (!hard && (attempt == 0 || attempt >= kPatience))
      givens = limits.min_givens + rng.below(limits.max_givens - limits.min_givens + 1);
    Board<G> grid;
    fill(grid, rng);
    grid.write(answer);
    const int left = Digger<G>(question, answer).dig(givens, rng);
    if (left > (hard ? limits.max_givens : givens)) continue;
    std::int32_t rating;
    solve_one<G>(question, answer, rating);
    if (limits.min_rating <= rating && rating <= limits.max_rating) return rating;
  }
  throw std::runtime_error("no puzzle within the limits in " + std::to_string(kAttempts) + " attempts");
}

// Writes the hardest of `tries` random puzzles with this solution: the first one with the highest rating. Each has as
// few givens as its order of removal allows, but at least `min_givens`.
template <class G>
void redraw_one(const std::uint8_t* answer, int min_givens, std::int64_t tries, Rng& rng, std::uint8_t* question) {
  std::int32_t hardest = -1, rating;
  std::array<std::uint8_t, G::kCells> drawn, solution;
  for (std::int64_t i = 0; i < tries; ++i) {
    Digger<G>(drawn.data(), answer).dig(min_givens, rng);
    solve_one<G>(drawn.data(), solution.data(), rating);
    if (rating > hardest) hardest = rating, std::copy(drawn.begin(), drawn.end(), question);
  }
}

}  // namespace trm_fast::sudoku
