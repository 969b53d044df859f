// Mazes on plain arrays: a generator and shortest paths, for any size up to 64 x 64.
//
// A maze is height * width bytes, row by row, in the published token ids: 1 wall, 2 free, 3 start, 4 goal, 5 path.
// Every function is a pure function of its arguments, and trm_fast/tasks/maze/reference.py computes the same bytes.
#pragma once

#include <cstdint>

namespace trm_fast::maze {

constexpr int kLargest = 64;  // rows and columns: a row is one word
constexpr int kUnit = 65536;  // wall densities are whole numbers of 65536ths

enum Cell : std::uint8_t { kWall = 1, kFree, kStart, kGoal, kPath };

struct Shape {
    int height, width;
    int cells() const { return height * width; }
};

struct Limits {
    int min_density, max_density;  // in 65536ths
    int min_distance;
};

// Writes mazes first .. first + count - 1 of the sequence that `seed` names; each depends on (seed, index) alone.
// Throws std::runtime_error where `attempts` draws of one of them are not enough.
void generate(Shape shape, std::int64_t first, std::int64_t count, const Limits& limits, std::uint64_t seed,
              std::int64_t attempts, std::uint8_t* questions, std::uint8_t* answers, std::int32_t* distances);

// answers: the mazes with the path of the published rule. distances: steps from start to goal, -1 without a path (the
// answer then is the maze). A maze has one start and one goal; whatever is not a wall can be walked on.
void solve(Shape shape, std::int64_t count, const std::uint8_t* mazes, std::uint8_t* answers,
           std::int32_t* distances);

// The same distances without the paths, which is faster.
void distances(Shape shape, std::int64_t count, const std::uint8_t* mazes, std::int32_t* distances);

}  // namespace trm_fast::maze
