// The maze generator and shortest paths, on plain arrays, for mazes of up to 64 x 64 cells.
//
// A maze is height * width bytes, row by row, in the published token ids: 1 wall, 2 free, 3 start, 4 goal, 5 path.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "random.h"

namespace trm_fast::maze {

constexpr int kMaxSide = 64;         // a row must fit in one word
constexpr int kDensityUnit = 65536;  // wall densities are multiples of 1 / 65536

enum Cell : std::uint8_t { kWall = 1, kFree, kStart, kGoal, kPath };

struct Shape {
  int height, width;
  int cells() const { return height * width; }
};

struct Limits {
  int min_density, max_density;  // in 65536ths
  int min_distance;
};

inline int bit_count(std::uint64_t bits) { return __builtin_popcountll(bits); }

// The index of the n-th set bit; both count from 0. `bits` must have more than n set bits.
inline int select(std::uint64_t bits, int n) {
  for (; n > 0; --n) bits &= bits - 1;
  return __builtin_ctzll(bits);
}

// ---------------------------------------------------------------------------------------------------------------
// A field is the set of open cells, with one word per row. A step of breadth-first search takes a few operations per
// row, for all its cells at once. A draw of 30 x 30 cells takes about a microsecond, so plain rejection sampling, which
// gives the distribution of the published set, is fast enough.

template <class Row>
struct Field {
  std::array<Row, kMaxSide + 2> open{};  // with a row of walls above and below
};

struct Position {
  int row, col;
};

// The steps from start to goal through open cells, or -1 if there is no path. Visits only rows that the search may have
// reached, and clears the cells that it reaches.
template <class Row>
int distance(Field<Row>& field, int height, Position start, Position goal) {
  if (start.row == goal.row && start.col == goal.col) return 0;
  std::array<std::array<Row, kMaxSide + 2>, 2> fronts{};
  auto* open = field.open.data();
  int top = start.row + 1, bottom = top, current = 0;
  fronts[0][top] = Row(1) << start.col;
  open[top] &= ~fronts[0][top];
  for (int steps = 1;; ++steps, current ^= 1) {
    const Row* front = fronts[current].data();
    Row* next = fronts[current ^ 1].data();
    const int first = std::max(top - 1, 1), last = std::min(bottom + 1, height);
    Row any = 0;
    for (int r = first; r <= last; ++r) {
      const Row reached = (front[r - 1] | front[r + 1] | front[r] << 1 | front[r] >> 1) & open[r];
      next[r] = reached;
      open[r] &= ~reached;
      any |= reached;
    }
    if (!any) return -1;
    if (next[goal.row + 1] >> goal.col & 1) return steps;
    if (next[first]) top = first;
    if (next[last]) bottom = last;
  }
}

// ---------------------------------------------------------------------------------------------------------------
// The published answer: breadth-first search from the start that visits neighbors in the order down, left, right, up.
// Each cell remembers the cell that first reached it, and the path is traced back from the goal.

// Writes the maze with its path to `answer` and returns the steps from start to goal. If there is no path, writes the
// maze unchanged and returns -1. The maze must have one start and one goal. All cells except walls are open.
inline int mark_path(Shape shape, const std::uint8_t* maze, std::uint8_t* answer) {
  std::array<int, kMaxSide * kMaxSide> parent, queue;
  const int cells = shape.cells(), width = shape.width;
  std::copy_n(maze, cells, answer);
  const int start = static_cast<int>(std::find(maze, maze + cells, kStart) - maze);
  const int goal = static_cast<int>(std::find(maze, maze + cells, kGoal) - maze);
  std::fill_n(parent.begin(), cells, -1);
  queue[0] = parent[start] = start;
  for (int head = 0, tail = 1; head < tail && parent[goal] < 0; ++head) {
    const int cell = queue[head], col = cell % width;
    const auto reach = [&](bool inside, int other) {
      if (!inside || maze[other] == kWall || parent[other] >= 0) return;
      parent[other] = cell;
      queue[tail++] = other;
    };
    reach(cell + width < cells, cell + width);
    reach(col > 0, cell - 1);
    reach(col + 1 < width, cell + 1);
    reach(cell >= width, cell - width);
  }
  if (parent[goal] < 0) return -1;
  int steps = 1;
  for (int cell = parent[goal]; cell != start; cell = parent[cell], ++steps) answer[cell] = kPath;
  return steps;
}

// ---------------------------------------------------------------------------------------------------------------
// The generator. A draw uses a fixed number of random words, so that the Python reference can compute many draws at
// once.

constexpr int kDigits = 16;  // in the binary representation of a wall density

template <class Row>
class Generator {
 public:
  Generator(Shape shape, const Limits& limits) : shape_(shape), limits_(limits) {}

  std::int32_t generate(Rng& rng, std::int64_t attempts, std::uint8_t* question) {
    Field<Row> field;
    for (std::int64_t attempt = 0; attempt < attempts; ++attempt) {
      const int free = draw(rng);
      const std::uint64_t s = rng.word() >> 32, g = rng.word() >> 32;
      if (free < 2) continue;
      const int start = static_cast<int>(s * static_cast<std::uint64_t>(free) >> 32);
      int goal = static_cast<int>(g * static_cast<std::uint64_t>(free - 1) >> 32);
      goal += goal >= start;
      const Position from = nth_free(start), to = nth_free(goal);
      field = field_;
      const int steps = distance(field, shape_.height, from, to);
      if (steps < limits_.min_distance) continue;
      write(question, from, to);
      return steps;
    }
    throw std::runtime_error("no maze with the required distance in " + std::to_string(attempts) + " draws");
  }

 private:
  // Draws a wall density within the limits, and a field with it. Returns the number of free cells.
  int draw(Rng& rng) {
    const unsigned density = limits_.min_density + rng.below(limits_.max_density - limits_.min_density + 1);
    std::array<std::uint64_t, kMaxSide * kMaxSide / 64 + 1> walls;
    const int words = (shape_.cells() + 63) / 64;
    for (int w = 0; w < words; ++w) {
      // Sets each bit with a probability of density / 65536: compares 64 random numbers with the density at once, from
      // the lowest binary digit to the highest.
      std::uint64_t bits = 0;
      for (int digit = 0; digit < kDigits; ++digit) {
        const std::uint64_t random = rng.word();
        bits = density >> digit & 1 ? bits | random : bits & random;
      }
      walls[w] = bits;
    }
    walls[words] = 0;
    int free = 0;
    const std::uint64_t all = shape_.width == 64 ? ~std::uint64_t(0) : (std::uint64_t(1) << shape_.width) - 1;
    for (int r = 0, bit = 0; r < shape_.height; ++r, bit += shape_.width) {
      const int shift = bit % 64;
      std::uint64_t row = walls[bit / 64] >> shift;
      if (shift) row |= walls[bit / 64 + 1] << (64 - shift);
      row = ~row & all;
      field_.open[r + 1] = static_cast<Row>(row);
      free += bit_count(row);
    }
    return free;
  }

  Position nth_free(int n) const {
    for (int r = 0;; ++r) {
      const int count = bit_count(field_.open[r + 1]);
      if (n < count) return {r, select(field_.open[r + 1], n)};
      n -= count;
    }
  }

  void write(std::uint8_t* maze, Position start, Position goal) const {
    for (int r = 0; r < shape_.height; ++r)
      for (int c = 0; c < shape_.width; ++c) maze[r * shape_.width + c] = field_.open[r + 1] >> c & 1 ? kFree : kWall;
    maze[start.row * shape_.width + start.col] = kStart;
    maze[goal.row * shape_.width + goal.col] = kGoal;
  }

  Shape shape_;
  Limits limits_;
  Field<Row> field_;
};

}  // namespace trm_fast::maze
