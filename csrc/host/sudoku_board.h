// Sudoku boards as sets of possible digits, and the search for solutions, for the solver and the generator.
//
// A box has `Rows` x `Cols` cells, a band `Rows` rows, and a stack `Cols` columns.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace trm_fast::sudoku {

using Mask = std::uint16_t;  // a set of digits: bit d - 1 is digit d

// Whether the set has at most one digit. Board::exclude relies on it being true for the empty set.
constexpr bool single(Mask m) { return (m & (m - 1)) == 0; }

// A table, because a portable build has no instruction for this.
struct DigitCounts {
  std::array<std::uint8_t, 512> of{};
  constexpr DigitCounts() {
    for (int m = 1; m < 512; ++m) of[m] = static_cast<std::uint8_t>(of[m / 2] + m % 2);
  }
};
inline constexpr DigitCounts kDigitCounts;
inline int digit_count(Mask m) { return kDigitCounts.of[m]; }

// The highest digit of the set, which must not be empty.
inline int highest_digit(Mask m) { return 32 - __builtin_clz(m); }

template <int Rows, int Cols>
struct Geometry {
  static constexpr int kRows = Rows, kCols = Cols, kSize = Rows * Cols, kCells = kSize * kSize;
  static constexpr int kPeers = 2 * (kSize - 1) + (Rows - 1) * (Cols - 1);
  static constexpr Mask kAll = (1 << kSize) - 1;

  std::array<std::array<std::uint8_t, kSize>, 3 * kSize> units{};  // rows, columns, boxes
  std::array<std::array<std::uint8_t, kPeers>, kCells> peers{};

  static constexpr int row(int cell) { return cell / kSize; }
  static constexpr int col(int cell) { return cell % kSize; }
  static constexpr int box(int cell) { return row(cell) / Rows * Rows + col(cell) / Cols; }
  static constexpr bool sees(int a, int b) {
    return a != b && (row(a) == row(b) || col(a) == col(b) || box(a) == box(b));
  }

  constexpr Geometry() {
    std::array<int, 3 * kSize> filled{};
    for (int cell = 0; cell < kCells; ++cell) {
      for (int unit : {row(cell), kSize + col(cell), 2 * kSize + box(cell)})
        units[unit][filled[unit]++] = static_cast<std::uint8_t>(cell);
      int n = 0;
      for (int other = 0; other < kCells; ++other)
        if (sees(cell, other)) peers[cell][n++] = static_cast<std::uint8_t>(other);
    }
  }
};

template <class G>
inline constexpr G kGeometry{};

// The possible digits of each cell, and a list of decided cells whose digits are still to be removed from their peers.
// Naked and hidden singles only shrink the sets, so the result of `propagate` does not depend on the order of its
// steps. This makes ratings comparable between programs.
template <class G>
class Board {
 public:
  Board() { possible_.fill(G::kAll); }

  // Excludes the givens from their peers unit by unit, which takes a third of the time of a place() for each.
  explicit Board(const std::uint8_t* question) {
    std::array<Mask, G::kSize> rows{}, cols{}, boxes{};
    for (int cell = 0; cell < G::kCells; ++cell) {
      if (!question[cell]) continue;
      const Mask digit = static_cast<Mask>(1 << (question[cell] - 1));
      Mask &row = rows[G::row(cell)], &col = cols[G::col(cell)], &box = boxes[G::box(cell)];
      if ((row | col | box) & digit) {  // two givens contradict each other: propagate will return false
        place(cell, 0);
        return;
      }
      possible_[cell] = digit, row |= digit, col |= digit, box |= digit;
    }
    for (int cell = 0; cell < G::kCells; ++cell) {
      if (question[cell]) continue;
      const Mask seen = rows[G::row(cell)] | cols[G::col(cell)] | boxes[G::box(cell)];
      possible_[cell] = G::kAll & static_cast<Mask>(~seen);
      if (single(possible_[cell])) place(cell, possible_[cell]);
    }
  }

  Mask possible(int cell) const { return possible_[cell]; }

  // Decides a cell; `digit` is a set of one digit. If that digit was excluded, the cell's set becomes empty, and
  // propagate returns false.
  void place(int cell, Mask digit) {
    possible_[cell] &= digit;
    todo_[todo_size_++] = static_cast<std::uint8_t>(cell);
  }

  // Removes a digit from a cell. If at most one digit remains, adds the cell to the list. If none remains, propagate
  // returns false.
  void exclude(int cell, Mask digit) {
    const Mask left = possible_[cell] & static_cast<Mask>(~digit);
    if (left != possible_[cell] && single(left)) place(cell, left);
    possible_[cell] = left;
  }

  // Fills in naked and hidden singles until none is left. Returns false on a contradiction; the board is then invalid.
  bool propagate() {
    do {
      while (todo_size_ > 0) {
        const int cell = todo_[--todo_size_];
        const Mask digit = possible_[cell];
        if (!digit) return false;
        for (int peer : kGeometry<G>.peers[cell]) {
          if (!(possible_[peer] & digit)) continue;
          possible_[peer] ^= digit;
          if (!possible_[peer]) return false;
          if (single(possible_[peer])) todo_[todo_size_++] = static_cast<std::uint8_t>(peer);
        }
      }
      for (const auto& unit : kGeometry<G>.units)
        if (!fill_hidden_singles(unit)) return false;
    } while (todo_size_ > 0);
    return true;
  }

  // The first of the undecided cells with the fewest possible digits, or -1 if every cell is decided. The board must be
  // propagated.
  int branching_cell() const {
    int best = -1, fewest = G::kSize + 1;
    for (int cell = 0; cell < G::kCells; ++cell) {
      if (single(possible_[cell])) continue;
      const int n = digit_count(possible_[cell]);
      if (n == 2) return cell;
      if (n < fewest) fewest = n, best = cell;
    }
    return best;
  }

  // Writes the digits of a solved board.
  void write(std::uint8_t* grid) const {
    for (int cell = 0; cell < G::kCells; ++cell) grid[cell] = static_cast<std::uint8_t>(highest_digit(possible_[cell]));
  }

 private:
  template <class Unit>
  bool fill_hidden_singles(const Unit& unit) {
    Mask seen = 0, repeated = 0, decided = 0;
    for (int cell : unit) {
      const Mask m = possible_[cell];
      repeated |= seen & m;
      seen |= m;
      decided |= single(m) ? m : Mask(0);
    }
    if (seen != G::kAll) return false;
    const Mask hidden = seen & static_cast<Mask>(~(repeated | decided));
    if (!hidden) return true;
    for (int cell : unit) {
      const Mask digit = possible_[cell] & hidden;
      if (!digit) continue;
      if (!single(digit)) return false;
      place(cell, digit);
    }
    return true;
  }

  std::array<Mask, G::kCells> possible_{};
  // A cell is added when one digit is left, which happens only once per cell, so the list cannot overflow.
  std::array<std::uint8_t, G::kCells> todo_;
  int todo_size_ = 0;
};

// Counts the solutions of a propagated board, up to `limit`, and writes the first one to `first`. Adds the number of
// values tried to `tried`.
template <class G>
int count_solutions(const Board<G>& board, int limit, std::int32_t& tried, Board<G>& first) {
  const int cell = board.branching_cell();
  if (cell < 0) {
    first = board;
    return 1;
  }
  int found = 0;
  for (Mask left = board.possible(cell); left && found < limit; left &= static_cast<Mask>(left - 1)) {
    ++tried;
    Board<G> next = board;
    next.place(cell, left & static_cast<Mask>(-left));
    if (!next.propagate()) continue;
    Board<G> solution;
    const int below = count_solutions(next, limit - found, tried, solution);
    if (below && !found) first = solution;
    found += below;
  }
  return found;
}

// Writes the first solution, or zeros, and returns the number of solutions (2 means at least 2). The rating is the
// number of values tried at branching cells. Digits must be at most G::kSize.
template <class G>
int solve_one(const std::uint8_t* question, std::uint8_t* solution, std::int32_t& rating) {
  rating = 0;
  Board<G> board(question), first;
  const int found = board.propagate() ? count_solutions(board, 2, rating, first) : 0;
  if (found)
    first.write(solution);
  else
    std::fill_n(solution, G::kCells, std::uint8_t(0));
  return found;
}

}  // namespace trm_fast::sudoku
